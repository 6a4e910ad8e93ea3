"""Whether the engine calls anybody: a run, an export, a bench and others, traced for sockets.

    PYTHONPATH=tests python -m faults.network --save FILE.json [--points NAME ...] [--seconds 20]

Each command runs with an empty home folder and, when it has done its work, stays for some seconds,
since ONNX Runtime's reports begin ten seconds after it is imported. `strace` follows all threads
and child processes. Where there is no strace, Python's own audit events are watched, and the home
folder: ONNX Runtime makes a device id there as it is imported. Both find the reports once they are
asked for (the point "asked-for"), so that what they do not find is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.core import vendor_telemetry
from engine.demo import BUNDLE, CHECKPOINT, corpus

ROOT = Path(__file__).resolve().parents[2]
BEGINS_SECONDS = 10
"""How long after its import ONNX Runtime looks its maker's host up."""

_MAIN = """
import sys, time
seconds, watched = float(sys.argv.pop(1)), sys.argv.pop(1)
if watched:
    from faults.network import watch
    watch(watched)
from engine.cli import main
try:
    main()
finally:
    time.sleep(seconds)
"""
# Calls that name another address than one of this machine's own processes.
_CALLS = r"\b(socket|connect|bind|sendto|sendmsg|sendmmsg|getsockname|getpeername)\("
_LOCAL = r"AF_UNIX|AF_NETLINK|AF_LOCAL"
_OWN_CACHE = ".cache/corpus-engine/"
_RESOLVER = r"/etc/(resolv\.conf|hosts|gai\.conf)"


@dataclass(frozen=True)
class Point:
    """A command, and what it called.

    Attributes:
        calls: Calls that open or use a socket of another family than AF_UNIX, or read the
            resolver's files.
        home: Files that were left in the home folder, but for the engine's own cache.
        rc: Exit code.
    """

    name: str
    calls: tuple[str, ...]
    home: tuple[str, ...]
    rc: int
    seconds: float
    output: str

    @property
    def silent(self) -> bool:
        return not self.calls and not self.home


def commands(folder: Path, recipe: str = "int8") -> dict[str, list[str]]:
    """The points: what is traced; its corpus is in the folder, and what it writes."""
    inputs = folder / "corpus"
    corpus.write(inputs, 40)
    run = ["run", str(BUNDLE), str(inputs), "--on-error", "reject", "--text", "text"]
    return {
        "run": [*run, "-o", str(folder / "run"), "--workers", "2"],
        "tokenizers": [*run, "-o", str(folder / "tokenizers"), "--tokenizers", "1"],
        "export": [
            "export", str(CHECKPOINT), "-o", str(folder / "bundle"),
            "--task", "translation_es_to_pt", "--recipe", recipe,
        ],
        "bench": ["bench", "demo", "--limit", "20", "--rounds", "1", "--workers", "1",
                  "--budgets", "512"],
        "tune": ["tune", str(_copied(BUNDLE, folder / "tuned")), "--seconds", "2"],
        "doctor": ["doctor"],
    }  # fmt: skip


def _copied(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder)
    return folder


def trace(
    name: str, arguments: Sequence[str], folder: Path, seconds: float, env: Mapping[str, str] = {}
) -> Point:
    """Run a command of the engine, and see what it calls while it works and for `seconds` after."""
    home, log = folder / f"home-{name}", folder / f"{name}.log"
    home.mkdir()
    strace = [
        "strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log),
        "-e", "trace=%network,open,openat,openat2",
    ] if can_trace() else []  # fmt: skip
    watched = "" if strace else str(log)
    command = [*strace, sys.executable, "-c", _MAIN, str(seconds), watched, *arguments]
    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder,
        env=_environment(home) | dict(env), timeout=600,
    )  # fmt: skip
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    files = tuple(sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()))
    files = tuple(file for file in files if not file.startswith(_OWN_CACHE))
    spent = round(time.monotonic() - started, 1)
    calls = tuple(calls_of(lines)) if strace else tuple(lines)
    return Point(name, calls, files, done.returncode, spent, done.stdout + done.stderr)


def calls_of(lines: Sequence[str]) -> list[str]:
    """The lines of a trace that are calls to another machine, or look a name up."""
    return [
        line
        for line in lines
        if (re.search(_CALLS, line) and not re.search(_LOCAL, line) and "-1 EBADF" not in line)
        or re.search(_RESOLVER, line)
    ]


def can_trace() -> bool:
    """Whether strace is here and may follow a process."""
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-f", "-qq", "-o", os.devnull, "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def watch(file: str) -> None:
    """Write socket calls of this process's Python code to a file, and whether ONNX Runtime is
    imported while its switch is not set."""
    log = Path(file)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        wrong = event.startswith("socket.") and not (
            event == "socket.__new__" and arguments[1] == 1  # AF_UNIX
        )
        wrong |= event == "import" and arguments[0] == "onnxruntime" and not _switched_off()
        if wrong:
            with log.open("a") as lines:
                lines.write(f"{event} {arguments[0]!r}\n")

    sys.addaudithook(hear)


def _switched_off() -> bool:
    return all(os.environ.get(name) == "1" for name in vendor_telemetry.SWITCHES)


def _environment(home: Path) -> dict[str, str]:
    """This environment without any switch, and with an empty home folder."""
    hidden = {*vendor_telemetry.SWITCHES, vendor_telemetry.ASKED_FOR, "DISABLE_TELEMETRY"}
    hidden |= {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME", "HF_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return kept | {"HOME": str(home), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> None:
    """Trace every command for twice the time after which reports begin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--points", nargs="*")
    parser.add_argument("--seconds", type=float, default=2.0 * BEGINS_SECONDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-network-") as scratch:
        folder = Path(scratch)
        points = [(name, command, {}) for name, command in commands(folder).items()]
        points.append(("asked-for", ["doctor"], {vendor_telemetry.ASKED_FOR: "1"}))
        points = [p for p in points if not given.points or p[0] in given.points]
        with ThreadPoolExecutor(3) as pool:
            traced = list(
                pool.map(lambda p: trace(p[0], p[1], folder, given.seconds, p[2]), points)
            )
    _report(traced, given.save)


def _report(points: Sequence[Point], file: Path | None) -> None:
    sys.path.append(str(ROOT / "benchmarks"))
    from machine import describe

    rows = [{**asdict(point), "calls": len(point.calls)} for point in points]
    for row in rows:
        row.pop("output")
        print(f"{row['name']:12} rc {row['rc']}  {row['seconds']:5} s  calls {row['calls']}  "
              f"home {', '.join(row['home']) or '-'}")  # fmt: skip
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": describe(), "traced_by": "strace" if can_trace() else "audit events"}
        file.write_text(json.dumps(result | {"points": rows}, indent=2) + "\n")
    wrong = [p.name for p in points if p.silent == (p.name == "asked-for")]
    if wrong:
        sys.exit(f"called somebody, or should have and did not: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
