"""Parquet and Arrow IPC: pyarrow's readers, with foreign errors translated.

Files are read through a buffered stream rather than a memory map, and a few hundred rows at a time,
so that the memory of a run grows neither with the size of a file nor with the length of its texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from engine.core.local_file import opened
from engine.core.settings import for_shell
from engine.core.suggestions import did_you_mean
from engine.core.types import Column, Columns, CorpusFile, InputPath, Split
from engine.data.parquet_footers import check_chunks, check_types
from engine.data.plain_types import PART_OF_STRUCT, Decoder, plain_type
from engine.data.stretches import Stretch
from engine.data.wrong_kinds import advice
from engine.errors import ColumnError, InputError
from engine.library_errors import reason_of, without_quotes

Names = Sequence[str] | None
"""Names of columns; None for all of a file."""

ROWS = 512
BATCH_BYTES = 4 << 20
"""Bytes of a Parquet batch of average rows at most, unless it is one row."""
_LARGEST_BATCH = 64 << 20
"""Bytes of a batch at most where each row may have as many as its column chunk."""
_DENSE = 100  # times smaller than its content; text is some 5 to 20 times
_BUFFER = 1 << 20
# Of Parquet's metadata, where a file of a few bytes may claim anything: a text (the longest is the
# Arrow schema, some MB for tens of thousands of columns), and a list, such as its columns or row
# groups, of which each takes some hundred bytes of memory before it is seen to be missing.
THRIFT_LIMITS = {"thrift_string_size_limit": 64 << 20, "thrift_container_size_limit": 1_000_000}
MOST_FIELDS = 10_000
"""Kept columns at most, the fields of structs counted as columns."""


@contextmanager
def reading(path: InputPath, kind: str) -> Iterator[None]:
    """Translate errors of pyarrow and the file system into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        reason = reason_of(error)
        hint = advice(path, kind) if kind in ("parquet", "arrow") else ""
        hint = hint or "the file is damaged, truncated or of another kind; copy or write it again"
        if isinstance(error, pa.ArrowNotImplementedError):
            hint = "pyarrow cannot read it; write it again without columns of that type"
        if isinstance(error, MemoryError):
            hint = "it claims more than there is memory for: the file is damaged, or has huge rows"
        message = f"{path}: cannot be read as {kind}: {reason}"
        raise InputError(message, hint) from without_quotes(error)


def row_group_starts(path: InputPath) -> list[tuple[int, int]]:
    """(first byte, first row) of each row group of a Parquet file."""
    with reading(path, "parquet"), _open_parquet(path) as file:
        starts, row = [], 0
        check_chunks(file.metadata)
        for i in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(i)
            starts.append((_first_byte(group), row))
            row += group.num_rows
        return starts


def row_count(path: InputPath, row_groups: tuple[int, int]) -> int:
    """Rows of the row groups [first, end) of a Parquet file; of all where end is 0."""
    with reading(path, "parquet"), _open_parquet(path) as file:
        first, end = row_groups
        groups = range(first, end or file.metadata.num_row_groups)
        return int(sum(file.metadata.row_group(i).num_rows for i in groups))


def _first_byte(group: Any) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    starts = (
        c.dictionary_page_offset
        if c.dictionary_page_offset and c.dictionary_page_offset < c.data_page_offset
        else c.data_page_offset
        for c in columns
    )
    return int(min(starts, default=0))


def check_columns(path: InputPath, names: Sequence[str], flag: str, wanted: Sequence[str]) -> None:
    """Raise ColumnError where a column that `flag` names is not among a file's columns `names`; the
    hint has the nearest, and lists the columns that exist."""
    if missing := next((name for name in wanted if name not in names), None):
        listed = ", ".join(map(for_shell, names[:30])) or "it has no columns"
        near = did_you_mean(missing, names)
        raise ColumnError(f"{path}: no column {missing!r}", f"{near}{flag} one of: {listed}")


def check_fields(path: InputPath, kinds: Iterable[pa.DataType]) -> None:
    """Raise ColumnError where kept columns of these types have more than `MOST_FIELDS` fields."""
    if sum(map(_count_fields, kinds)) > MOST_FIELDS:
        raise ColumnError(
            f"{path}: more than {MOST_FIELDS:,} columns or keys would be kept",
            "name those that are needed with --keep; an object whose keys are data is better "
            "written as text",
        )


def _count_fields(kind: pa.DataType) -> int:
    inner = (kind.field(i).type for i in range(kind.num_fields))
    return max(1, sum(map(_count_fields, inner)))


def check_type(path: InputPath, column: Column, kind: pa.DataType) -> None:
    """Raise ColumnError unless a column has the type that the task takes."""
    inner = plain_type(kind)
    text, texts, chat = is_text(inner), is_texts(inner), is_chat(inner)
    fits = {
        "text": text,
        "texts": texts,
        "either": text or texts,
        "chat": text or chat,
        "key": text or pa.types.is_integer(inner),
    }
    if pa.types.is_null(inner) or fits[column.holds]:
        return
    wanted = _WANTED[column.holds]
    hint = f"name a column with {wanted} with --text, or cast {column.name!r} first"
    if chat:
        hint = f"text-generation answers messages with --chat; for another task {hint}"
    raise ColumnError(f"{path}: column {column.name!r} holds {kind}, not {wanted}", hint)


_WANTED = {
    "text": "text",
    "texts": "lists of text",
    "either": "text or lists of it",
    "chat": "text or lists of messages (text fields, with role and content)",
    "key": "text or whole numbers",
}


def is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_chat(kind: pa.DataType) -> bool:
    """Whether it is lists of messages: structs of texts, role and content among them."""
    if not is_list(kind):
        return False
    message = kind.value_type
    if not pa.types.is_struct(message):
        return False
    fields = [message.field(i) for i in range(message.num_fields)]
    names = [field.name for field in fields]
    plain = all(is_text(field.type) or pa.types.is_null(field.type) for field in fields)
    return plain and {"role", "content"} <= set(names) and len(set(names)) == len(names)


def is_texts(kind: pa.DataType) -> bool:
    return is_list(kind) and is_text(kind.value_type)


def is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(of(kind) for of in lists)


def parquet_schema(file: CorpusFile, names: Names, types: bool = True) -> pa.Schema:
    """Names and types of a Parquet file's columns; see `kinds.Kind.schema`."""
    with reading(file.path, "parquet"), _open_parquet(file.path) as parquet:
        check_types(parquet)
        return plain_schema(parquet.schema.to_arrow_schema(), names)


def read_parquet(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The needed columns of a split, some hundred rows at a time, an empty stretch first."""
    path = split.path
    with reading(path, "parquet"), _open_parquet(path) as file:
        names = needed(file.schema_arrow, columns)
        wanted = _leaves(columns.kept, file.schema_arrow, names)
        first, end = split.row_groups
        groups = list(range(first, end or file.metadata.num_row_groups))
        check_chunks(file.metadata)
        rows = _rows_of_batch(file.metadata, groups, wanted)
        batches = file.iter_batches(rows, groups, columns=wanted, use_threads=False)
        yield from _numbered(split, names, file.schema_arrow, batches)


def _leaves(kept: pa.Schema, file: pa.Schema, names: Sequence[str]) -> list[str]:
    """What is read of a Parquet file for columns of these names: of a struct of which only some
    fields are needed, these, as `doc.text`."""
    paths = []
    for name in names:
        field = kept.field(name) if name in kept.names else None
        is_part = bool(field and field.metadata and PART_OF_STRUCT in field.metadata)
        below = _common(field.type, file.field(name).type) if is_part and field else []
        paths += [".".join([name, *path]) for path in below or [()]]
    return paths


def _common(wanted: pa.DataType, kind: pa.DataType) -> list[tuple[str, ...]]:
    """Paths of the fields of a struct that another one has; none where it lacks some."""
    if not pa.types.is_struct(wanted) or not pa.types.is_struct(kind):
        return [()]
    paths = []
    for i in range(wanted.num_fields):
        name = wanted.field(i).name
        index = kind.get_field_index(name)
        below = _common(wanted.field(i).type, kind.field(index).type) if index >= 0 else []
        paths += [(name, *path) for path in below]
    return paths


def _rows_of_batch(metadata: Any, groups: Sequence[int], names: Sequence[str]) -> int:
    """Rows to read at a time, fewer where they are long on average."""
    most, starts = ROWS, tuple(f"{name}." for name in names)
    for group in map(metadata.row_group, groups):
        columns = map(group.column, range(group.num_columns))
        chunks = [c for c in columns if f"{c.path_in_schema}.".startswith(starts)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        most = min(most, max(1, BATCH_BYTES * group.num_rows // max(1, size)))
        most = min(most, max(1, _LARGEST_BATCH // max(1, sum(map(_dense_size, chunks)))))
    return most


def _dense_size(chunk: Any) -> int:
    """Bytes of a column chunk that are packed so densely that it may be a bomb: a text of megabytes
    that a dictionary holds once, and each row refers to."""
    size = int(chunk.total_uncompressed_size)
    return size if size > _DENSE * chunk.total_compressed_size else 0


def arrow_schema(file: CorpusFile, names: Names, types: bool = True) -> pa.Schema:
    """Names and types of the columns of an Arrow IPC file or stream; see `kinds.Kind.schema`."""
    with reading(file.path, "arrow"), opened(file.path) as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        opener = pa.ipc.open_file if is_file else pa.ipc.open_stream
        return plain_schema(opener(stream).schema, names)


def read_arrow(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The needed columns of an Arrow IPC file or stream, an empty stretch first."""
    path = split.path
    with reading(path, "arrow"), opened(path) as stream:
        is_file = stream.read(6) == b"ARROW1"
        opener = pa.ipc.open_file if is_file else pa.ipc.open_stream
        stream.seek(0)
        schema = opener(stream).schema
        names = needed(schema, columns)
        stream.seek(0)
        included = sorted(schema.get_field_index(name) for name in names)
        reader = opener(stream, options=pa.ipc.IpcReadOptions(included_fields=included))
        indexes = range(reader.num_record_batches) if is_file else ()
        batches = map(reader.get_batch, indexes) if is_file else reader
        slices = (b.slice(start, ROWS) for b in batches for start in range(0, b.num_rows, ROWS))
        yield from _numbered(split, names, schema, slices)


def _open_parquet(path: InputPath) -> Any:
    """A Parquet file whose pages are compared with their checksums, where they have some; without,
    a flipped bit is read as another value."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(
        opened(path), buffer_size=_BUFFER, page_checksum_verification=True, **THRIFT_LIMITS
    )


def needed(schema: pa.Schema, columns: Columns) -> list[str]:
    """Those of a file's columns that the run takes."""
    texts = [name for name in columns.texts if name in schema.names]
    kept = [name for name in columns.kept.names if name in schema.names]
    return list(dict.fromkeys([*kept, *texts]))


def _numbered(
    split: Split, names: Sequence[str], schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[Stretch]:
    """Batches as stretches with row numbers, an empty one first."""
    row, decoder = split.first_row, Decoder()
    empty = empty_batch(plain_schema(schema, names), names)
    yield Stretch(empty, np.empty(0, np.int64), [])
    for batch in batches:
        columns = decoder.plain_batch(batch.select(names))
        yield Stretch(columns, np.arange(row, row + batch.num_rows), [])
        row += batch.num_rows


def plain_schema(schema: pa.Schema, names: Names) -> pa.Schema:
    """The columns of these names in plain types, without metadata."""
    fields = [field for field in schema if names is None or field.name in names]
    return pa.schema([(field.name, plain_type(field.type)) for field in fields])


def unify(before: pa.DataType, kind: pa.DataType) -> pa.DataType:
    """The type that Arrow's permissive promotion gives two types; of a whole number type and uint64
    it is uint64, which Arrow takes for int64.

    Raises:
        pyarrow.ArrowException: There is none.
    """
    if pa.uint64() in (before, kind) and all(map(pa.types.is_integer, (before, kind))):
        return pa.uint64()
    schemas = [pa.schema([("", one)]) for one in (before, kind)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def empty_batch(schema: pa.Schema, columns: Sequence[str]) -> pa.RecordBatch:
    """A batch without rows, of some columns of a schema."""
    fields = [schema.field(name) for name in columns]
    return pa.RecordBatch.from_arrays(
        [pa.nulls(0, f.type) for f in fields], schema=pa.schema(fields)
    )
