"""The formats of part files: how each is written, counted and read back.

    arrow, parquet    have their schema in them, but for the names of fields of lists in Parquet
jsonl             an object a line with every column, see `json_text`; a NaN is null there
csv               a header; nested columns as JSON text, bytes as base64; null is an empty
                  cell and an empty text is ""
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.config import FORMATS
from engine.core.local_file import opened
from engine.data import json_text
from engine.data.columnar import THRIFT_LIMITS, reading
from engine.data.text_types import read_back, restored

if TYPE_CHECKING:
    import pyarrow.dataset

_BLOCK = 1 << 20
ROWS = 4096
"""Rows of a batch of `columns` at most."""
_BATCH = 32 << 20  # bytes of rows of Parquet that are decoded at a time
_LONGEST_ROW = 64 << 20  # of a text format, when it is read back


class Writer(Protocol):
    """What appends record batches to a file."""

    def write_batch(self, columns: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    """Writes each row as a JSON line."""

    def __init__(self, sink: Any, schema: pa.Schema, compression: str) -> None:
        self._sink = sink

    def write_batch(self, columns: pa.RecordBatch) -> None:
        self._sink.write(json_text.json_lines(columns))

    def close(self) -> None:
        self._sink.close()


class CsvWriter:
    """Writes CSV with a header, which a file without rows has too."""

    def __init__(self, sink: Any, schema: pa.Schema, compression: str) -> None:
        import pyarrow.csv as pcsv

        self._schema = pa.schema([(f.name, _csv_type(f.type)) for f in schema])
        self._writer = pcsv.CSVWriter(pa.PythonFile(sink, mode="w"), self._schema)

    def write_batch(self, columns: pa.RecordBatch) -> None:
        arrays = [_csv_column(column) for column in columns.columns]
        if len(arrays) == 1 and pa.types.is_large_string(arrays[0].type):
            arrays = [pc.fill_null(arrays[0], "")]  # readers skip an empty line
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _csv_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is handed to pyarrow's writer: numbers, flags or text."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_duration(kind):
        return pa.int64()
    as_it_is = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return kind if any(of(kind) for of in as_it_is) else pa.large_string()


def _csv_column(column: pa.Array) -> pa.Array:
    column = json_text.plain(column)
    kind, wanted = column.type, _csv_type(column.type)
    if json_text.is_nested(kind):
        return pc.if_else(column.is_valid(), json_text.json_text(column), pa.scalar(None, wanted))
    if json_text.is_binary(kind):
        return json_text.base64_text(column)
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return json_text.iso_text(column)
    return column.cast(wanted)


def _arrow_writer(sink: Any, schema: pa.Schema, compression: str) -> Writer:
    codec = None if compression == "none" else compression
    options = pa.ipc.IpcWriteOptions(compression=codec)
    writer: Writer = pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema, options=options)
    return writer


def _parquet_writer(sink: Any, schema: pa.Schema, compression: str) -> Writer:
    import pyarrow.parquet as pq

    writer: Writer = pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"), schema, compression=compression
    )
    return writer


def _arrow_rows(file: Path) -> int:
    with opened(file) as stream:
        reader = pa.ipc.open_file(stream)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def _parquet_rows(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(opened(file)).num_rows)


def _line_count(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(_BLOCK), b""))


def _csv_rows(file: Path) -> int:
    """Rows without the header; a line break between quotation marks ends none."""
    count, quotes = -1, 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            characters = np.frombuffer(block, np.uint8)
            before = quotes + np.cumsum(characters == ord('"'))
            count += int(((characters == ord("\n")) & (before % 2 == 0)).sum())
            quotes = int(before[-1])
    return count


def _stream_writer(sink: Any, schema: pa.Schema, compression: str) -> Writer:
    codec = None if compression == "none" else compression
    options = pa.ipc.IpcWriteOptions(compression=codec)
    writer: Writer = pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema, options=options)
    return writer


@dataclass(frozen=True)
class Format:
    """A format of part files.

    Attributes:
        writer: A sink, a schema and a compression -> what appends to the sink.
        count_rows: The rows of a file; the ends of a file are looked at, or all of it.
        has_types: Whether a file says what types its columns have.
    """

    writer: Callable[[Any, pa.Schema, str], Writer]
    count_rows: Callable[[Path], int]
    has_types: bool


TABLE = {
    "arrow": Format(_arrow_writer, _arrow_rows, has_types=True),
    "parquet": Format(_parquet_writer, _parquet_rows, has_types=True),
    "jsonl": Format(JsonLinesWriter, _line_count, has_types=False),
    "csv": Format(CsvWriter, _csv_rows, has_types=False),
}
"""The formats of `core.config.FORMATS`."""


STREAM = "arrow stream"
"""Arrow's format of streams, for a pipe."""


def part_writer(kind: str, sink: Any, schema: pa.Schema, compression: str) -> Writer:
    """What appends to a sink in a format of `TABLE`, or in `STREAM`."""
    write = _stream_writer if kind == STREAM else TABLE[kind].writer
    return write(sink, schema, compression)


def format_of(file: Path | str) -> str:
    """The format of a part by its ending."""
    ending = Path(file).suffix
    return next(name for name, known in FORMATS.items() if known == ending)


def count_rows(file: Path) -> int:
    """Rows of a part."""
    return TABLE[format_of(file)].count_rows(file)


def schema_text(schema: pa.Schema, kind: str) -> str:
    """A schema as text for the record of a part; "" for Arrow, where the part has it."""
    if kind == "arrow":
        return ""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_of_text(text: str) -> pa.Schema:
    """The schema of a text by `schema_text`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def schema_of(file: Path, schema: pa.Schema | None) -> pa.Schema:
    """Names and types of a part's columns.

    Args:
        file: The part.
        schema: Of the table, as the part's record has it.

    Raises:
        InputError: It is damaged.
    """
    kind = format_of(file)
    if schema is None:
        with reading(file, kind):
            schema = dataset([file], kind, None).schema
    return pa.schema([(field.name, field.type) for field in schema])


def dataset(
    files: Sequence[Path],
    kind: str,
    schema: pa.Schema | None,
    file_system: Any = None,
) -> pyarrow.dataset.Dataset:
    """Parts as a pyarrow dataset, nothing read yet; in a text format in the types of `read_back`.

    Args:
        files: The parts, in order.
        kind: Their format.
        schema: Of the table, as the part's record has it.
        file_system: Of pyarrow, where they are; None for the local one.
    """
    import pyarrow.dataset as ds
    import pyarrow.fs as pafs

    place, paths = file_system or pafs.LocalFileSystem(), [str(file) for file in files]
    if file_system is None and files and not str(files[0].parent).isprintable():
        # Names of parts are valid text always; that of the folder is whatever the person gave.
        place = pafs.SubTreeFileSystem(os.fsencode(files[0].parent), place)
        paths = [file.name for file in files]
    if files and TABLE[kind].has_types:
        return ds.dataset(paths, format=kind, filesystem=place)
    readable = schema and pa.schema([(f.name, read_back(f.type, kind)) for f in schema])
    infos = place.get_file_info(paths)
    with_rows = [info.path for info in infos if info.size]  # pyarrow opens no empty one
    if not with_rows:
        return ds.dataset((readable or pa.schema([])).empty_table())
    form = _reader(kind, readable)
    return ds.dataset(with_rows, format=form, schema=readable, filesystem=place)


def _reader(kind: str, schema: pa.Schema | None) -> pyarrow.dataset.FileFormat:
    import pyarrow.csv as pcsv
    import pyarrow.dataset as ds
    import pyarrow.json as pj

    if kind == "jsonl":
        return ds.JsonFileFormat(read_options=pj.ReadOptions(block_size=_LONGEST_ROW))
    return ds.CsvFileFormat(
        pcsv.ParseOptions(newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
        read_options=pcsv.ReadOptions(block_size=_LONGEST_ROW),
    )


def batches(file: Path, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    """The rows of a part in the types that they were written in, in batches as they were written
    where the format has types.

    Args:
        file: The part.
        schema: Of the table, as the part's record has it.

    Raises:
        InputError: It is damaged.
    """
    kind = format_of(file)
    with reading(file, kind):
        yield from _READERS[kind](file, schema)


def _arrow_batches(file: Path, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    with opened(file) as stream:
        reader = pa.ipc.open_file(stream)
        yield from map(reader.get_batch, range(reader.num_record_batches))


def _parquet_batches(file: Path, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(opened(file), page_checksum_verification=True, **THRIFT_LIMITS) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            for batch in parquet.read_row_group(group, use_threads=False).to_batches():
                yield batch if schema is None else batch.cast(schema)  # a list's field has its name


def _text_batches(file: Path, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    assert schema is not None
    rows = dataset([file], format_of(file), schema)
    for batch in rows.scanner(use_threads=False, batch_size=4096).to_batches():
        arrays = [
            restored(batch.column(i), field.type, field.name) for i, field in enumerate(schema)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


_READERS: dict[str, Callable[[Path, pa.Schema | None], Iterator[pa.RecordBatch]]] = {
    "arrow": _arrow_batches,
    "parquet": _parquet_batches,
    "jsonl": _text_batches,
    "csv": _text_batches,
}


def columns(file: Path, schema: pa.Schema | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a part, in batches of at most `ROWS` rows; what is in memory at a time does
    not grow with the part.

    Args:
        file: The part.
        schema: Of the table, as the part's record has it.
        names: Of the columns, in the order in which they come.

    Raises:
        InputError: It is damaged.
    """
    kind = format_of(file)
    with reading(file, kind):
        for batch in _COLUMN_READERS[kind](file, schema, list(names)):
            chosen = batch.select(list(names))
            yield from (chosen.slice(i, ROWS) for i in range(0, chosen.num_rows, ROWS))


def _arrow_columns(
    file: Path, schema: pa.Schema | None, names: list[str]
) -> Iterator[pa.RecordBatch]:
    with opened(file) as stream:
        there = pa.ipc.open_file(stream).schema
        wanted = pa.ipc.IpcReadOptions(
            included_fields=sorted(there.get_field_index(name) for name in names), use_threads=False
        )
        reader = pa.ipc.open_file(stream, options=wanted)
        yield from map(reader.get_batch, range(reader.num_record_batches))


def _parquet_columns(
    file: Path, schema: pa.Schema | None, names: list[str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    # Without a buffer a row group is read as a whole; and over several of them pyarrow keeps the
    # lists of all that it has read.
    with pq.ParquetFile(
        opened(file), buffer_size=_BLOCK, page_checksum_verification=True, **THRIFT_LIMITS
    ) as parquet:
        for group in range(parquet.num_row_groups):
            about = parquet.metadata.row_group(group)
            rows = _BATCH * about.num_rows // max(about.total_byte_size, 1)
            yield from parquet.iter_batches(
                min(max(rows, 1), ROWS), row_groups=[group], columns=names, use_threads=False
            )


def _text_columns(
    file: Path, schema: pa.Schema | None, names: list[str]
) -> Iterator[pa.RecordBatch]:
    assert schema is not None
    own = pa.schema([schema.field(name) for name in names])
    scanner = dataset([file], format_of(file), schema).scanner(
        columns=names, use_threads=False, batch_size=ROWS, batch_readahead=1, fragment_readahead=1
    )
    for batch in scanner.to_batches():
        arrays = [restored(batch.column(i), field.type, field.name) for i, field in enumerate(own)]
        yield pa.RecordBatch.from_arrays(arrays, schema=own)


_COLUMN_READERS: dict[
    str, Callable[[Path, pa.Schema | None, list[str]], Iterator[pa.RecordBatch]]
] = {
    "arrow": _arrow_columns,
    "parquet": _parquet_columns,
    "jsonl": _text_columns,
    "csv": _text_columns,
}
