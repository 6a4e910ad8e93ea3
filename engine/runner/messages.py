"""What a coordinator and its workers tell each other, in one process or across several.

coordinator -> worker    WorkerSettings first, then an Assignment for each split
worker -> coordinator    Opened once, RowsRead for each window, Committed for each part, and
                         Counts a few times a second and at the end
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.config import RunConfig
from engine.core.device import Device
from engine.core.types import Columns, Split
from engine.runner.folder_lock import Hold
from engine.runner.records import InputRecord


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker has to know before its first split.

    Attributes:
        bundle: The bundle's folder.
        out: The output folder, which the coordinator holds.
        device: The worker's own.
        config: Of the run, with every size filled in.
        fingerprint: Of the run, for the commit records.
        columns: What to read of every file.
        hold: The run's, of the output folder.
    """

    bundle: Path
    out: Path
    device: Device
    config: RunConfig
    fingerprint: str
    columns: Columns
    hold: Hold | None = None


@dataclass(frozen=True)
class Assignment:
    """A split for a worker to answer.

    Attributes:
        split: The split.
        part: Name of its part file.
        input: `Entry.input` of its commit record; its limit is the number of rows to read at most.
        file_state: Size and date of the input file when the run began.
    """

    split: Split
    part: str
    input: InputRecord
    file_state: tuple[int, int]


@dataclass(frozen=True)
class Opened:
    """The bundle is open; `ran` says on what, as `Entry.ran`."""

    ran: Mapping[str, object]


@dataclass(frozen=True)
class RowsRead:
    """A window has been read: its rows, bad ones included, how many of them were bad for which
    reason, and where the first bad one is ("" where none is)."""

    rows: int
    rejected: Mapping[str, int]
    first_bad: str


@dataclass(frozen=True)
class Committed:
    """A part and its record lie under their final names."""

    split: Split
    rows_out: int


@dataclass(frozen=True)
class Counts:
    """What a worker has counted so far: counters and seconds at work by stage, and the work that
    has made no progress for long, or ""."""

    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    stuck: str = ""


Message = Opened | RowsRead | Committed | Counts
