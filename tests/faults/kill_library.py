"""Kills by a library that is loaded before all others: `kill_at.c`, compiled as it is needed.

It counts over all threads, and can end a write after half of it, which strace cannot; and it stops
no call, so that a point takes a fraction of the time.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from faults import forks
from faults.forks import Point

SOURCE = Path(__file__).with_name("kill_at.c")
_LOADED = "FAULTS_KILL_LIBRARY"


def can_load() -> bool:
    """Whether the library can be made here."""
    return bool(shutil.which("gcc"))


def is_loaded() -> bool:
    """Whether this process has the library."""
    return bool(os.environ.get(_LOADED))


def start_with(folder: Path, name: str = "kill_points") -> None:
    """Start a command of `faults` again with the library, which is made in a folder."""
    library = folder / "kill_at.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    paths = {"LD_PRELOAD": str(library), _LOADED: str(folder)}
    module = [sys.executable, "-m", f"faults.{name}", *sys.argv[1:]]
    os.execve(sys.executable, module, {**os.environ, **paths})


def clean_up() -> None:
    """Remove the folder that `start_with` was given; what is loaded stays."""
    shutil.rmtree(os.environ[_LOADED], ignore_errors=True)


def points_of(body: Callable[[], object], paths: Sequence[str], output: Path) -> list[Point]:
    """The calls of an undisturbed run on files whose paths begin so, and each write twice."""
    log = output.with_suffix(".calls")
    code = forks.undisturbed(partial(_armed, body, paths, None, log), output)
    if code:
        raise RuntimeError(f"a run ended with {code}: {output.read_text()}")
    calls = log.read_text().split()
    points = [Point(call, number) for number, call in enumerate(calls, 1)]
    return points + [
        Point(point.call, point.number, torn=True) for point in points if "write" in point.call
    ]


def killed(body: Callable[[], object], point: Point, paths: Sequence[str], output: Path) -> int:
    """Exit code of a run that is killed at a point."""
    return forks.undisturbed(partial(_armed, body, paths, point, None), output)


def _armed(
    body: Callable[[], object], paths: Sequence[str], point: Point | None, log: Path | None
) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if log else -1
    first, second = (path.encode() for path in paths)
    number, torn = (point.number, point.torn) if point else (0, False)
    ctypes.CDLL(None).arm(first, second, ctypes.c_long(number), int(torn), stream)
    body()
