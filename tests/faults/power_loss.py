"""What a power loss may leave of a run, at every moment of it, and whether the next start mends it.

    PYTHONPATH=tests python -m faults.power_loss --save FILE.json [--only SCENARIO ...]
        [--points N] [--seconds N] [--folder FOLDER]

A run is recorded by strace, once for each scenario. After each of its calls on the output the model
of `faults.disk_states` says what the disk may hold: four extremes (all lost, all there, names over
zeros, contents under earlier names), and all states, or EACH drawn with a seed where they are more.
Equal states count once. --points of them are tried, 0 for all, in an order drawn with a seed: an
eighth from after the end, then an extreme and another by turns.

A state is built where the run was. What `_SUCCESS` names must be there and right; the run is then
started again, undisturbed, and must leave the names and bytes of one that was never disturbed.
After the run has ended, all it has answered must be there in every state, before the next start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import forks
from faults.call_traces import record
from faults.disk_states import Disk, Tree, digest
from faults.kill_checks import contents, differences
from faults.kill_points import Killing
from faults.kill_scenarios import SCENARIOS, Workplace

EACH = 64
SOME = (
    "fresh", "fresh with journals", "resumed with journals", "overwrite", "inputs renamed",
    "all changes, resumed", "one file", "one file, inputs changed",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """What may be on the disk after so many calls; whether it is an extreme, and whether the run
    had ended."""

    calls: int
    tree: Tree
    extreme: bool
    ended: bool


class Losing:
    """One scenario: its run, recorded, and what has to come out.

    Args:
        place: Where it runs.
        name: Of the scenario.
    """

    def __init__(self, place: Workplace, name: str) -> None:
        self.killing = Killing(place, SCENARIOS[name])
        self.name, self.root = name, place.root
        self.killing.reset()
        body = self.killing.body(self.killing.scenario.settings)
        self.calls = record(body, self.root, self.killing.output)
        self._dates = _dates(self.killing.before) | _dates(self.root)

    def states(self) -> tuple[list[State], int]:
        """All states, each once; and at how many calls they were drawn from more."""
        disk = Disk(self.root, self.killing.before, "in")
        known: set[bytes] = set()
        states, drawn = [], 0
        for count in range(len(self.calls) + 1):
            if count:
                disk.apply(self.calls[count - 1])
            ended = count == len(self.calls)
            drawn += disk.count() > EACH
            extremes = [(tree, True) for tree in disk.extremes()]
            others = ((tree, False) for tree in disk.states(EACH, f"{self.name} {count}"))
            for tree, extreme in itertools.chain(extremes, others):
                if (of := digest(tree) + bytes([ended])) not in known:
                    known.add(of)
                    states.append(State(count, tree, extreme, ended))
        return states, drawn

    def recover(self, state: State) -> list[str]:
        """Build a state and start the run again: what is wrong."""
        self._build(state.tree)
        wrong = []
        if state.ended:
            lost = differences(contents(self.root), self.killing.expected)
            wrong = [f"after the end: {text}" for text in lost if "left over" not in text]
        return wrong + self.killing.after(forks.KILLED)

    def _build(self, tree: Tree) -> None:
        for path in self.root.iterdir():
            if path.name != "in":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, data in tree.items():
            path = self.root / name
            if data is None:
                path.mkdir()
                continue
            path.write_bytes(data)
            # A size and a date that are right must not hide bytes that are not.
            if date := self._dates.get(name):
                os.utime(path, ns=(date, date))


def _dates(root: Path) -> dict[str, int]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in files}


def try_states(losing: Losing, points: int, deadline: float) -> dict[str, Any]:
    """Recover from a scenario's states, until the time is over."""
    states, drawn = losing.states()
    figures: dict[str, Any] = {
        "calls": len(losing.calls), "calls_with_states_drawn": drawn, "states": len(states),
        "extremes": sum(state.extreme for state in states), "tried": 0, "extremes_tried": 0,
        "after_the_end": 0, "wrong": [],
    }  # fmt: skip
    for state in _ordered(states, points, losing.name)[: points or None]:
        if time.monotonic() > deadline:
            break
        wrong = losing.recover(state)
        figures["tried"] += 1
        figures["extremes_tried"] += state.extreme
        figures["after_the_end"] += state.ended
        figures["wrong"] += [f"after call {state.calls}: {text}" for text in wrong]
    return figures


def _ordered(states: list[State], points: int, seed: str) -> list[State]:
    shuffled = random.Random(seed).sample(states, len(states))
    ended = [state for state in shuffled if state.ended]
    extremes = [state for state in shuffled if state.extreme and not state.ended]
    others = [state for state in shuffled if not state.extreme and not state.ended]
    pairs = itertools.zip_longest(extremes, others)
    turns = [state for pair in pairs for state in pair if state]
    first = max(1, points // 8) if points else len(ended)
    return ended[:first] + turns + ended[first:]


def main() -> None:
    """Recover from the states of all scenarios; exit with 1 where one came out wrong."""
    options = _options()
    if not forks.can_trace():
        sys.exit("strace is not here, or may not attach")
    started = time.monotonic()
    names = options.only or SOME
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-power-", dir=options.folder) as scratch:
        place = Workplace(Path(scratch))
        for number, name in enumerate(names, 1):
            deadline = started + options.seconds * number / len(names)
            results[name] = try_states(Losing(place, name), options.points, deadline)
            print(name, results[name], flush=True)
            _save(options.save, results)
    sys.exit(1 if any(figures["wrong"] for figures in results.values()) else 0)


def _save(file: Path | None, results: Mapping[str, Mapping[str, Any]]) -> None:
    if not file:
        return
    from machine import describe

    sums = {
        name: sum(figures[name] for figures in results.values())
        for name in ("calls", "states", "extremes", "tried", "extremes_tried", "after_the_end")
    }
    wrong = sum(len(figures["wrong"]) for figures in results.values())
    content = {"machine": describe(), **sums, "wrong": wrong, "scenarios": results}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS)
    parser.add_argument("--points", type=int, default=120, help="of each scenario; 0 for all")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, help="where to run; on a tmpfs syncs are fast")
    return parser.parse_args()


if __name__ == "__main__":
    main()
