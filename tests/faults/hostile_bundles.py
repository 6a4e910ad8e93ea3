"""Hostile bundles: each is refused, soon, in little memory, and nothing outside of it is opened.

    PYTHONPATH=tests python -m faults.hostile_bundles --save FILE.json [--points NAME ...]

Each point is a bundle of `hostile_cases`, whose description agrees with its files. It is refused
twice. A fork of this process, which has the engine imported, loads it and makes its stages: seconds
and memory are of that. And `engine run` is given it: what is printed and the exit code are of that,
and `strace` follows it and the process that it tries the bundle in. Files that are opened must be
Python's, the system's, the bundle's own and the run's; beside the bundle lies a file with a secret,
at which many of them point.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.hostile_cases import CASES, Case
from support import small_bundles as bundles

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret beside the bundle"
MOST_SECONDS, MOST_BYTES = 2.0, 500 << 20
_SYSTEM = (
    "/usr/", "/lib", "/proc/", "/sys/", "/dev/", "/opt/", "/etc/ld.so", "/etc/localtime",
    "/etc/ssl/", "/etc/nsswitch.conf", "/etc/passwd", "/etc/os-release",
)  # fmt: skip
_OPENED = re.compile(r'\b(?:open|openat|openat2|creat)\((?:\S+, )?"((?:[^"\\]|\\.)*)".*\) = \d')


@dataclass(frozen=True)
class Point:
    """A hostile bundle, and what came of it.

    Attributes:
        refused: The command ended with an error of the engine that says what was expected.
        seconds: Of loading it, the start of Python left out.
        peak_bytes: Of the largest process's resident memory.
        command_seconds: Of the command, traced.
        opened: Files outside of the bundle that it opened; None where nothing was traced.
    """

    name: str
    refused: bool
    rc: int
    seconds: float
    peak_bytes: int
    command_seconds: float
    opened: tuple[str, ...] | None
    message: str


def can_trace() -> bool:
    """Whether strace is here and may follow a process."""
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-f", "-qq", "-o", os.devnull, "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def attempt(case: Case, folder: Path, traced: bool) -> Point:
    """Run a case in an empty folder."""
    bundle, outside, home = folder / "bundle", folder / "outside", folder / "home"
    outside.mkdir(parents=True)
    home.mkdir()
    (outside / "secret").write_text(SECRET)
    case.base(bundle)
    case.change(bundle)
    seconds, peak = _refused(bundle, home)
    (home / "rows.jsonl").write_text('{"text": "uno"}\n')
    command = [
        sys.executable, "-m", "engine", "run", str(bundle), str(home / "rows.jsonl"),
        "-o", str(home / "out"), "--device", "cpu",
    ]  # fmt: skip
    log = folder / "strace.log"
    if traced:
        trace = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-o", str(log)]
        command = [*trace, "-e", "trace=open,openat,openat2,creat", *command]
    started = time.monotonic()
    code, output = _printed(command, home)
    ended = time.monotonic()
    refused = (
        code in (1, 2)
        and case.said in output
        and "hint:" in output
        and "Traceback" not in output
        and SECRET not in output
        and "\x1b" not in output
    )
    opened = tuple(sorted(set(_outside(log, folder, bundle, home)))) if traced else None
    shown = output.replace(str(folder), "").strip()[:400]
    taken = (round(seconds, 3), peak, round(ended - started, 2))
    return Point(case.name, refused, code, *taken, opened, shown)


def _refused(bundle: Path, home: Path) -> tuple[float, int]:
    """Seconds in which a fork of this process refuses a bundle, and bytes of the largest process;
    infinite where it does not refuse it."""
    from engine.bundle import tuned
    from engine.errors import EngineError
    from engine.pipeline import Bundle

    started = time.monotonic()
    if not (fork := os.fork()):
        os.environ["CORPUS_ENGINE_CACHE"] = str(home / "none")
        try:
            Bundle.load(bundle, device="cpu").stages({})
            tuned.load(bundle)
        except EngineError:
            os._exit(0)
        finally:
            os._exit(1)
    _, status, usage = os.wait4(fork, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = time.monotonic() - started
    return (float("inf") if status else seconds), usage.ru_maxrss * unit


def _printed(command: Sequence[str], home: Path) -> tuple[int, str]:
    """A command's exit code, and what it printed."""
    env = {**os.environ, "HOME": str(home), "CORPUS_ENGINE_CACHE": str(home / "cache")}
    env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "10000", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def _outside(log: Path, folder: Path, bundle: Path, home: Path) -> Iterator[str]:
    """Files that were opened and are neither the bundle's, the run's nor Python's."""
    allowed = [*_SYSTEM, f"{bundle}", f"{home}", f"{ROOT}", sys.prefix, sys.base_prefix]
    allowed += [str(Path(sys.executable).resolve().parents[1])]
    for line in log.read_text(errors="replace").splitlines():
        if found := _OPENED.search(line):
            path = os.path.normpath(os.path.join(os.getcwd(), found[1]))
            if path.startswith(f"{folder}/outside") or not path.startswith(tuple(allowed)):
                yield path


def run(names: Sequence[str] = (), traced: bool | None = None) -> list[Point]:
    """The points, all or those of these names."""
    traced = can_trace() if traced is None else traced
    points = []
    for case in CASES:
        if not names or case.name in names:
            with tempfile.TemporaryDirectory() as folder:
                points.append(attempt(case, Path(folder) / "case", traced))
    return points


def load_seconds(times: int = 10) -> dict[str, float]:
    """Median seconds of opening a good bundle: the first time, and again."""
    from engine.pipeline import Bundle

    first, again = [], []
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundles.demo(Path(folder) / "bundle")
        before = os.environ.get("CORPUS_ENGINE_CACHE")
        try:
            Bundle.load(bundle, device="cpu", check=False)
            for number in range(times):
                os.environ["CORPUS_ENGINE_CACHE"] = str(Path(folder) / f"cache{number}")
                for seconds in (first, again):
                    started = time.monotonic()
                    Bundle.load(bundle, device="cpu")
                    seconds.append(time.monotonic() - started)
        finally:
            os.environ.pop("CORPUS_ENGINE_CACHE", None)
            if before is not None:
                os.environ["CORPUS_ENGINE_CACHE"] = before
    return {
        "first": round(statistics.median(first), 3),
        "again": round(statistics.median(again), 3),
    }


def summary(points: Sequence[Point]) -> dict[str, Any]:
    """The figures of all points together."""
    return {
        "bundles": len(points),
        "refused": sum(point.refused for point in points),
        "within_seconds": sum(point.seconds <= MOST_SECONDS for point in points),
        "median_seconds": statistics.median(point.seconds for point in points),
        "most_seconds": max(point.seconds for point in points),
        "median_command_seconds": statistics.median(p.command_seconds for p in points),
        "most_megabytes": round(max(point.peak_bytes for point in points) / 2**20),
        "opened_outside": sum(len(point.opened or ()) for point in points),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path)
    parser.add_argument("--points", nargs="*", default=())
    given = parser.parse_args()
    from machine import describe

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import onnxruntime  # noqa: F401  # before the forks
    import tokenizers  # noqa: F401

    traced, points = can_trace(), run(given.points)
    figures = {**summary(points), "load_seconds": load_seconds()}
    for point in points:
        if not point.refused or point.opened:
            print("NOT REFUSED" if not point.refused else "OPENED", point)
    print(json.dumps(figures, indent=2))
    if given.save:
        result = {
            "machine": describe(),
            "traced_by": "strace" if traced else "nothing",
            "summary": figures,
            "points": [asdict(point) for point in points],
        }
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
