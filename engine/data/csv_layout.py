"""How a file of CSV or TSV is laid out: its delimiter, its header, and whether it is quoted."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from engine.core.types import CorpusFile, InputPath
from engine.data.compression import open_bytes, plain_kind
from engine.data.csv_quotes import QuoteScanner
from engine.data.wrong_kinds import check_kind
from engine.errors import InputError

CHUNK = 1 << 20
MOST_COLUMNS = 50_000
"""Columns of a file at most: pyarrow takes 10 KB for each."""
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t,;|"}
"""Of each kind, its own one first; another one only where the header does not have that."""
_QUOTED = rb'"(?:[^"]|"")*"'
_FIRST_RECORD = re.compile(rb"(?:[^\"\r\n]|" + _QUOTED + rb'|")*(?:\r?\n|\r|\Z)')


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out.

    Attributes:
        delimiter: What stands between two fields.
        names: Of the columns; none for a file without a line.
        is_quoted: Whether a quotation mark at the beginning of a field is no part of it.
    """

    delimiter: str
    names: tuple[str, ...]
    is_quoted: bool = True


def layout_of(file: CorpusFile) -> Layout:
    """The layout of a file, all of which is looked at.

    Raises:
        InputError: It is of another kind, or the quotation marks of a CSV file do not pair up, so
            that nobody knows where its rows end. Those of TSV are plain characters then.
    """
    state = file.path.stat()
    return _layout(file.path, file.kind, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _layout(path: InputPath, kind: str, size: int, changed: int) -> Layout:
    head = next(blocks(path, kind), b"")
    check_kind(CorpusFile(path, path.name, kind), head)
    match = _FIRST_RECORD.match(head.lstrip(b"\r\n"))
    record = match.group() if match else b""
    if len(record) == len(head) >= CHUNK // 2:
        raise InputError(
            f"{path}: its header has more than a MiB, or none ends there",
            "write it with a header of fewer columns",
        )
    delimiter = _delimiter(record, _DELIMITERS[plain_kind(kind)])
    columns = record.count(delimiter.encode()) + 1
    if columns > MOST_COLUMNS:
        raise InputError(
            f"{path}: its header has {columns:,} columns, and at most {MOST_COLUMNS:,} are read",
            "write it with the columns that are needed",
        )
    names = _names(record, delimiter, quoted=True)
    if fault := QuoteScanner(delimiter).scan(blocks(path, kind)):
        if plain_kind(kind) == "tsv":
            return Layout(delimiter, _names(record, delimiter, quoted=False), is_quoted=False)
        raise InputError(
            f"{path}: {fault}",
            "close the field; within a quoted field a quotation mark is written twice",
        )
    return Layout(delimiter, names)


def _delimiter(record: bytes, delimiters: str) -> str:
    bare = re.sub(_QUOTED, b"", record)
    if delimiters[0].encode() in bare:
        return delimiters[0]
    return max(delimiters, key=lambda one: bare.count(one.encode()))


def _names(record: bytes, delimiter: str, *, quoted: bool) -> tuple[str, ...]:
    """The names in a header, as pyarrow reads them."""
    import pyarrow.csv as pcsv

    if not record.strip(b"\r\n"):
        return ()
    options = pcsv.ParseOptions(
        delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
    )
    header = record.rstrip(b"\r\n") + b"\n"
    return tuple(pcsv.open_csv(io.BytesIO(header), parse_options=options).schema.names)


def blocks(path: InputPath, kind: str) -> Iterator[bytes]:
    """The bytes of a file, about a MiB at a time, without a byte order mark."""
    with open_bytes(path, kind) as stream:
        first = True
        while block := stream.read(CHUNK):
            yield block.removeprefix(_BOM) if first else block
            first = False
