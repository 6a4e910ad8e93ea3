"""The runs that `faults.kill_points` kills: what lies there before, what changes, what follows."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.ma
import onnxruntime
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
from support.fakes import (
    FakeBackend,
    make_bundle,
    open_bundle,
    texts,
    write_arrow,
    write_jsonl,
    write_parquet,
)

from engine.demo import BUNDLE
from engine.errors import OtherRunError
from engine.pipeline import Bundle
from engine.runner import conversion, coordinator, joining, journal, store_run, worker
from engine.runtime import backend

TASKS = ("feature-extraction", "translation")
SETTINGS: dict[str, Any] = {
    "text": ("text",), "keep": ("id",), "on_error": "reject", "window": 8, "batch_tokens": 64,
    "workers": 1, "split_size": 700,
}  # fmt: skip
IMPORTED = (
    numpy.ma, onnxruntime, pyarrow.csv, pyarrow.json,
    backend, conversion, joining, store_run, worker,
)  # fmt: skip
"""What a run imports on its way; here, so that no fork has to."""
REFUSED = 12
"""Exit code of a run that the output folder is refused to, since it holds another."""
Settings = Mapping[str, Any]
Change = Callable[[Path], object]


def _nothing(folder: Path) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """A run to be killed.

    Attributes:
        settings: Of the run that is killed, and of the one after it.
        earlier: Settings of a run before; None for none.
        earlier_batches: How many batches that run computes before it is killed; 0 for all.
        change: What happens to the inputs between the earlier run and the one that is killed.
        later: What happens to the inputs, or to the output, after the kill.
        journals: Whether each batch is recorded and synced at once.
        again: Settings of the run after the kill, where they are others.
        points: Whether it is killed at points, too, not only at random.
        name: Of the output, a folder or a file.
    """

    settings: Settings = field(default_factory=dict)
    earlier: Settings | None = None
    earlier_batches: int = 0
    change: Change = _nothing
    later: Change = _nothing
    task: str = TASKS[0]
    journals: bool = False
    again: Settings | None = None
    points: bool = True
    name: str = "out"


def write_inputs(folder: Path) -> None:
    """Five files of several kinds, one of two splits, with bad rows; ids count on over all."""
    rows: list[str | None] = [*texts(62, seed=3, longest=6)]
    for bad in (3, 17, 18, 40):
        rows[bad] = None
    write_jsonl(folder / "a.jsonl", rows[:20], 0)
    write_parquet(folder / "b.parquet", rows[20:30], 20)
    lines = write_jsonl(folder / "c.jsonl", rows[30:42], 30)
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes(), mtime=0))
    lines.unlink()
    ids = pa.array(range(42, 52), pa.int64())
    write_arrow(folder / "d.arrow", pa.table({"id": ids, "text": rows[42:52]}))
    write_jsonl(folder / "e" / "f.jsonl", rows[52:], 52)


def _added(folder: Path) -> None:
    write_jsonl(folder / "in" / "aa.jsonl", texts(9, seed=5), 100)


def _removed(folder: Path) -> None:
    (folder / "in" / "a.jsonl").unlink()


def _renamed(folder: Path) -> None:
    (folder / "in" / "b.parquet").rename(folder / "in" / "bb.parquet")
    (folder / "in" / "e").rename(folder / "in" / "g")


def _shrunk(folder: Path) -> None:
    file = folder / "in" / "a.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))


def _all_changed(folder: Path) -> None:
    for change in (_shrunk, _renamed, _added):
        change(folder)
    (folder / "in" / "d.arrow").unlink()


def _with_notes(folder: Path) -> None:
    """Files of the user's in the output folder, one of them named almost as parts are."""
    for name in ("notes.txt", "part-x.txt", "sub/part-00000-a.arrow"):
        file = folder / "out" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")


def _damaged(folder: Path) -> None:
    part = min((folder / "out").glob("part-*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


_OTHER = {"keep": ("id", "_file", "_row"), "format": "parquet"}
SCENARIOS = {
    "fresh": Scenario(),
    "fresh with journals": Scenario(journals=True),
    "fresh, jsonl": Scenario({"format": "jsonl", "keep": ("id", "_file", "_row")}),
    "resumed": Scenario(earlier={}, earlier_batches=6),
    "resumed with journals": Scenario(earlier={}, earlier_batches=5, journals=True),
    "input added": Scenario(earlier={}, change=_added),
    "input removed": Scenario(earlier={}, change=_removed),
    "inputs renamed": Scenario(earlier={}, change=_renamed),
    "input shrunk": Scenario(earlier={}, change=_shrunk),
    "all changes, resumed": Scenario(earlier={}, earlier_batches=7, change=_all_changed),
    "killed, then added": Scenario(later=_added),
    "killed, then removed": Scenario(later=_removed),
    "killed, then renamed": Scenario(later=_renamed),
    "killed, then shrunk": Scenario(later=_shrunk),
    "renamed, killed, all changes": Scenario(earlier={}, change=_renamed, later=_shrunk),
    "overwrite": Scenario(
        {**_OTHER, "overwrite": True}, earlier={}, change=_with_notes, journals=True
    ),
    "overwrite of a part of a run": Scenario(
        {"overwrite": True}, earlier=_OTHER, earlier_batches=6, journals=True
    ),
    "overwrite, then the earlier run": Scenario(
        {**_OTHER, "overwrite": True}, earlier={}, again={}
    ),
    "part damaged": Scenario({"check_parts": True}, earlier={}, change=_damaged),
    "limit": Scenario({"limit": 35}, earlier={"limit": 35}, change=_all_changed),
    "two workers": Scenario({"workers": 2}),
    "two workers with journals": Scenario(
        {"workers": 2}, earlier={"workers": 2}, earlier_batches=5, journals=True
    ),
    "translation, two workers": Scenario({"workers": 2}, task=TASKS[1], journals=True),
    "demo bundle, a process that tokenizes": Scenario(
        {"workers": 2, "tokenizers": 1}, task="demo", journals=True, points=False
    ),
    "one file": Scenario(name="out.parquet"),
    "one file, inputs changed": Scenario(earlier={}, change=_all_changed, name="out.parquet"),
}


class Workplace:
    """A folder in which a scenario's inputs, its output and the bundles lie, at the same paths for
    every point."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "work"
        self.bundles = {task: make_bundle(folder / "bundles" / task, task) for task in TASKS}

    def run(self, scenario: Scenario, settings: Settings, batches: int = 0) -> None:
        """Run in this process; with batches, end it without a word before one more is computed."""
        if scenario.journals:
            journal.LAZY_SECONDS = journal.SYNC_SECONDS = 0.0

        def before(call: int) -> None:
            if batches and call >= batches:
                os._exit(0)

        out = self.root / scenario.name
        try:
            coordinator.run(
                self._model(scenario, before), [self.root / "in"], out, **{**SETTINGS, **settings}
            )
        except OtherRunError as error:
            print(error)
            os._exit(REFUSED)

    def _model(self, scenario: Scenario, before: Callable[[int], None]) -> Bundle | Path:
        if scenario.task == "demo":
            return BUNDLE
        return open_bundle(self.bundles[scenario.task], FakeBackend(before=before))
