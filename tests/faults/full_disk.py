"""Runs whose disk is full, fails, or may not be written: they end with one clear error and no
`_SUCCESS`, and the same command ends right once there is space.

    PYTHONPATH=tests:benchmarks python -m faults.full_disk --save FILE.json [--only WAY ...]
        [--points N] [--seconds N]

Ways: `space`, a tmpfs of each size in steps of 16 KiB (as root); `size`, RLIMIT_FSIZE at each of
these sizes; the others let calls on the output fail by the library of `kill_library` (gcc), each in
its turn: a write with ENOSPC and all after it, and a write, a sync, a read with EIO, an open, a
rename, a folder, a removal with EROFS. Points are those of a run; `--points` takes so many of each.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faults import forks, kill_library
from faults.kill_checks import contents, differences, problems
from faults.kill_scenarios import SCENARIOS as SMALL
from faults.kill_scenarios import Scenario, Workplace, write_inputs

from engine.errors import EngineError

STEP, LARGE_STEP = 4 << 10, 64 << 10
SOME = ("large", "fresh", "fresh with journals", "resumed with journals", "overwrite",
        "two workers", "fresh, jsonl", "one file", "all changes, resumed")  # fmt: skip
SPACE, SIZE = "space", "size"


def _enlarged(folder: Path) -> None:
    """A file more, whose kept column makes a part of a megabyte."""
    rows = ({"id": 1000 + n, "text": "uno", "body": f"word{n} " * 2500} for n in range(64))
    lines = map(json.dumps, rows)
    (folder / "in" / "large.jsonl").write_text("\n".join(lines))


LARGE = "large"
SCENARIOS = SMALL | {
    LARGE: Scenario({"keep": ("id", "body"), "compression": "none"}, change=_enlarged)
}


@dataclass(frozen=True)
class Fault:
    """Calls that fail: those whose names begin with `kind`; with `lasting`, all from one on."""

    kind: str
    number: int
    lasting: bool = False
    inputs: bool = False


FAULTS = {
    "write ENOSPC": Fault("write", errno.ENOSPC, lasting=True),
    "pwrite ENOSPC": Fault("pwrite", errno.ENOSPC, lasting=True),
    "write EIO": Fault("write", errno.EIO),
    "pwrite EIO": Fault("pwrite", errno.EIO),
    "fsync EIO": Fault("fsync", errno.EIO),
    "fdatasync EIO": Fault("fdatasync", errno.EIO),
    "read EIO": Fault("read", errno.EIO),
    "read of inputs EIO": Fault("read", errno.EIO, inputs=True),
    "open EROFS": Fault("open", errno.EROFS, lasting=True),
    "rename EROFS": Fault("rename", errno.EROFS, lasting=True),
    "mkdir EROFS": Fault("mkdir", errno.EROFS, lasting=True),
    "unlink EROFS": Fault("unlink", errno.EROFS, lasting=True),
    "ftruncate EIO": Fault("ftruncate", errno.EIO),
}


class Failing:
    """One scenario: its state before the run that fails, and what has to come out at the end.

    Args:
        place: Where it runs.
        scenario: What runs.
    """

    def __init__(self, place: Workplace, scenario: Scenario) -> None:
        self.place, self.scenario = place, scenario
        self.output = place.folder / "output.txt"
        self.before = place.folder / "before"
        for folder in (place.root, self.before):
            _emptied(folder)
        write_inputs(place.root / "in")
        if scenario.earlier is not None:
            self._run(scenario.earlier, scenario.earlier_batches)
        scenario.change(place.root)
        shutil.copytree(place.root, self.before, dirs_exist_ok=True)
        self.finished_before = bool(problems_or_success(self.before, scenario.name))
        self._run(scenario.settings)
        self.expected = contents(place.root)

    def _run(self, settings: Mapping[str, Any], batches: int = 0) -> None:
        body = partial(self.place.run, self.scenario, settings, batches)
        if code := forks.undisturbed(body, self.output):
            raise RuntimeError(f"a run ended with {code}: {self.output.read_text()[-1500:]}")

    def reset(self) -> None:
        """Put everything back to how it was before the run that fails."""
        _emptied(self.place.root)
        shutil.copytree(self.before, self.place.root, dirs_exist_ok=True)

    def attempt(self, prepare: Callable[[], object], mend: Callable[[], object]) -> list[str]:
        """Run with a fault, look at what is left, mend and run again: what is wrong."""
        code = forks.undisturbed(partial(self._attempt, prepare), self.output)
        wrong = [text for text in self._told(code) if text]
        wrong += problems(self.place.root, self.scenario.name)
        mend()
        body = partial(self.place.run, self.scenario, self.scenario.settings)
        if code := forks.undisturbed(body, self.output):
            return [*wrong, f"started again, ended with {code}: {self.output.read_text()[-500:]}"]
        wrong += [f"finished: {p}" for p in problems(self.place.root, self.scenario.name)]
        return wrong + differences(contents(self.place.root), self.expected)

    def _attempt(self, prepare: Callable[[], object]) -> None:
        prepare()
        try:
            self.place.run(self.scenario, self.scenario.settings)
        except EngineError as error:
            text = json.dumps([error.message, error.hint, error.exit_code]) + "\n"
            os.write(1, text.encode())
            os._exit(7)

    def _told(self, code: int) -> Iterator[str]:
        """What is wrong with how a run that could not write has ended."""
        text = self.output.read_text(errors="replace")
        self.failed = code == 7
        if code == 7:
            message, hint, exit_code = json.loads(text.splitlines()[-1])
            yield "" if message and hint and exit_code == 1 else f"told: {message!r} {hint!r}"
            yield "" if "\n" not in message else f"told in several lines: {message!r}"
        elif code:
            yield f"ended with {code}: {text[-700:]}"


def problems_or_success(root: Path, name: str) -> bool:
    """Whether an output has a `_SUCCESS`."""
    out = root / (name if (root / name).is_dir() else f".{name}.run")
    return (out / "_SUCCESS").exists()


def _emptied(folder: Path) -> None:
    """A folder with nothing in it; it may be a mount."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def can_mount(folder: Path) -> bool:
    """Whether a tmpfs may be mounted here."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@contextmanager
def mounted(folder: Path) -> Iterator[Callable[[int], None]]:
    """A tmpfs on a folder while the body runs, which is given what sets its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)

    def resize(size: int) -> None:
        options = f"remount,size={size}"
        subprocess.run(["mount", "-o", options, str(folder)], check=True, capture_output=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(failing: Failing, figures: dict[str, Any], limits: Limits) -> None:
    """Run on a disk of each size, from what is there before on."""
    with mounted(failing.place.root) as resize:
        step = LARGE_STEP if failing.scenario is SCENARIOS[LARGE] else STEP
        for size in limits.some([n * step for n in range(1, 200)]):
            resize(64 << 20)
            failing.reset()
            taken = shutil.disk_usage(failing.place.root).used
            resize(taken + size)
            wrong = failing.attempt(_nothing, partial(resize, 64 << 20))
            note(figures, failing, f"{size >> 10} KiB free", wrong)
            if not failing.failed:
                break


def limit_size(failing: Failing, figures: dict[str, Any], limits: Limits) -> None:
    """Run with a largest size of files."""
    for size in limits.some([n * STEP // 16 for n in range(1, 400)]):
        failing.reset()
        both = (size, resource.RLIM_INFINITY)
        wrong = failing.attempt(partial(resource.setrlimit, resource.RLIMIT_FSIZE, both), _nothing)
        note(figures, failing, f"files of {size} bytes", wrong)
        if not failing.failed:
            break


def fail_calls(failing: Failing, fault: Fault, figures: dict[str, Any], limits: Limits) -> None:
    """Let each call of a kind on the output fail."""
    root, name = failing.place.root, failing.scenario.name
    paths = [str(root / name), str(root / f".{name}.run")]
    if fault.inputs:
        paths = [str(root / "in"), str(root / "in")]
    failing.reset()
    log = failing.output.with_suffix(".calls")
    forks.undisturbed(partial(_armed, failing, fault, paths, 0, log), failing.output)
    numbers = list(range(1, len(log.read_text().split()) + 1))
    figures["points"] = len(numbers)
    for number in limits.some(numbers):
        failing.reset()
        wrong = failing.attempt(partial(_arm, fault, paths, number, None), _nothing)
        note(figures, failing, f"call {number}", wrong)


def _arm(fault: Fault, paths: list[str], number: int, log: Path | None) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if log else -1
    library = ctypes.CDLL(None)
    library.fail(fault.kind.encode(), fault.number, int(fault.lasting))
    first, second = (path.encode() for path in paths)
    library.arm(first, second, ctypes.c_long(number), 0, stream)


def _armed(failing: Failing, fault: Fault, paths: list[str], number: int, log: Path) -> None:
    _arm(fault, paths, number, log)
    failing.place.run(failing.scenario, failing.scenario.settings)


def _nothing() -> None:
    pass


def note(figures: dict[str, Any], failing: Failing, point: str, wrong: list[str]) -> None:
    """Count one point."""
    figures["tried"] += 1
    figures["failed"] += failing.failed
    figures["wrong"] += [f"{point}: {text}" for text in wrong]


@dataclass(frozen=True)
class Limits:
    """How many points of each scenario and way, 0 for all, and when to end."""

    points: int
    deadline: float

    def some(self, points: list[int]) -> Iterator[int]:
        """The points to try, in order, until the time is over."""
        few = points
        if self.points and len(points) > self.points:
            few = sorted(random.Random(0).sample(points, self.points))
        for point in few:
            if time.monotonic() > self.deadline:
                return
            yield point


def main() -> None:
    """Try all ways over all scenarios; exit with 1 where something was wrong."""
    options = _options()
    ways = options.only or [SPACE, SIZE, *FAULTS]
    if set(ways) & set(FAULTS) and kill_library.can_load() and not kill_library.is_loaded():
        kill_library.start_with(Path(tempfile.mkdtemp(prefix="faults-library-")), "full_disk")
    limits = Limits(options.points, time.monotonic() + options.seconds)
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-disk-") as scratch:
        place = Workplace(Path(scratch))
        for name in options.scenarios or SOME:
            failing = Failing(place, SCENARIOS[name])
            for way in ways:
                empty = {"points": 0, "tried": 0, "failed": 0, "wrong": []}
                figures = result.setdefault(way, {}).setdefault(name, empty)
                _try(failing, way, figures, limits)
                print(name, way, figures["tried"], figures["failed"], figures["wrong"], flush=True)
            _save(options.save, result)
    if kill_library.is_loaded():
        kill_library.clean_up()
    sys.exit(1 if any(f["wrong"] for ways in result.values() for f in ways.values()) else 0)


def _try(failing: Failing, way: str, figures: dict[str, Any], limits: Limits) -> None:
    if way == SPACE:
        if can_mount(failing.place.folder / "mount"):
            fill(failing, figures, limits)
    elif way == SIZE:
        limit_size(failing, figures, limits)
    elif kill_library.is_loaded():
        fail_calls(failing, FAULTS[way], figures, limits)


def _save(file: Path | None, result: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    if not file:
        return
    from machine import describe

    sums = {}
    for way, scenarios in result.items():
        counts: Counter[str] = Counter()
        for figures in scenarios.values():
            counts.update(tried=figures["tried"], failed=figures["failed"])
            counts.update(wrong=len(figures["wrong"]))
        sums[way] = dict(counts)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe(), "ways": sums, "scenarios": result}
    file.write_text(json.dumps(content, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", nargs="*", choices=(SPACE, SIZE, *FAULTS))
    parser.add_argument("--scenarios", nargs="*", choices=SCENARIOS)
    parser.add_argument("--points", type=int, default=0, help="of each scenario and way; 0 for all")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
