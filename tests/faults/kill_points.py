"""Runs killed at every open, write, sync, rename, unlink and mkdir in their output, and at random.

    PYTHONPATH=tests python -m faults.kill_points --save FILE.json [--only SCENARIO ...]
        [--points N] [--random N] [--seconds N] [--folder FOLDER]

After each kill, what `_SUCCESS` names must be there and right; then the run is started again,
undisturbed, and must leave the files, and the bytes of parts and bad rows, that a run leaves which
was never killed. Every kill at a point is by strace, every random one of the process group. What
FILE has already is not tried again: the same command goes on where --seconds ended it.
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
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from faults import forks
from faults.kill_checks import Contents, contents, differences, problems
from faults.kill_scenarios import REFUSED, SCENARIOS, Scenario, Workplace, write_inputs


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
        code = forks.undisturbed(self._body(settings, batches), self.output)
        if code:
            raise RuntimeError(f"a run ended with {code}: {self.output.read_text()[-1500:]}")

    def _body(self, settings: Mapping[str, Any], batches: int = 0) -> partial[None]:
        return partial(self.place.run, self.scenario, settings, batches)

    def reset(self) -> None:
        """Put everything back to how it was before the run that is killed."""
        shutil.rmtree(self.place.root, ignore_errors=True)
        shutil.copytree(self.before, self.place.root)

    def points(self) -> list[forks.Point]:
        """All points of the run in its output."""
        self.reset()
        names = (self.scenario.name, f".{self.scenario.name}.run")
        paths = [str(self.place.root / name) for name in names]
        return forks.points_of(self._body(self.scenario.settings), paths, self.output)

    def kill_at(self, point: forks.Point) -> tuple[bool, list[str]]:
        """Kill the run at a point, and start it again: whether it was killed, and what is wrong."""
        self.reset()
        code = forks.killed(self._body(self.scenario.settings), point, self.output)
        return code == forks.KILLED, self._after(code)

    def kill_after(self, seconds: float) -> tuple[bool, list[str]]:
        """Kill the run's process group after some time, as `kill_at`."""
        self.reset()
        code = forks.killed_after(self._body(self.scenario.settings), seconds, self.output)
        return code == forks.KILLED, self._after(code)

    def _after(self, code: int) -> list[str]:
        root, name = self.place.root, self.scenario.name
        if code not in (0, forks.KILLED):
            return [f"ended with {code}: {self.output.read_text()[-500:]}"]
        wrong = [p for p in problems(root, name) if p not in self.wrong_before]
        self.scenario.later(root)
        again = self._again()
        code = forks.undisturbed(self._body(again), self.output)
        if code == REFUSED and (self.scenario.again is not None or self._has_later()):
            # The folder holds nothing but answers that the run has no input or settings for.
            code = forks.undisturbed(self._body({**again, "overwrite": True}), self.output)
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

    def of(self, name: str) -> dict[str, Any]:
        """Of one scenario; to be changed."""
        empty = {"points": 0, "tried": 0, "killed": 0, "calls": {}, "random": 0, "random_killed": 0}
        return self.scenarios.setdefault(name, {**empty, "wrong": []})

    def total(self, name: str) -> int:
        """A figure, over all scenarios."""
        return sum(figures[name] for figures in self.scenarios.values())

    def wrong(self) -> list[str]:
        """All that was wrong, with its scenario and point."""
        return [f"{name}, {w}" for name, own in self.scenarios.items() for w in own["wrong"]]

    def save(self) -> None:
        """Write the file, with the machine and the sums."""
        if not self.file:
            return
        from machine import describe

        names = ("points", "tried", "killed", "random", "random_killed")
        sums = {name: self.total(name) for name in names} | {"wrong": len(self.wrong())}
        result = {"machine": describe(), "traced_by": "strace", **sums}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**result, "scenarios": self.scenarios}, indent=2) + "\n")


def kill_at_points(killing: Killing, figures: dict[str, Any], count: int, deadline: float) -> None:
    """Kill a scenario's run at all its points, or at `count` of them, but for those that were
    tried before."""
    points = killing.points()
    random.Random(0).shuffle(points)  # some of them are of all kinds
    figures["points"] = len(points)
    calls = Counter(figures["calls"])
    for point in points[figures["tried"] : count or None]:
        if time.monotonic() > deadline:
            break
        killed, wrong = killing.kill_at(point)
        figures["tried"] += 1
        figures["killed"] += killed
        calls[point.call] += killed
        figures["wrong"] += [f"{point.call} {point.number}: {text}" for text in wrong]
    figures["calls"] = dict(sorted(calls.items()))


def kill_at_random(
    name: str, killing: Killing, figures: dict[str, Any], count: int, deadline: float
) -> None:
    """Kill a scenario's run, and what it has started, at random times up to `count` times."""
    for number in range(figures["random"], count):
        if time.monotonic() > deadline:
            break
        seconds = random.Random(f"{name} {number}").uniform(0.0, killing.seconds)
        killed, wrong = killing.kill_after(seconds)
        figures["random"] += 1
        figures["random_killed"] += killed
        figures["wrong"] += [f"after {seconds:.3f} s: {text}" for text in wrong]


def main() -> None:
    """Kill every scenario's run at its points and at random; exit with 1 where one came out
    wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS)
    parser.add_argument("--points", type=int, default=0, help="of each scenario; 0 for all")
    parser.add_argument("--random", type=int, default=8, help="kills of each scenario")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, help="where to run; on a tmpfs syncs are fast")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    figures = Figures(options.save)
    with tempfile.TemporaryDirectory(prefix="faults-kill-", dir=options.folder) as scratch:
        place = Workplace(Path(scratch))
        for name in options.only or SCENARIOS:
            if time.monotonic() > deadline:
                break
            scenario, of_scenario = SCENARIOS[name], figures.of(name)
            killing = Killing(place, scenario)
            if scenario.points:
                kill_at_points(killing, of_scenario, options.points, deadline)
            kill_at_random(name, killing, of_scenario, options.random, deadline)
            figures.save()
            print(name, {k: v for k, v in of_scenario.items() if k != "wrong"}, flush=True)
    for text in figures.wrong():
        print(text)
    sys.exit(1 if figures.wrong() else 0)


if __name__ == "__main__":
    main()
