"""Windows of good rows, with the bad ones told apart by number and reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.core.types import Column, Ints, Rejects, Rows, Split
from engine.data.columnar import choose, is_text, is_texts, read_arrow, read_parquet, reading
from engine.data.jsonl import read_jsonl
from engine.data.splits import plan
from engine.errors import InputError, RowError

REASONS = {
    "null_text": "the text is null or missing",
    "not_text": "an input column holds something other than the task takes",
    "invalid_utf8": "a text is not valid UTF-8",
    "broken_json": "the line is not JSON",
    "not_object": "the line is JSON, but not an object",
    "kept_type": "a kept column is of another type here than in the file's first lines",
}
WINDOW_BYTES = 32 << 20
"""A window of long texts ends here, whatever its number of rows."""


@dataclass(slots=True)
class _Stretch:
    """Consecutive rows of a split: the good as columns with their numbers, the bad as pairs."""

    columns: pa.RecordBatch
    rows: Ints
    bad: list[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)

    def below(self, row: int) -> _Stretch:
        """Only the rows with a number below `row`."""
        kept = self.columns.slice(0, int(np.searchsorted(self.rows, row)))
        return _Stretch(kept, self.rows[: len(kept)], [b for b in self.bad if b[0] < row])


def read(
    split: Split, *, inputs: Sequence[Column], keep: Sequence[str], window: int, limit: int = 0
) -> Iterator[Rows]:
    """Yield the rows of a split in windows; at least one, the last marked.

    Args:
        inputs: The columns that the task takes.
        keep: Columns to carry along; ("all",) for every one.
        window: Good rows of a window at most; less where texts are long or many rows are bad.
        limit: Rows to read at most, good or bad; 0 for all.

    Raises:
        InputError: The file cannot be read; no row policy skips that.
        ColumnError: A column is not there or does not hold what the task takes.
    """
    text = [column.name for column in inputs]
    stretches = _limited(map(_told_apart(split, text), _stretches(split, inputs, keep)), limit)
    pending: list[_Stretch] = []
    for stretch in stretches:
        pending = [*(s for s in pending if len(s)), stretch]
        while sum(len(s.rows) for s in pending) > window or _heavy(pending, window):
            whole, rest = _divide(pending, window)
            yield _rows(split, whole, keep, text, last=False)
            pending = rest
    yield _rows(split, pending, keep, text, last=True)


def first(
    files: Sequence[Path], *, inputs: Sequence[Column], split_size: int, window: int, limit: int
) -> Iterator[Rows]:
    """The first `limit` rows, good and bad, of all files in their order; 0 for all.

    Raises:
        InputError, ColumnError: As `read`.
    """
    left = limit
    for split in plan(files, split_size):
        for rows in read(split, inputs=inputs, keep=(), window=window, limit=left):
            yield rows
            left -= min(left, len(rows) + len(rows.rejects.rows))
        if limit and not left:
            return


def first_bad(rows: Rows) -> RowError | None:
    """The first bad row of a window as an error."""
    if not rows.rejects.codes or rows.split is None:
        return None
    rejects = rows.rejects
    return RowError(
        str(rows.split.path), int(rejects.rows[0]), rejects.codes[0], rejects.messages[0]
    )


def _stretches(split: Split, inputs: Sequence[Column], keep: Sequence[str]) -> Iterator[_Stretch]:
    if split.kind.startswith("jsonl"):
        for parsed in read_jsonl(split, inputs, keep):
            yield _Stretch(parsed.columns, parsed.rows, parsed.bad)
        return
    row = split.first_row
    reader = {"parquet": read_parquet, "arrow": read_arrow}[split.kind]
    for batch in reader(split, inputs, keep):
        yield _Stretch(batch, np.arange(row, row + batch.num_rows), [])
        row += batch.num_rows


def _told_apart(split: Split, text: Sequence[str]) -> Callable[[_Stretch], _Stretch]:
    """Moves rows with a null text or with invalid UTF-8 from the good to the bad."""

    def judge(stretch: _Stretch) -> _Stretch:
        with reading(split.path, split.kind):
            return told(stretch)

    def told(stretch: _Stretch) -> _Stretch:
        columns = _as_text(stretch.columns, text)
        broken = np.zeros(len(stretch.rows), bool)
        for name in columns.schema.names:
            broken |= _invalid(split, columns.column(name), name)
        null = np.zeros(len(stretch.rows), bool)
        for name in text:
            null |= _missing(columns.column(name))
        good = ~(broken | null)
        if good.all():
            return _Stretch(columns, stretch.rows, stretch.bad)
        bad = [(int(r), "invalid_utf8") for r in stretch.rows[broken]]
        bad += [(int(r), "null_text") for r in stretch.rows[null & ~broken]]
        kept = columns.filter(pa.array(good))
        return _Stretch(kept, stretch.rows[good], sorted(stretch.bad + bad))

    return judge


def _as_text(columns: pa.RecordBatch, text: Sequence[str]) -> pa.RecordBatch:
    for name in text:
        i = columns.schema.get_field_index(name)
        kind = columns.column(i).type
        plain = pa.list_(pa.string()) if is_texts(kind) else pa.string()
        if kind != plain:
            columns = columns.set_column(i, name, columns.column(i).cast(plain))
    return columns


def _missing(column: pa.Array) -> NDArray[np.bool_]:
    """Rows that are null or, of lists, have a null in them."""
    missing = np.array(column.is_null().to_numpy(zero_copy_only=False))
    if pa.types.is_list(column.type):
        inner = column.flatten().is_null().to_numpy(zero_copy_only=False)
        missing[pc.list_parent_indices(column).to_numpy()[inner]] = True
    return missing


def _invalid(split: Split, column: pa.Array, name: str) -> NDArray[np.bool_]:
    """Rows of a column that break its type's promise; only strings can break it row by row."""
    clean = np.zeros(len(column), bool)
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        if pa.types.is_list(column.type) and is_text(column.type.value_type):
            inner = _invalid(split, column.flatten(), name)
            clean[pc.list_parent_indices(column).to_numpy()[inner]] = True
            return clean
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise InputError(
                f"{split.path}: column {name!r} is damaged", "write the file again"
            ) from error
        values = column.view(pa.large_binary() if "large" in str(column.type) else pa.binary())
        values.validate(full=True)  # the offsets
        return np.array([not _is_utf8(v) for v in values.to_pylist()], bool)
    return clean


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _limited(stretches: Iterator[_Stretch], limit: int) -> Iterator[_Stretch]:
    left = limit
    for stretch in stretches:
        if limit and len(stretch) >= left:
            numbers = np.sort(np.concatenate([stretch.rows, [r for r, _ in stretch.bad]]))
            yield stretch.below(int(numbers[left - 1]) + 1)
            return
        left -= len(stretch)
        yield stretch


def _heavy(pending: list[_Stretch], window: int) -> bool:
    """Whether the last stretch is one too many, by the bytes of the good rows or by the bad."""
    if len(pending) < 2:
        return False
    return (
        sum(s.columns.nbytes for s in pending) > WINDOW_BYTES
        or sum(len(s.bad) for s in pending) > window
    )


def _divide(pending: list[_Stretch], window: int) -> tuple[list[_Stretch], list[_Stretch]]:
    """What makes the next window, and what is left: at a row where good rows decide, at a stretch
    where bytes or bad rows do."""
    *before, last = pending
    room = window - sum(len(s.rows) for s in before)
    if len(last.rows) <= room:
        return before, [last]
    cut = int(last.rows[room])
    rest = _Stretch(
        last.columns.slice(room), last.rows[room:], [b for b in last.bad if b[0] >= cut]
    )
    return [*before, last.below(cut)], [rest]


def _rows(
    split: Split,
    stretches: list[_Stretch],
    keep: Sequence[str],
    text: Sequence[str],
    *,
    last: bool,
) -> Rows:
    bad = [b for s in stretches for b in s.bad]
    rejects = Rejects(
        np.array([row for row, _ in bad], np.int64),
        tuple(code for _, code in bad),
        tuple(REASONS[code] for _, code in bad),
    )
    columns = pa.concat_batches([s.columns for s in stretches])
    kept = columns.select(choose(split.path, columns.schema.names, (), keep))
    texts = tuple(columns.column(name) for name in text)
    numbers = np.concatenate([s.rows for s in stretches])
    return Rows(split, texts, kept, rejects, last, numbers)
