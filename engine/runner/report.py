"""What a run did, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from engine.bundle.format import Description
from engine.core import vendor_telemetry
from engine.core.config import RunConfig
from engine.core.device import AUTO, CPU
from engine.core.notebook import facts_table
from engine.runner import results
from engine.runner.brief import brief
from engine.runner.messages import Counts
from engine.runner.records import Entry, total
from engine.runtime.device import why_gpu_is_idle


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the output folder holds now, and what this call did for it.

    Attributes:
        rows_in, rows_out, rows_rejected: Of the whole folder; rows_in = rows_out + rows_rejected.
        tokens, truncated, output_tokens: Of the whole folder: tokens read by the model, rows cut at
            max_length, tokens generated (end tokens included).
        splits, splits_skipped: Parts in all, and those that an earlier call had finished.
        rows_computed, padded_tokens, seconds: Of this call; padded tokens are real and filler.
        rows_resumed: Rows of this call's parts that an earlier call had computed.
        stage_seconds: Time at work by stage, of this call. Stages overlap, and inference counts
            once for each worker, so these add up to more than `seconds`.
        occupancy: Share of a decoder's slots that had a row, over all steps of this call; None
            where nothing was decoded.
        repeats: Sequences of this call that equal an earlier one of their window, and were not
            computed again.
        rejected: Rows set aside in this call, by reason.
        ran: What computed, in detail (see `device.ExecutionInfo`); empty where nothing did.
        files: Part files below `out`, in input order.
        notes: What the person should know.
        fingerprint: Of the run: its settings, bundle, device and engine version. Two outputs of
            one corpus with one fingerprint are equal.
        share: Which share of the parts was to be computed, such as 2/8; "" for all. Counts "of the
            whole folder" are of the share's parts then.
        parts_open: Parts of all shares that have no record which is true of their input. With 0
            the run has finished, and `_SUCCESS` is there.
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
    rows_resumed: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    ran: dict[str, object] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    share: str = ""
    parts_open: int = 0

    @classmethod
    def of(
        cls,
        entries: Sequence[Entry],
        work: Counts,
        *,
        seconds: float,
        out: str,
        task: str,
        device: str,
        splits_skipped: int,
        rejected: dict[str, int],
        ran: dict[str, object],
        notes: tuple[str, ...],
        fingerprint: str = "",
        share: str = "",
        parts_open: int = 0,
    ) -> Report:
        """From the commit records of the folder and what this call's workers have counted."""
        counts = work.counts
        rows, tokens, padded, slots = (
            counts.get(name, 0) for name in ("rows", "tokens", "padded", "group_steps")
        )
        return cls(
            **total(entries),
            out=out,
            task=task,
            device=device,
            splits=len(entries),
            splits_skipped=splits_skipped,
            repeats=counts.get("repeats", 0),
            rows_computed=rows,
            rows_resumed=counts.get("rows_resumed", 0),
            padded_tokens=padded,
            seconds=round(seconds, 3),
            rows_per_second=round(rows / seconds, 1),
            tokens_per_second=round(tokens / seconds, 1),
            padding=round(padded / tokens, 3) if tokens else 1.0,
            stage_seconds={stage: round(spent, 3) for stage, spent in work.seconds.items()},
            occupancy=round(counts.get("busy", 0) / slots, 4) if slots else None,
            rejected=rejected,
            ran=ran,
            files=tuple(entry.part.file for entry in entries),
            notes=notes,
            fingerprint=fingerprint,
            share=share,
            parts_open=parts_open,
        )

    @property
    def exit_code(self) -> int:
        """0, or 3 where rows were rejected."""
        return 3 if self.rows_rejected else 0

    def table(self) -> pa.Table:
        """All answers in memory, in input order; `engine.open(report.out)` reads them bit by bit.

        Raises:
            OutputError: Another run has taken the folder since.
        """
        return results.read(self.out)

    def _repr_html_(self) -> str:
        """The counts, as a notebook shows them; no row's text is among them."""
        return facts_table(f"{self.task}: {self.out}", self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "rows", f"{self.rows_out:,} answered of {self.rows_in:,}"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.items())
        rejected = f"{self.rows_rejected:,}" if self.rows_rejected else ""
        yield "rejected", f"{rejected}: {reasons}" if rejected and reasons else rejected
        yield "truncated", f"{self.truncated:,}" if self.truncated else ""
        yield "tokens", f"{self.tokens:,}"
        yield "generated tokens", f"{self.output_tokens:,}" if self.output_tokens else ""
        yield "computed now", f"{self.rows_computed:,} rows in {self.seconds:,.1f} s"
        yield "speed", f"{self.rows_per_second:,.1f} rows/s, {self.tokens_per_second:,.0f} tokens/s"
        yield "device", self.device
        yield "parts", f"{self.splits:,}, of which {self.splits_skipped:,} were there before"
        for note in self.notes:
            yield "note", note

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def brief(self) -> dict[str, object]:
        """As JSON values of at most 2,000 bytes, whatever the number of parts: the counts, without
        `files`, `ran` and times by stage, the most frequent reasons and the first notes."""
        return brief(dataclasses.asdict(self))


def notes(
    bundle: Description,
    config: RunConfig,
    device: str,
    entries: Sequence[Entry],
    counts: Mapping[str, int],
    removed: Sequence[str],
    unread: Mapping[str, int],
) -> tuple[str, ...]:
    """What the person should know of a run: of its bundle, its inputs, its device and its settings.

    `counts` are those of its workers, `removed` the files whose parts were removed, since they are
    no inputs any more, and `unread` how many files of other endings the inputs have.
    """
    lines = [note for note in bundle.notes if not (_OF_PREFIX in note and _has_prefix(config))]
    if problem := vendor_telemetry.too_late():
        lines.append(problem)
    if unread:
        endings = ", ".join(f"{count} {ending}" for ending, count in list(unread.items())[:8])
        lines.append(f"not read in the inputs: {endings}")
    if removed:
        lines.append(
            f"the answers for {len(removed)} files that are no inputs any more were removed, such "
            f"as those for {removed[0]}"
        )
    empty = [e.input.path for e in entries if not e.counts["rows_in"]]
    if empty:
        lines.append(f"no rows in {len(empty)} of the inputs, such as {empty[0]}")
    if truncated := total(entries)["truncated"]:
        length = config.max_length or bundle.model_config.max_length
        lines.append(f"{truncated} rows were cut at {length} tokens (--max-length)")
    if halved := counts.get("halved", 0):
        lines.append(f"{halved} batches did not fit {device} and were halved")
    if counts.get("unrecorded", 0):
        lines.append("the disk had no space to record what is computed of parts before they finish")
    if not config.lock:
        lines.append("nothing guarded the output folder against other runs (--no-lock)")
    if config.device == AUTO and device == str(CPU) and (reason := why_gpu_is_idle()):
        lines.append(f"auto took the CPU: {reason}")
    if not config.keep:
        lines.append(
            "no input columns were kept; --keep id or --keep all writes them beside the results"
        )
    return tuple(lines)


_OF_PREFIX = "is put before the texts"
"""What an export notes of a checkpoint without a prefix; true of runs without one."""


def _has_prefix(config: RunConfig) -> bool:
    return bool(config.options.get("prefix"))


def damage_notes(parts: Sequence[str], unrecorded: Sequence[str]) -> tuple[str, ...]:
    """Notes of parts that were computed again, since somebody has changed or removed them, and of
    those that were removed, since a run was killed before it had recorded them."""
    lines = []
    if parts:
        what = f"{len(parts)} parts of an earlier start were" if len(parts) > 1 else "a part was"
        lines.append(f"{what} computed again, being gone or changed since: {parts[0]}")
    if unrecorded:
        what = f"{len(unrecorded)} parts" if len(unrecorded) > 1 else "a part"
        lines.append(f"removed {what} that no record names, as killed runs leave: {unrecorded[0]}")
    return tuple(lines)
