"""Windows of good rows, with the bad ones set aside by number and reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.core.rejects import Rejects
from engine.core.types import Column, Columns, CorpusFile, Ints, Rows, Split
from engine.data.columnar import empty_batch, is_chat, is_text, is_texts, reading
from engine.data.invalid_text import find_invalid
from engine.data.json_layout import LINES
from engine.data.line_chunks import first_bytes, layout
from engine.data.nested_fields import read_columns
from engine.data.origins import with_origins
from engine.data.reject_texts import with_texts
from engine.data.settlement import settle
from engine.data.splits import split_files
from engine.data.stretches import Bad, Stretch
from engine.data.wrong_kinds import advice_on_lines
from engine.errors import InputError, RowError

REASONS = {
    "null_text": "the text is null or missing",
    "not_text": "an input column holds something other than the task takes",
    "invalid_utf8": "a text is not valid UTF-8",
    "broken_json": "the line is not JSON",
    "fields": "the row has more or fewer fields than the header",
    "not_object": "the line is JSON, but not an object",
    "bad_chat": "the chat has no messages, or one of them has no role or no content",
    "chat_template": "the chat template makes no prompt of it",
    "too_long": "the row is longer than --max-row-bytes allows, or its line than can be held",
    "too_deep": "its lists and objects lie in each other on more levels than are read",
    "kept_type": "a kept column has another type here than in the rest of the corpus",
}
WINDOW_BYTES = 32 << 20
"""Bytes at which a window of long texts ends, whatever its number of rows."""


def read(split: Split, columns: Columns, *, window: int, limit: int = 0) -> Iterator[Rows]:
    """The rows of a split in windows: at least one, the last of which says so.

    Args:
        columns: The settled columns of the run.
        window: Good rows of a window at most; less where texts are long or many rows are bad.
        limit: Rows to read at most, good or bad; 0 for all.

    Raises:
        InputError: The file cannot be read, which `on_error` does not skip.
    """
    own = columns.own
    stretches = (_with_constants(stretch, split.file, own) for stretch in read_columns(split, own))
    separated = (_separate(stretch, split, own) for stretch in stretches)
    pending: list[Stretch] = []
    for stretch in _limited(separated, limit):
        pending = [*(s for s in pending if len(s)), stretch]
        while sum(len(s.rows) for s in pending) > window or _is_full(pending, window):
            whole, rest = _divide(pending, window)
            yield with_origins(_make_rows(split, whole, own, last=False), columns)
            pending = rest
    yield with_origins(_make_rows(split, pending, own, last=True), columns)


def _with_constants(stretch: Stretch, file: CorpusFile, needed: Columns) -> Stretch:
    """The stretch with those columns of its file that have one value and are not in it."""
    columns = stretch.columns
    for name, value in file.constants:
        if name not in columns.schema.names and name in (*needed.texts, *needed.kept.names):
            columns = columns.append_column(name, pa.repeat(value, columns.num_rows))
    return Stretch(columns, stretch.rows, stretch.bad)


def read_first(
    files: Sequence[CorpusFile],
    *,
    inputs: Sequence[Column],
    split_size: int,
    window: int,
    limit: int,
) -> Iterator[Rows]:
    """The first `limit` rows, good and bad, of all files in their order; 0 for all.

    Raises:
        InputError, ColumnError: As `read`.
    """
    left = limit
    for split in split_files(files, split_size):
        columns = settle([split.file], inputs, ())
        for rows in read(split, columns, window=window, limit=left):
            yield rows
            left -= min(left, len(rows) + len(rows.rejects.rows))
        if limit and not left:
            return


def first_error(rows: Rows) -> RowError | None:
    """The first bad row of a window as an error, or None."""
    if not rows.rejects.codes or rows.split is None:
        return None
    rejects = rows.rejects
    details = (
        texts[0] if texts else "" for texts in (rejects.columns, rejects.expected, rejects.found)
    )
    error = RowError(
        str(rows.split.path), int(rejects.rows[0]), rejects.codes[0], rejects.messages[0], *details
    )
    path, kind = rows.split.path, rows.split.kind
    if error.code in ("broken_json", "not_object") and layout(path, kind) == LINES:
        # Where each line is bad, to set bad rows aside leaves none.
        error.hint = advice_on_lines(path, first_bytes(path, kind)) or error.hint
    return error


def _separate(stretch: Stretch, split: Split, needed: Columns) -> Stretch:
    """The stretch with rows of a null text, of invalid UTF-8, or of a kept value that the settled
    type does not hold among the bad ones."""
    with reading(split.path, split.kind):
        stretch = _without_long(stretch, needed)
        columns = _as_text(stretch.columns, needed.texts)
        bad: dict[int, Bad] = {}  # the first fault of a row counts
        for name in columns.schema.names:
            invalid = _find_invalid(split, columns.column(name), name)
            _add(bad, stretch.rows[invalid], "invalid_utf8", name)
        for name in needed.texts:
            _add(bad, stretch.rows[_find_nulls(columns.column(name))], "null_text", name)
        for field in needed.kept:
            unfit = stretch.rows[_find_unfit(columns, field)]
            if len(unfit):
                found = str(columns.column(field.name).type)
                _add(bad, unfit, "kept_type", field.name, str(field.type), found)
        if not bad:
            return Stretch(columns, stretch.rows, stretch.bad)
        if needed.reject_text:
            bad = with_texts(bad, columns.select(list(needed.texts)), stretch.rows)
        good = ~np.isin(stretch.rows, list(bad))
        columns = columns.filter(pa.array(good))
        return Stretch(columns, stretch.rows[good], sorted([*stretch.bad, *bad.values()]))


def _without_long(stretch: Stretch, needed: Columns) -> Stretch:
    """The stretch with rows whose input texts have more bytes than are allowed among the bad
    ones."""
    most = needed.max_row_bytes
    texts = [stretch.columns.column(name) for name in needed.texts]
    if not most or sum(column.nbytes for column in texts) <= most:
        return stretch
    long = sum(map(_sizes, texts), np.zeros(len(stretch.rows), np.int64)) > most
    column, expected = needed.texts[0] if len(texts) == 1 else "", f"at most {most} bytes"
    # Without its text, which may be as long as memory.
    bad = [Bad(row, "too_long", column, expected, "more") for row in stretch.rows[long].tolist()]
    columns = stretch.columns.filter(pa.array(~long)) if bad else stretch.columns
    return Stretch(columns, stretch.rows[~long], sorted([*stretch.bad, *bad]))


def _sizes(column: pa.Array) -> Ints:
    """Bytes of the texts of each row."""
    kind = column.type
    if pa.types.is_struct(kind):
        fields = (_sizes(column.field(n)) for n in range(kind.num_fields))
        return np.asarray(sum(fields, np.zeros(len(column), np.int64)))
    if is_text(kind):
        return np.asarray(pc.fill_null(pc.binary_length(column), 0).to_numpy(), np.int64)
    if not kind.num_fields:
        return np.zeros(len(column), np.int64)
    inner = _sizes(column.flatten())
    parents = pc.list_parent_indices(column).to_numpy()
    return np.bincount(parents, inner, len(column)).astype(np.int64)


def _add(bad: dict[int, Bad], rows: Ints, code: str, *details: str) -> None:
    for row in rows.tolist():
        bad.setdefault(row, Bad(row, code, *details))


def _as_text(columns: pa.RecordBatch, text: Sequence[str]) -> pa.RecordBatch:
    for name in text:
        i = columns.schema.get_field_index(name)
        kind = columns.column(i).type
        if pa.types.is_integer(kind):
            continue
        plain = pa.list_(pa.string()) if is_texts(kind) else pa.string()
        if is_chat(kind):
            names = [field.name for field in kind.value_type]
            plain = pa.list_(pa.struct([(name, pa.string()) for name in names]))
        if kind != plain:
            columns = columns.set_column(i, name, columns.column(i).cast(plain))
    return columns


def _find_unfit(columns: pa.RecordBatch, field: pa.Field) -> NDArray[np.bool_]:
    """In which rows a kept column has a value that its settled type does not hold, such as a whole
    number beyond 2^53 where another file has floats."""
    unfit = np.zeros(columns.num_rows, bool)
    if field.name not in columns.schema.names:
        return unfit
    column = columns.column(field.name)
    if column.type != field.type and not _casts(column, field.type):
        unfit[:] = [not _casts(column.slice(row, 1), field.type) for row in range(len(column))]
    return unfit


def _casts(column: pa.Array, kind: pa.DataType) -> bool:
    """Whether a type holds every value of a column."""
    try:
        return _keeps(column, column.cast(kind))
    except pa.ArrowException:
        return False


def _keeps(before: pa.Array, cast: pa.Array) -> bool:
    """Whether a cast that Arrow makes keeps what Arrow does not look at: fields that the new type
    lacks, digits of decimals, and numbers too large for fewer bits."""
    if pa.types.is_struct(before.type) and pa.types.is_struct(cast.type):
        after = dict(zip((field.name for field in cast.type), cast.flatten(), strict=True))
        fields = zip((field.name for field in before.type), before.flatten(), strict=True)
        return all(
            _keeps(values, after[name]) if name in after else values.null_count == len(values)
            for name, values in fields
        )
    if hasattr(before, "flatten") and hasattr(cast, "flatten") and before.type.num_fields == 1:
        return _keeps(before.flatten(), cast.flatten())
    if pa.types.is_floating(cast.type) and pa.types.is_decimal(before.type):
        return bool(cast.cast(before.type).equals(before))
    if pa.types.is_floating(cast.type) and pa.types.is_floating(before.type):
        return bool(pc.is_inf(cast).equals(pc.is_inf(before)))
    return True


def _find_nulls(column: pa.Array) -> NDArray[np.bool_]:
    """Which rows are null or, in a column of lists, have a null among them."""
    null = np.array(column.is_null().to_numpy(zero_copy_only=False))
    if pa.types.is_list(column.type):
        inner = column.flatten().is_null().to_numpy(zero_copy_only=False)
        null[pc.list_parent_indices(column).to_numpy()[inner]] = True
    return null


def _find_invalid(split: Split, column: pa.Array, name: str) -> NDArray[np.bool_]:
    """Which rows of a column are not valid UTF-8.

    Raises:
        InputError: The column is damaged in another way.
    """
    try:
        return find_invalid(column)
    except pa.ArrowException as error:
        raise InputError(
            f"{split.path}: column {name!r} is damaged", "write the file again"
        ) from error


def _limited(stretches: Iterator[Stretch], limit: int) -> Iterator[Stretch]:
    left = limit
    for stretch in stretches:
        if limit and len(stretch) >= left:
            numbers = np.sort(np.concatenate([stretch.rows, [b.row for b in stretch.bad]]))
            yield stretch.below(int(numbers[left - 1]) + 1)
            return
        left -= len(stretch)
        yield stretch


def _is_full(pending: list[Stretch], window: int) -> bool:
    """Whether the last stretch is one too many for a window, by its bytes or its bad rows, or is
    alone one that nothing is put beside."""
    if len(pending) < 2:
        return len(pending) == 1 and pending[0].columns.nbytes > WINDOW_BYTES
    return (
        sum(s.columns.nbytes for s in pending) > WINDOW_BYTES
        or sum(len(s.bad) for s in pending) > window
    )


def _divide(pending: list[Stretch], window: int) -> tuple[list[Stretch], list[Stretch]]:
    """The stretches of the next window and those left over. The border lies between two rows where
    the number of good rows decides, and between two stretches where bytes or bad rows do."""
    *before, last = pending
    if not before and len(last.rows) <= window:
        return pending, [_empty_like(last)]
    free = window - sum(len(s.rows) for s in before)
    if len(last.rows) <= free:
        return before, [last]
    cut = int(last.rows[free])
    rest = Stretch(
        last.columns.slice(free), last.rows[free:], [b for b in last.bad if b.row >= cut]
    )
    return [*before, last.below(cut)], [rest]


def _empty_like(stretch: Stretch) -> Stretch:
    schema = stretch.columns.schema
    return Stretch(empty_batch(schema, schema.names), np.empty(0, np.int64), [])


def _make_rows(
    split: Split,
    stretches: list[Stretch],
    needed: Columns,
    *,
    last: bool,
) -> Rows:
    bad = [b for s in stretches for b in s.bad]
    rejects = Rejects(
        np.array([b.row for b in bad], np.int64),
        tuple(b.code for b in bad),
        tuple(REASONS[b.code] for b in bad),
        tuple(b.column for b in bad),
        tuple(b.expected for b in bad),
        tuple(b.found for b in bad),
        tuple(b.text for b in bad) if needed.reject_text else (),
    )
    # One alone is not copied.
    alone = len(stretches) == 1
    columns = stretches[0].columns if alone else pa.concat_batches([s.columns for s in stretches])
    kept = _as_settled(split, columns, needed.kept)
    texts = tuple(columns.column(name) for name in needed.texts)
    numbers = np.concatenate([s.rows for s in stretches])
    return Rows(split, texts, kept, rejects, last, numbers, needed.reject_text)


def _as_settled(split: Split, columns: pa.RecordBatch, kept: pa.Schema) -> pa.RecordBatch:
    """The kept columns in their settled types; nulls for those that the file does not have."""
    arrays = []
    with reading(split.path, split.kind):
        for field in kept:
            if field.name not in columns.schema.names:
                arrays.append(pa.nulls(columns.num_rows, field.type))
                continue
            column = columns.column(field.name)
            arrays.append(column if column.type == field.type else column.cast(field.type))
    if not len(kept):
        return columns.select([])
    return pa.RecordBatch.from_arrays(arrays, schema=kept)
