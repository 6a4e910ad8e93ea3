"""A table in memory as a file of a corpus, so that it is settled, read and judged as one.

A table is what has Arrow columns: pyarrow's own, or an object with the Arrow PyCapsule interface
(`__arrow_c_stream__`, `__arrow_c_array__`), such as a frame of Polars or pandas.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa

from engine.core.types import Columns, CorpusFile, Split
from engine.data.columnar import ROWS, Names, empty_batch, needed, plain_schema, reading
from engine.data.plain_types import Decoder
from engine.data.stretches import Stretch
from engine.errors import InputError
from engine.library_errors import reason_of, without_quotes

KIND = "table"
"""A table's kind, a key of `kinds.KINDS`."""


@dataclass(frozen=True, eq=False)
class TablePath:
    """A table where readers take the path of a file.

    Attributes:
        name: What messages call it.
        table: Its columns.
    """

    name: str
    table: pa.Table
    suffix: str = ""

    def __str__(self) -> str:
        return self.name

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """It has no bytes of a file."""
        return io.BytesIO()

    def stat(self) -> Any:
        """Nor a size or a date."""
        return SimpleNamespace(st_size=0, st_mtime_ns=0)


def table_file(table: pa.Table, name: str) -> CorpusFile:
    """A table as a file of a corpus."""
    return CorpusFile(TablePath(name, table), name, KIND)


def table_split(file: CorpusFile) -> Split:
    """The one split of a table."""
    return Split(file, 0, file.name, 0, 0)


def to_table(value: object, column: str, name: str) -> pa.Table:
    """What somebody has in memory as a table, without a copy.

    Args:
        value: A table, a batch, a column, or an object with the Arrow PyCapsule interface.
        column: The name of a column that has none itself.
        name: What messages call it.

    Raises:
        InputError: It has no Arrow columns, or they cannot be taken over.
    """
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    try:
        array = _as_array(value, name)
        if pa.types.is_struct(array.type):
            return pa.Table.from_struct_array(array)
        return pa.table({column: array})
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: a {type(value).__name__} that cannot be taken over: {reason_of(error)}",
            "make a pyarrow.Table of it",
        ) from without_quotes(error)


def tables_of(value: Iterable[object]) -> Iterable[object]:
    """The tables of a stream: what is iterated over, or the batches of what has an Arrow stream
    itself, such as a pyarrow.Table, whose iteration would give columns."""
    if hasattr(value, "__arrow_c_stream__"):
        try:
            batches: Iterable[object] = pa.RecordBatchReader.from_stream(value)
            return batches
        except pa.ArrowException:  # a stream of columns
            return [value]
    return [value] if hasattr(value, "__arrow_c_array__") else value


def _as_array(value: object, name: str) -> pa.ChunkedArray:
    """Its column, or its columns as a struct."""
    if isinstance(value, pa.ChunkedArray):
        return value
    if isinstance(value, pa.Array):
        return pa.chunked_array([value])
    if hasattr(value, "__arrow_c_stream__"):
        return pa.chunked_array(value)
    if hasattr(value, "__arrow_c_array__"):
        return pa.chunked_array([pa.array(value)])
    raise InputError(
        f"{name}: a {type(value).__name__} has no Arrow columns",
        'give a pyarrow.Table, such as pyarrow.table({"text": ["..."]}), or a frame of Polars or '
        "pandas; bundle([...]) answers a list",
    )


def table_schema(file: CorpusFile, names: Names, types: bool = True) -> pa.Schema:
    """Names and types of a table's columns; see `kinds.Kind.schema`."""
    return plain_schema(_table(file).schema, names)


def read_table(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The needed columns of a table, an empty stretch first: as many rows at a time as of a file,
    wherever its chunks end."""
    table = _table(split.file)
    names = needed(table.schema, columns)
    plain, decoder, row = plain_schema(table.schema, names), Decoder(), 0
    yield Stretch(empty_batch(plain, names), np.empty(0, np.int64), [])
    with reading(split.path, KIND):
        for slices in _even(table.select(names).to_batches(), ROWS):
            parts = [decoder.plain_batch(part) for part in slices]
            batch = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
            yield Stretch(batch, np.arange(row, row + batch.num_rows), [])
            row += batch.num_rows


def _even(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[Sequence[pa.RecordBatch]]:
    """Slices of batches that together have `rows` rows, the last ones as many as are left."""
    slices: list[pa.RecordBatch] = []
    left = rows
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            slices.append(batch.slice(start, left))
            start += slices[-1].num_rows
            left -= slices[-1].num_rows
            if not left:
                yield slices
                slices, left = [], rows
    if slices:
        yield slices


def _table(file: CorpusFile) -> pa.Table:
    assert isinstance(file.path, TablePath)
    return file.path.table
