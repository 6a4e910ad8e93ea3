"""Runs killed at every open, write, sync, rename, unlink and mkdir in their output, and at random.

    PYTHONPATH=tests python -m faults.kill_points --save FILE.json [--only SCENARIO ...]
        [--by strace|library ...] [--points N] [--random N] [--seconds N] [--folder FOLDER]

After each kill, what `_SUCCESS` names must be there and right; then the run is started again,
undisturbed, and must leave the files, and the bytes of parts and bad rows, that a run leaves which
was never killed. Kills at points are by strace or by a library (`kill_library`), which can tear
writes; those at random are of the process group. What FILE has already is not tried again: the same
command goes on where --seconds ended it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faults import forks, kill_library
from faults.kill_checks import Contents, contents, differences, problems
from faults.kill_scenarios import REFUSED, SCENARIOS, Scenario, Workplace, write_inputs

STRACE, LIBRARY, RANDOM = "strace", "library", "random"


class Killing:
    """One scenario: its state before the run that is killed, and what has to come out.

    Args:
        place: Where it runs.
        scenario: What runs.
    """

    def __init__(self, place: Workplace, scenario: Scenario) -> None:
        self.place, self.scenario = place, scenario
        self.output = place.folder / "output.txt"
        self.before = place.folder / "before"
        self._prepare()
        self.expected = self._expect()
        self.wrong_before = problems(self.before, scenario.name)

    def _prepare(self) -> None:
        root, scenario = self.place.root, self.scenario
        for folder in (root, self.before):
            shutil.rmtree(folder, ignore_errors=True)
        write_inputs(root / "in")
        if scenario.earlier is not None:
            self._run(scenario.earlier, scenario.earlier_batches)
        scenario.change(root)
        shutil.copytree(root, self.before)

    def _expect(self) -> Contents:
        """What the last run leaves where nothing was before, and the user's own files."""
        root, scenario = self.place.root, self.scenario
        scenario.later(root)
        for left in root.iterdir():
            if left.name != "in":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        started = time.monotonic()
        self._run(self._again())
        self.seconds = time.monotonic() - started
        users = {name: data for name, data in contents(self.before).items() if data == b"mine"}
        return {**contents(root), **users}

    def _again(self) -> Mapping[str, Any]:
        again = self.scenario.again
        return self.scenario.settings if again is None else again

    def _run(self, settings: Mapping[str, Any], batches: int = 0) -> None:
        code = forks.undisturbed(self.body(settings, batches), self.output)
        if code:
            raise RuntimeError(f"a run ended with {code}: {self.output.read_text()[-1500:]}")

    def body(self, settings: Mapping[str, Any], batches: int = 0) -> partial[None]:
        """A run in this process, to be forked."""
        return partial(self.place.run, self.scenario, settings, batches)

    def reset(self) -> None:
        """Put everything back to how it was before the run that is killed."""
        shutil.rmtree(self.place.root, ignore_errors=True)
        shutil.copytree(self.before, self.place.root)

    def points(self, way: str) -> list[forks.Point]:
        """All points of the run in its output."""
        self.reset()
        find = kill_library.points_of if way == LIBRARY else forks.points_of
        return find(self.body(self.scenario.settings), self._paths(), self.output)

    def kill_at(self, way: str, point: forks.Point) -> tuple[bool, list[str]]:
        """Kill the run at a point, and start it again: whether it was killed, and what is wrong."""
        self.reset()
        body = self.body(self.scenario.settings)
        if way == LIBRARY:
            code = kill_library.killed(body, point, self._paths(), self.output)
        else:
            code = forks.killed(body, point, self.output)
        return code == forks.KILLED, self.after(code)

    def _paths(self) -> list[str]:
        names = (self.scenario.name, f".{self.scenario.name}.run")
        return [str(self.place.root / name) for name in names]

    def kill_after(self, seconds: float) -> tuple[bool, list[str]]:
        """Kill the run's process group after some time, as `kill_at`."""
        self.reset()
        code = forks.killed_after(self.body(self.scenario.settings), seconds, self.output)
        return code == forks.KILLED, self.after(code)

    def after(self, code: int) -> list[str]:
        """Start the run again after it ended so: what is wrong before and after."""
        root, name = self.place.root, self.scenario.name
        if code not in (0, forks.KILLED):
            return [f"ended with {code}: {self.output.read_text()[-500:]}"]
        wrong = [p for p in problems(root, name) if p not in self.wrong_before]
        self.scenario.later(root)
        again = self._again()
        code = forks.undisturbed(self.body(again), self.output)
        if code == REFUSED and (self.scenario.again is not None or self._has_later()):
            # The folder holds nothing but answers that the run has no input or settings for.
            code = forks.undisturbed(self.body({**again, "overwrite": True}), self.output)
        if code:
            return [*wrong, f"started again, ended with {code}: {self.output.read_text()[-500:]}"]
        wrong += [f"finished: {problem}" for problem in problems(root, name)]
        return wrong + differences(contents(root), self.expected)

    def _has_later(self) -> bool:
        return self.scenario.later.__name__ != "_nothing"


class Figures:
    """What has been tried, by scenario, kept in a file.

    Args:
        file: Where it is kept; None for nowhere.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        there = json.loads(file.read_text()) if file and file.exists() else {}
        self.scenarios: dict[str, dict[str, Any]] = there.get("scenarios", {})

    def of(self, name: str, way: str) -> dict[str, Any]:
        """Of one scenario and one way to kill; to be changed."""
        ways = self.scenarios.setdefault(name, {})
        empty = {"points": 0, "tried": 0, "killed": 0, "calls": {}, "torn": 0, "wrong": []}
        return ways.setdefault(way, empty)

    def total(self, way: str, name: str) -> int:
        """A figure, over all scenarios."""
        return sum(ways[way][name] for ways in self.scenarios.values() if way in ways)

    def wrong(self) -> list[str]:
        """All that was wrong, with its scenario and point."""
        return [
            f"{name}, by {way}: {text}"
            for name, ways in self.scenarios.items()
            for way, figures in ways.items()
            for text in figures["wrong"]
        ]

    def save(self) -> None:
        """Write the file, with the machine and the sums."""
        if not self.file:
            return
        from machine import describe

        names = ("points", "tried", "killed", "torn")
        sums = {
            way: {name: self.total(way, name) for name in names}
            for way in (STRACE, LIBRARY, RANDOM)
        }
        result = {"machine": describe(), **sums, "wrong": len(self.wrong())}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**result, "scenarios": self.scenarios}, indent=2) + "\n")


@dataclass(frozen=True)
class Limits:
    """How many kills of each scenario, 0 points for all, and when to end."""

    points: int
    random: int
    deadline: float

    def is_over(self) -> bool:
        """Whether the time is."""
        return time.monotonic() > self.deadline


def kill_at_points(killing: Killing, way: str, figures: dict[str, Any], limits: Limits) -> None:
    """Kill a scenario's run at its points, but for those that were tried before."""
    points = killing.points(way)
    random.Random(0).shuffle(points)  # some of them are of all kinds
    figures["points"] = len(points)
    calls = Counter(figures["calls"])
    for point in points[figures["tried"] : limits.points or None]:
        if limits.is_over():
            break
        killed, wrong = killing.kill_at(way, point)
        figures["tried"] += 1
        figures["killed"] += killed
        figures["torn"] += killed and point.torn
        calls[point.call] += killed
        figures["wrong"] += [f"{point}: {text}" for text in wrong]
    figures["calls"] = dict(sorted(calls.items()))


def kill_at_random(name: str, killing: Killing, figures: dict[str, Any], limits: Limits) -> None:
    """Kill a scenario's run, and what it has started, at random times; some come after its end."""
    while figures["killed"] < limits.random and not limits.is_over():
        drawn = random.Random(f"{name} {figures['tried']}").random()
        killed, wrong = killing.kill_after(drawn * killing.seconds)
        figures["tried"] += 1
        figures["killed"] += killed
        figures["wrong"] += [f"after {drawn:.2f} of the time: {text}" for text in wrong]


def main() -> None:
    """Kill every scenario's run at its points and at random; exit with 1 where one came out
    wrong."""
    options = _options()
    ways = options.by or [STRACE, LIBRARY][: 1 + kill_library.can_load()]
    if LIBRARY in ways and not kill_library.is_loaded():
        kill_library.start_with(Path(tempfile.mkdtemp(prefix="faults-kill-library-")))
    limits = Limits(options.points, options.random, time.monotonic() + options.seconds)
    figures = Figures(options.save)
    with tempfile.TemporaryDirectory(prefix="faults-kill-", dir=options.folder) as scratch:
        place = Workplace(Path(scratch))
        for name in options.only or SCENARIOS:
            if not limits.is_over():
                _kill(name, place, ways, figures, limits)
    if kill_library.is_loaded():
        kill_library.clean_up()
    for text in figures.wrong():
        print(text)
    sys.exit(1 if figures.wrong() else 0)


def _kill(
    name: str, place: Workplace, ways: Sequence[str], figures: Figures, limits: Limits
) -> None:
    """Kill one scenario's runs, and save what came out."""
    killing = Killing(place, SCENARIOS[name])
    for way in ways if SCENARIOS[name].points else ():
        kill_at_points(killing, way, figures.of(name, way), limits)
    kill_at_random(name, killing, figures.of(name, RANDOM), limits)
    figures.save()
    print(name, {way: own["killed"] for way, own in figures.scenarios[name].items()}, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS)
    parser.add_argument("--by", nargs="*", choices=(STRACE, LIBRARY))
    parser.add_argument("--points", type=int, default=0, help="of each scenario; 0 for all")
    parser.add_argument("--random", type=int, default=8, help="kills of each scenario")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, help="where to run; on a tmpfs syncs are fast")
    return parser.parse_args()


if __name__ == "__main__":
    main()
