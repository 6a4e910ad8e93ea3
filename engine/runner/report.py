"""What a run did, as one value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from engine.runner.manifest import COUNTS


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the output folder holds now, and what this call did for it.

    Attributes:
        rows_in, rows_out, rows_rejected: Of the whole folder; rows_in = rows_out + rows_rejected.
        tokens, truncated, output_tokens: Of the whole folder: tokens read by the model, rows cut at
            max_length, tokens generated (end tokens included).
        splits, splits_skipped: Parts in all, and those found finished.
        rows_computed, padded_tokens, seconds: Of this call; padded tokens are real and filler.
        stage_seconds: Time at work by stage, of this call. Stages overlap, and inference counts
            once for each worker, so these add up to more than `seconds`.
        occupancy: Share of a decoder's steps × places that had a row, in this call; None where
            nothing was decoded.
        repeats: Sequences of this call that equal another one of their window, and were computed
            once with it.
        rejected: Rows set aside in this call, by reason.
        ran: What computed, at length (see `device.ExecutionInfo`); empty where nothing was.
        files: Part files below `out`, in input order.
        notes: What the person should know.
    """

    out: str
    task: str
    device: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    tokens: int
    truncated: int
    output_tokens: int
    splits: int
    splits_skipped: int
    rows_computed: int
    padded_tokens: int
    seconds: float
    rows_per_second: float
    tokens_per_second: float
    padding: float
    stage_seconds: dict[str, float]
    occupancy: float | None = None
    repeats: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    ran: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or 3 where rows were rejected."""
        return 3 if self.rows_rejected else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def success(self, fingerprint: str) -> dict[str, Any]:
        """The content of _SUCCESS: what holds of the folder, whatever call made it."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {"files": list(self.files), "fingerprint": fingerprint, **counts}
