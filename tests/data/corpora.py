"""A table of corpora as they are found, each with what a run over it has to leave.

A corpus is a few small files, mostly with one fault: kinds of files × what goes wrong in them. It
says which rows come out, which are rejected and why, what the notes say, or how it is refused. The
files are written with the standard library and pyarrow's writers alone, so that other tools can
read them and be compared (`tests/readers/check_corpora.py`).
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Content = bytes | Callable[[Path], None]
"""What a file holds, or a function that makes it at a path."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Corpus:
    """A corpus and what has to come of it.

    Attributes:
        name: Kind and fault.
        files: Content by path below the corpus's folder.
        inputs: What is named of the folder; "" for the folder itself.
        keep: Names of the kept columns.
        settings: Others of the run; `on_error` is "reject" without.
        rows: The kept columns of every row that is answered, in order; one left out is null.
        types: Types of kept columns, those that matter.
        rejects: File, row and code of every bad row.
        notes: What the run notes, without those on the model and the settings.
        error: Where the corpus is refused: the error, what its message says, and its hint.
    """

    name: str
    files: Mapping[str, Content]
    rows: Sequence[Row] = ()
    rejects: Sequence[tuple[str, int, str]] = ()
    notes: Sequence[str] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    error: tuple[str, str, str] | None = None
    inputs: Sequence[str] = ("",)
    keep: Sequence[str] = ("all",)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> list[str]:
        """Write the files below a folder, and return the inputs of the run."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
        return [name if "://" in name else str(folder / name) for name in self.inputs]


def lines(*rows: Row, end: str = "\n") -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def far(count: int = 2) -> bytes:
    """Lines that fill more than the first MiB of a file: ids from 0, text `w0`."""
    filler = "x" * (1200 << 10)
    return lines(*({"text": "w0", "id": n, "filler": filler} for n in range(count)))


FAR = [{"id": 0}, {"id": 1}]
"""The ids of `far()`."""


def table(rows: Sequence[Row], **types: pa.DataType) -> pa.Table:
    """Rows as a table; `text` is text, and the other columns have the types named or pyarrow's."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    typed = {"text": pa.string()} | types
    columns = {n: pa.array([row.get(n) for row in rows], typed.get(n)) for n in names}
    return pa.table(columns)


def parquet(content: pa.Table, **options: Any) -> Content:
    return lambda path: pq.write_table(content, path, **options)


def arrow(content: pa.Table, rows: int | None = None, **options: Any) -> Content:
    return lambda path: _write_ipc(path, content, pa.ipc.new_file, rows, options)


def stream(content: pa.Table, rows: int | None = None, **options: Any) -> Content:
    return lambda path: _write_ipc(path, content, pa.ipc.new_stream, rows, options)


def _write_ipc(
    path: Path, content: pa.Table, make: Any, rows: int | None, options: Mapping[str, Any]
) -> None:
    with (
        pa.OSFile(str(path), "wb") as sink,
        make(sink, content.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        writer.write_table(content, max_chunksize=rows)


def damaged(content: Content, change: Callable[[bytearray], Any]) -> Content:
    """The file with its bytes changed; what the change returns takes their place, if anything."""

    def write(path: Path) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        whole = bytearray(path.read_bytes())
        changed = change(whole)
        path.write_bytes(whole if changed is None else changed)

    return write


def flip(find: bytes) -> Callable[[bytearray], None]:
    """Flips a bit in the first place where some bytes are."""

    def change(whole: bytearray) -> None:
        whole[whole.index(find)] ^= 1

    return change


def half(whole: bytearray) -> bytearray:
    return whole[: len(whole) // 2]


def link(target: str) -> Content:
    return lambda path: path.symlink_to(target)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def bz(content: bytes) -> bytes:
    return bz2.compress(content)


def xz(content: bytes) -> bytes:
    return lzma.compress(content)


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as compressed:
        compressed.write(content)
    return bytes(sink.getvalue().to_pybytes())


def texts(*numbers: int) -> list[dict[str, Any]]:
    """Rows `{"text": "w1", "id": 1}` of these numbers."""
    return [{"text": f"w{n}", "id": n} for n in numbers]
