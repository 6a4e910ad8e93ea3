"""Writes the sample corpus, runs it, and compares the answers with the right ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Unpack

import pyarrow as pa

from engine import data
from engine.core.config import RunSettings
from engine.core.telemetry import Progress
from engine.demo import BUNDLE, corpus
from engine.demo.corpus import Shard
from engine.runner import coordinator
from engine.runner.manifest import SUCCESS, Manifest
from engine.runner.records import Entry
from engine.runner.report import Report

_SETTINGS: RunSettings = {
    "keep": ("id", "text", "answer"),
    "on_error": "reject",
    "overwrite": True,
}


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """The result of a demonstration.

    Attributes:
        accuracy: Share of the answered rows whose answer is exactly the right one.
        rejects_right: The rejected rows are the bad rows, with their reasons.
        in_order: Every other row was answered, in the order of the input.
        samples: (text, answer, right answer) of a few rows.
        corpus, results: The folders of the files.
        report: Of the run.
    """

    accuracy: float
    rejects_right: bool
    in_order: bool
    samples: list[tuple[str, str, str]]
    corpus: str
    results: str
    report: Report

    def to_dict(self) -> dict[str, object]:
        """As JSON values, with those of the report on the same level."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["report"]
        return values | self.report.to_dict()


def demonstrate(
    out: Path,
    *,
    rows: int = 3000,
    seed: int = 0,
    bundle: Path = BUNDLE,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Unpack[RunSettings],
) -> Demonstration:
    """Write the corpus to OUT/corpus, run it to OUT/results, and compare.

    A stopped run is continued; a finished run starts again.
    """
    shards = corpus.write(out / "corpus", rows, seed=seed)
    results = out / "results"
    chosen: RunSettings = {**_SETTINGS, **settings}
    _forget(results)
    report = coordinator.run(
        bundle,
        [shard.path for shard in shards],
        results,
        on_progress=on_progress,
        **chosen,
    )
    entries = {Path(e.input.path).name: e for e in Manifest(results).entries()}
    pairs = [(shard, entries[shard.path.name]) for shard in shards]
    checks = [_check(results, shard, entry) for shard, entry in pairs]
    answered = sum(c.answered for c in checks)
    return Demonstration(
        accuracy=sum(c.right for c in checks) / answered if answered else 0.0,
        rejects_right=all(c.rejects_right for c in checks),
        in_order=all(c.in_order for c in checks),
        samples=[sample for c in checks for sample in c.samples],
        corpus=str(out / "corpus"),
        results=str(results),
        report=report,
    )


def _forget(results: Path) -> None:
    """Remove the parts of a finished run; even with `overwrite` it would have nothing to do."""
    if (results / SUCCESS).is_file():
        for part in (results / "_manifest").glob("part-*.json"):
            part.unlink()
        for part in results.glob("part-*"):
            part.unlink()


@dataclass(frozen=True)
class _Check:
    answered: int
    right: int
    rejects_right: bool
    in_order: bool
    samples: list[tuple[str, str, str]]


def _check(results: Path, shard: Shard, entry: Entry) -> _Check:
    answered = right = 0
    in_order = True
    samples: list[tuple[str, str, str]] = []
    ids = (shard.first_id + row for row in range(shard.rows) if row not in shard.faults)
    with pa.OSFile(str(results / entry.part.file)) as stream:
        reader = pa.ipc.open_file(stream)
        for batch in map(reader.get_batch, range(reader.num_record_batches)):
            columns = batch.to_pydict()
            answers, truth = columns["translation_text"], columns["answer"]
            answered += batch.num_rows
            right += sum(a == b for a, b in zip(answers, truth, strict=True))
            in_order &= columns["id"] == list(islice(ids, batch.num_rows))
            samples = samples or list(zip(columns["text"], answers, truth, strict=True))[:2]
    in_order &= next(ids, None) is None
    return _Check(answered, right, _rejected(results, entry) == shard.faults, in_order, samples)


def _rejected(results: Path, entry: Entry) -> dict[int, str]:
    if entry.rejects is None:
        return {}
    rows = data.read_rejects(results / entry.rejects.file)
    return {row["row"]: row["code"] for row in rows}
