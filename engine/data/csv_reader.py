"""CSV and TSV with a header: pyarrow's reader, a block at a time.

All fields are read as text, and become what the run has settled for their column here: pyarrow
would settle types by the first block, lose leading zeros, and fail at the first field that does not
fit. A row's number is that of its record: the header and blank lines do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.types import Column, Columns, CorpusFile, InputPath, Split
from engine.data.columnar import ROWS, Names, check_fields, check_type, empty_batch, reading
from engine.data.csv_layout import CHUNK, MOST_COLUMNS, Layout, blocks, layout_of
from engine.data.csv_types import ColumnTyper, converted
from engine.data.long_fields import LongFields, marks_in
from engine.data.long_lines import LARGEST, LONGEST, fill
from engine.data.stretches import Bad, Stretch


def schema(file: CorpusFile, names: Names, types: bool) -> pa.Schema:
    """Names and types of a file's columns; see `kinds.Kind.schema`."""
    with reading(file.path, file.kind):
        layout = layout_of(file)
        taken = None if names is None else set(names)
        wanted = [name for name in layout.names if taken is None or name in taken]
        if types:
            check_fields(file.path, [pa.string()] * len(wanted))
        if not types or not wanted or len(set(wanted)) < len(wanted):
            return pa.schema([(name, pa.string()) for name in wanted])
        return pa.schema(_types(file, layout, wanted))


def _types(file: CorpusFile, layout: Layout, names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    typers = [ColumnTyper() for _ in names]
    for stretch in _rows(file, layout, names, ROWS << 6):
        for typer, column in zip(typers, stretch.columns.columns, strict=True):
            typer.add(column)
    return [(name, typer.kind) for name, typer in zip(names, typers, strict=True)]


def input_types(file: CorpusFile, inputs: Sequence[Column]) -> dict[str, pa.DataType]:
    """The types in which input columns are read: text, and whole numbers for keys that are no text.

    Raises:
        ColumnError: The task takes something else.
    """
    keys = [column.name for column in inputs if column.holds == "key"]
    kinds = {field.name: field.type for field in schema(file, keys, types=True)}
    types = {}
    for column in inputs:
        whole = kinds.get(column.name) == pa.int64()
        types[column.name] = pa.int64() if whole else pa.string()
        check_type(file.path, column, types[column.name])
    return types


def read_csv(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The needed columns of a file, an empty stretch first.

    Raises:
        InputError: The file cannot be read.
    """
    file = split.file
    with reading(file.path, file.kind):
        layout = layout_of(file)
        types = {
            field.name: pa.float64() if pa.types.is_floating(field.type) else field.type
            for field in columns.kept
        }
        types |= input_types(file, columns.inputs)
        known = {*layout.names, *columns.texts}
        needed = pa.schema([item for item in types.items() if item[0] in known])
        yield Stretch(empty_batch(needed, needed.names), np.empty(0, np.int64), [])
        if not set(columns.texts) <= set(layout.names):
            return  # a file without a line
        most = min(max(columns.max_row_bytes or LARGEST, LONGEST), LARGEST)
        for stretch in _rows(file, layout, needed.names, ROWS, columns.reject_text, most):
            yield _typed(stretch, needed, columns.texts)


def _typed(stretch: Stretch, needed: pa.Schema, texts: Sequence[str]) -> Stretch:
    """A stretch of text columns in the types of `needed`."""
    bad: dict[int, Bad] = {}
    arrays = []
    for field, column in zip(needed, stretch.columns.columns, strict=True):
        plain = pc.fill_null(column, "") if field.name in texts else column
        try:
            arrays.append(converted(plain, field.type))
        except pa.ArrowException:
            values, unfit = _each(plain, field.type)
            arrays.append(values)
            for row in stretch.rows[unfit].tolist():
                bad.setdefault(row, Bad(row, "kept_type", field.name, str(field.type), "text"))
    columns = pa.RecordBatch.from_arrays(arrays, schema=needed)
    if not bad:
        return Stretch(columns, stretch.rows, stretch.bad)
    good = ~np.isin(stretch.rows, list(bad))
    return Stretch(
        columns.filter(pa.array(good)), stretch.rows[good], sorted([*stretch.bad, *bad.values()])
    )


def _each(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The values of a column, null where a text is none of that type; and the numbers of these."""
    values, unfit = [], []
    for i in range(len(column)):
        try:
            values.append(converted(column.slice(i, 1), kind))
        except pa.ArrowException:
            values.append(pa.nulls(1, kind))
            unfit.append(i)
    return pa.concat_arrays(values), unfit


def _rows(
    file: CorpusFile,
    layout: Layout,
    names: Sequence[str],
    count: int,
    with_text: bool = False,
    most: int = 0,
) -> Iterator[Stretch]:
    """All rows, `count` of them at most in each stretch, with columns of texts in the order of
    `names`; null where a field is empty. Long fields of at most `most` bytes are held; where it
    is 0, marks stand for them."""
    seen = 0
    try:
        for stretch in _read(file, layout, names, None, count, with_text):
            if len(stretch):
                yield stretch
                seen = max([*stretch.rows[-1:].tolist(), *(b.row for b in stretch.bad[-1:])]) + 1
        return
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
    # And again from the beginning, since pyarrow's reader has no way back.
    long = LongFields(layout.delimiter, layout.is_quoted, most)
    for stretch in _read(file, layout, names, long, count, with_text):
        if new := _from(stretch, seen):
            yield _with_long(new, long, most) if most else new


def _with_long(stretch: Stretch, long: LongFields, most: int) -> Stretch:
    """The stretch with long fields in the place of their marks; rows with longer ones are bad."""
    bad: dict[int, Bad] = {}
    if long.too_long:
        marks = pa.array(sorted(long.too_long))
        for name in stretch.columns.schema.names:
            over = pc.is_in(stretch.columns.column(name), marks).to_numpy(zero_copy_only=False)
            for row in stretch.rows[over].tolist():
                bad[row] = Bad(row, "too_long", name, f"at most {most} bytes", "more")
    good = ~np.isin(stretch.rows, list(bad))
    columns = stretch.columns.filter(pa.array(good)) if bad else stretch.columns
    present = [m for c in columns.columns for m in marks_in(c, long.texts)]
    if present:
        columns = fill(columns, {mark: long.texts.pop(mark) for mark in present})
    return Stretch(columns, stretch.rows[good], sorted([*stretch.bad, *bad.values()]))


def _from(stretch: Stretch, row: int) -> Stretch | None:
    """The rows with a number of `row` and more."""
    start = int(np.searchsorted(stretch.rows, row))
    bad = [one for one in stretch.bad if one.row >= row]
    rest = Stretch(stretch.columns.slice(start), stretch.rows[start:], bad)
    return rest if len(rest) else None


def _read(
    file: CorpusFile,
    layout: Layout,
    names: Sequence[str],
    long: LongFields | None,
    count: int,
    with_text: bool,
) -> Iterator[Stretch]:
    bad: list[Bad] = []

    def skip(row: Any) -> str:
        # Rows are counted from 1 there, with the header.
        number, expected = row.number - 2, f"{row.expected_columns} fields"
        why = long.dropped.get(row.text, "") if long else ""
        if why == "too_long":
            bad.append(Bad(number, why, "", f"at most {LONGEST} bytes", "more"))
        elif why:
            bad.append(Bad(number, why, "", expected, f"more than {MOST_COLUMNS}"))
        else:
            text = row.text if with_text else ""
            bad.append(Bad(number, "fields", "", expected, str(row.actual_columns), text))
        return "skip"

    row = 0
    for batch in _open(file.path, file.kind, layout, names, long, skip):
        texts = [column.view(pa.string()) for column in batch.columns]
        columns = pa.RecordBatch.from_arrays(texts, names=list(names))
        for start in range(0, len(columns), count):
            part, end, between = columns.slice(start, count), row, []
            end += len(part)
            while bad and bad[0].row < end:
                between.append(bad.pop(0))
                end += 1
            rows = np.setdiff1d(np.arange(row, end), [one.row for one in between])
            yield Stretch(part, rows, between)
            row = end
    if bad:
        nothing = pa.schema([(name, pa.string()) for name in names])
        yield Stretch(empty_batch(nothing, names), np.empty(0, np.int64), bad)


def _open(
    path: InputPath,
    kind: str,
    layout: Layout,
    names: Sequence[str],
    long: LongFields | None,
    skip: Any,
) -> Any:
    """A reader of fields as bytes, which calls `skip` with rows that have too few or too many."""
    import pyarrow.csv as pcsv

    pieces = blocks(path, kind)
    stream = (
        _Stream(chain(pieces, [b"\n"])) if long is None else _Stream(long.records(pieces), True)
    )
    return pcsv.open_csv(
        pa.PythonFile(stream, mode="r"),
        pcsv.ReadOptions(use_threads=False, block_size=CHUNK),
        pcsv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.is_quoted else False,
            newlines_in_values=layout.is_quoted,
            invalid_row_handler=skip,
        ),
        pcsv.ConvertOptions(
            check_utf8=False,
            column_types={name: pa.binary() for name in names},
            include_columns=list(names),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


class _Stream:
    """Blocks of bytes as a file; one at a time, whatever its size, where each is whole records."""

    closed = False

    def __init__(self, pieces: Iterator[bytes], whole: bool = False) -> None:
        self._pieces = pieces
        self._rest = b""
        self._whole = whole

    def read(self, size: int) -> bytes:
        if self._whole:
            return next(self._pieces, b"")
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        content, self._rest = self._rest[:size], self._rest[size:]
        return content

    def close(self) -> None:
        self.closed = True
