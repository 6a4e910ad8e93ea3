"""The kinds of files that a corpus may have: how each is recognized, described and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from engine.core.types import Column, Columns, CorpusFile, InputPath, Split
from engine.data import columnar, csv_reader, json_types, tables, text_lines
from engine.data.columnar import Names
from engine.data.compression import COMPRESSIONS, MAGIC
from engine.data.jsonl import read_jsonl
from engine.data.stretches import Stretch


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        endings: Of the names of its files.
        schema: A file and the names of columns -> names and types of those that it has, in the
            order of the file; of all of its columns for None. Without dictionaries and views. Where
            the third argument is false the types are not needed, and a file whose lines name its
            columns need not be read to its end.
        read: A split and the columns of the run -> its rows: the input columns, and those of the
            kept columns that the file has, in their settled types or in types that
            Arrow casts to them. The first stretch may be empty, and has the columns.
        inputs: For a kind whose lines are judged alone: a file and the columns that the task takes
            -> the types in which these are read. None where a column has one type in a file.
        untyped: Whether values are texts, which may be read in any type.
    """

    endings: tuple[str, ...]
    schema: Callable[[CorpusFile, Names, bool], pa.Schema]
    read: Callable[[Split, Columns], Iterator[Stretch]]
    inputs: Callable[[CorpusFile, Sequence[Column]], dict[str, pa.DataType]] | None = None
    untyped: bool = False


_JSON = Kind((".jsonl", ".ndjson", ".json"), json_types.schema, read_jsonl, json_types.input_types)


def _csv(ending: str) -> Kind:
    return Kind(
        (ending,), csv_reader.schema, csv_reader.read_csv, csv_reader.input_types, untyped=True
    )


_PLAIN = {
    "parquet": Kind((".parquet", ".pq"), columnar.parquet_schema, columnar.read_parquet),
    "jsonl": _JSON,
    "csv": _csv(".csv"),
    "tsv": _csv(".tsv"),
    "txt": Kind((".txt",), text_lines.text_schema, text_lines.read_text),
    "arrow": Kind((".arrow", ".ipc", ".feather"), columnar.arrow_schema, columnar.read_arrow),
    tables.KIND: Kind((), tables.table_schema, tables.read_table),
}
_OF_TEXT = ("jsonl", "csv", "tsv", "txt")
"""Kinds that may be compressed in any way of `COMPRESSIONS`: read through `open_bytes`."""


def _compressed(kind: Kind, suffix: str) -> Kind:
    return replace(kind, endings=tuple(f"{ending}.{suffix}" for ending in kind.endings))


KINDS = _PLAIN | {
    f"{name}.{suffix}": _compressed(_PLAIN[name], suffix)
    for name in _OF_TEXT
    for suffix in COMPRESSIONS
}
ENDINGS = {ending: name for name, kind in KINDS.items() for ending in kind.endings}


def kind_of(path: InputPath) -> str | None:
    """The kind of a file by its ending, a key of `KINDS`; None for an unknown ending."""
    return kind_of_name(path.name)


def kind_of_name(name: str) -> str | None:
    """`kind_of` a file of this name."""
    start, dot, last = name.lower().rpartition(".")
    if not dot:
        return None
    _, dot, before = start.rpartition(".")
    kind = ENDINGS.get(f".{before}.{last}") if dot else None
    return kind or ENDINGS.get(f".{last}")


def kind_as(path: InputPath, input_format: str) -> str:
    """The kind of a file that is said to be of a format, one of `core.config.INPUT_FORMATS`:
    compressed as its first bytes say."""
    kind = {"json": "jsonl", "ndjson": "jsonl", "ipc": "arrow"}.get(input_format, input_format)
    with path.open("rb") as stream:
        head = stream.read(6)
    suffix = next((one for one, magic in MAGIC.items() if head.startswith(magic)), "")
    compressed = f"{kind}.{suffix}"
    return compressed if suffix and compressed in KINDS else kind
