"""What an output says of the run that made it, whichever starts and shares of it there were."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine import data
from engine.runner import journal, starts
from engine.runner.manifest import Manifest
from engine.runner.records import Entry, total
from engine.runner.starts import Start

_FILES = 25
"""Files with bad rows that are named, those with the most first."""


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """Rows of one input file."""

    path: str
    rows_in: int
    rows_rejected: int


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run has done, as its output records it.

    Attributes:
        out: The output; task: of the bundle, "" where that is not recorded.
        finished: Whether `_SUCCESS` is there; rows_open: rows of unfinished parts that are kept.
        rows_in, rows_out, rows_rejected, tokens, truncated, output_tokens: Of all parts.
        parts, files, bytes: Parts, input files, and the size of the parts.
        rejected: Rows by reason; rejected_files: the files that have them, at most `_FILES`.
        files_with_rejects: How many files have them.
        worker_seconds: From each part's first window to its last, summed: of all starts.
        ran: What computed and how many parts: device, provider, runtime and the like.
        settings: Those that make it the same run.
        fingerprint: Of the run.
        starts: What each start did; () of an output of an earlier version.
    """

    out: str
    task: str
    finished: bool
    rows_open: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    tokens: int
    truncated: int
    output_tokens: int
    parts: int
    files: int
    bytes: int
    rejected: Mapping[str, int]
    rejected_files: Sequence[FileCounts]
    files_with_rejects: int
    worker_seconds: float
    ran: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    fingerprint: str
    starts: Sequence[Start]

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of all starts; None where none is recorded."""
        return sum(start.cpu_seconds for start in self.starts) if self.starts else None

    @property
    def repeats(self) -> int | None:
        """Sequences that equal an earlier one of their window; None where that is not recorded."""
        counts = [start.counts.get("repeats", 0) for start in self.starts]
        return sum(counts) if counts else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def facts_of(manifest: Manifest, out: str) -> RunFacts:
    """What the records of an output say.

    Args:
        manifest: Of the output, from `results.manifest_of`.
        out: Its name.

    Raises:
        OutputError: A file of bad rows is damaged.
    """
    entries, run = manifest.entries(), manifest.read_run() or {}
    began = starts.read(manifest, str(run.get("fingerprint", "")))
    rejected = Counter(row["code"] for row in _bad_rows(manifest, entries))
    by_file = _by_file(entries)
    bad = sorted((f for f in by_file if f.rows_rejected), key=lambda f: -f.rows_rejected)
    finished = manifest.answered() is not None
    return RunFacts(
        out=out,
        task=str(began[-1].model.get("task", "")) if began else "",
        finished=finished,
        rows_open=0 if finished else _rows_open(manifest, str(run.get("fingerprint"))),
        **total(entries),
        parts=len(entries),
        files=len(by_file),
        bytes=sum(entry.part.bytes for entry in entries),
        rejected=dict(rejected.most_common()),
        rejected_files=bad[:_FILES],
        files_with_rejects=len(bad),
        worker_seconds=round(sum(entry.seconds for entry in entries), 3),
        ran=_ran(entries),
        settings=run.get("settings", {}),
        fingerprint=str(run.get("fingerprint", "")),
        starts=began,
    )


def _bad_rows(manifest: Manifest, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if entry.rejects:
            yield from data.read_rejects(manifest.path(entry.rejects.file))


def _by_file(entries: Sequence[Entry]) -> list[FileCounts]:
    counts: dict[str, list[int]] = {}
    for entry in entries:
        sums = counts.setdefault(entry.input.path, [0, 0])
        sums[0] += entry.counts["rows_in"]
        sums[1] += entry.counts["rows_rejected"]
    return [FileCounts(path=p, rows_in=n, rows_rejected=bad) for p, (n, bad) in counts.items()]


def _ran(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Each way in which parts were computed, with their number."""
    parts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for entry in entries:
        plain = {name: str(v) for name, v in entry.ran.items() if v and not isinstance(v, dict)}
        parts[tuple(sorted({"device": entry.device, **plain}.items()))] += 1
    return [{**dict(ran), "parts": count} for ran, count in parts.most_common()]


def _rows_open(manifest: Manifest, fingerprint: str) -> int:
    """Rows that are computed of parts that have no record yet."""
    names = {f"{f.stem}.arrow" for f in (manifest.out / journal.FOLDER).glob(f"*{journal.ENDING}")}
    return journal.rows_kept(manifest.out, fingerprint, names) if names else 0
