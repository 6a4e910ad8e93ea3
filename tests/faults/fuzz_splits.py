"""An oracle of splits: a file that is cut anywhere has the rows of the whole file.

The first byte of a content says its kind, the second how large splits and blocks are.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from faults.fuzzing import run
from faults.reading_rows import read_all

from engine.data import line_chunks
from engine.data.csv_quotes import QuoteScanner
from engine.data.json_layout import ARRAY, OBJECTS, as_lines
from engine.errors import EngineError

WORDS = (
    *(b'{"text":"t"}', b'{"text":"', b'"},', b"}\n{", b"},\n{", b"[\n", b"\n]", b"\r\n", b"\n\n"),
    *(b'""', b'","', b'"\n"', b"text,v\n", b"a\tb", b"\xef\xbb\xbf", b"\\\\", b'\\"', b"\\u00e9"),
    *("é".encode(), b"null\n", b"[1]\n", b"\0", b"\xff"),
)
_BOM = b"\xef\xbb\xbf"
KINDS = ("jsonl", "json", "txt", "csv", "tsv")
_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-splits-")
_NUMBERS = count()


def check(content: bytes) -> None:
    """Raise where rows or quotation marks depend on where a file is cut."""
    if len(content) < 3:
        return
    kind, size, content = KINDS[content[0] % len(KINDS)], content[1] % 64 + 1, content[2:]
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    if kind in ("csv", "tsv"):
        delimiter = "," if kind == "csv" else "\t"
        whole = QuoteScanner(delimiter).scan([content])
        assert QuoteScanner(delimiter).scan(pieces) == whole, "other quotation marks"
    if kind == "json":
        _check_layouts(content, pieces)
    _check_rows(kind, size, content)


def _check_layouts(content: bytes, pieces: list[bytes]) -> None:
    for layout in (ARRAY, OBJECTS):
        whole = _outcome(lambda form=layout: _lines(form, [content]))
        cut = _outcome(lambda form=layout: _lines(form, pieces))
        assert cut == whole, f"other lines of {layout}"


def _lines(layout: str, pieces: list[bytes]) -> bytes:
    """The lines of a file; of a block of spaces there is one."""
    return re.sub(rb"[ \t\r]+", b" ", b"".join(as_lines(Path("f"), pieces, layout)))


def _check_rows(kind: str, size: int, content: bytes) -> None:
    path = Path(_FOLDER.name, f"{next(_NUMBERS)}.{kind}")  # a name of its own: layouts are cached
    path.write_bytes(content)
    keep = () if kind == "txt" else ("all",)
    try:
        whole = _outcome(lambda: read_all(path, keep))
        cut = _outcome(lambda: read_all(path, keep, split_size=size))
        assert cut == whole, "other rows in splits"
        with patch.object(line_chunks, "CHUNK", max(size, len(_BOM))):  # which is in one block
            cut = _outcome(lambda: read_all(path, keep))
        # The first block tells what a file is: a short one may tell it otherwise.
        assert cut == whole or "InputError" in (cut, whole), "other rows in blocks"
    finally:
        path.unlink()


def _outcome(call: Callable[[], Any]) -> str:
    """What a call gives, or the kind of its error."""
    try:
        return repr(call())  # NaN is not equal to itself
    except EngineError as error:
        return type(error).__name__


if __name__ == "__main__":
    run("fuzz_splits")
