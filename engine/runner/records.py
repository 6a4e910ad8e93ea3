"""The records of a run and of its finished splits, as their files hold them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pyarrow as pa

from engine.data import OutputFile, rejects_name, schema_of_text

FOLDER = "_manifest"
SUCCESS = "_SUCCESS"
STARTS = "starts"
"""Below `FOLDER`: what each start did, for reports."""
PART = re.compile(r"part-\d{5,}-.+\.(arrow|parquet|jsonl|csv)")
COUNTS = ("rows_in", "rows_out", "rows_rejected", "tokens", "truncated", "output_tokens")


class RunRecord(TypedDict):
    """The content of run.json; two runs with one fingerprint are the same run.

    `inputs` are the columns that the task reads, as `core.types.Column` has them; records of
    earlier versions do not have them.
    """

    settings: Mapping[str, object]
    bundle: str
    fingerprint: str
    inputs: NotRequired[list[dict[str, object]]]


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """What a split's answers were computed from.

    Attributes:
        path: The input file.
        start, stop: The split's range of its bytes.
        first_row: Row number of the split's first row.
        sha256: Of all bytes that the rows depend on.
        limit: The most rows that were to be read; 0 for all.
        columns: Digest of the names and types of the kept columns, which are settled over the whole
            corpus.
    """

    path: str
    start: int
    stop: int
    first_row: int
    sha256: str
    limit: int
    columns: str

    def equals(self, other: InputRecord) -> bool:
        """Whether the answers to both are the same, wherever the files lie."""
        return dataclasses.replace(self, path=other.path) == other


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The commit record of one split.

    Attributes:
        part: The part file; rejects: the file of its bad rows, if it has any.
        input: What was read.
        fingerprint: Of the run.
        counts: Those of `COUNTS`.
        device: What computed.
        seconds: From the split's first window to the last one written.
        ran: What computed, in detail (see `device.ExecutionInfo`).
        schema: Of the part, as `data.schema_text` writes it.
    """

    part: OutputFile
    rejects: OutputFile | None
    input: InputRecord
    fingerprint: str
    counts: Mapping[str, int]
    device: str
    seconds: float
    ran: Mapping[str, object] = field(default_factory=dict)
    schema: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Entry:
        """From parsed JSON.

        Raises:
            TypeError, KeyError: It is no commit record.
        """
        rejects, names = content["rejects"], [f.name for f in dataclasses.fields(InputRecord)]
        return cls(
            **{
                **content,
                "part": OutputFile(**content["part"]),
                "rejects": rejects and OutputFile(**rejects),
                "input": InputRecord(**{name: content["input"][name] for name in names}),
                "counts": {name: index(content["counts"][name]) for name in COUNTS},
                "ran": dict(content["ran"]),
                "schema": content["schema"] + "",
            }
        )

    @property
    def is_ours(self) -> bool:
        """Whether it names files as runs do; a stranger's record might name others to remove."""
        part = self.part.file
        # The second is of earlier versions.
        known = (rejects_name(part), f"rejects/{Path(part).stem}.parquet")
        plain = bool(PART.fullmatch(part)) and "/" not in part
        return plain and (self.rejects is None or self.rejects.file in known)

    @property
    def table_schema(self) -> pa.Schema | None:
        """The schema of a part that does not have it itself."""
        return schema_of_text(self.schema) if self.schema else None

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """The files under final names."""
        return (self.part, self.rejects) if self.rejects else (self.part,)


def total(entries: Sequence[Entry]) -> dict[str, int]:
    """Counts summed over records."""
    return {name: sum(e.counts[name] for e in entries) for name in COUNTS}


def success(entries: Sequence[Entry], fingerprint: str) -> dict[str, object]:
    """The content of _SUCCESS: what the folder holds, whichever calls computed it.

    Args:
        entries: All records of the run, in input order.
        fingerprint: Of the run.
    """
    files = [entry.part.file for entry in entries]
    return {"files": files, "fingerprint": fingerprint, **total(entries)}


def difference(earlier: Mapping[str, object], run: Mapping[str, object]) -> str:
    """The settings in which two runs differ, in words."""
    before, now = (_flat_settings(r) for r in (earlier, run))
    names = [n for n in sorted(before | now) if before.get(n) != now.get(n)]
    if not names:
        return "another fingerprint"
    shown = [f"{n} {_short(before.get(n))} (now {_short(now.get(n))})" for n in names[:3]]
    return "other settings: " + ", ".join(shown)


def _flat_settings(run: Mapping[str, Any]) -> dict[str, object]:
    """The engine's settings, the task's options and the bundle, by name."""
    settings = dict(run.get("settings", {}))
    return {**settings.pop("options", {}), **settings, "bundle": run.get("bundle")}


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
