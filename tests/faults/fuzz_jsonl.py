"""An oracle of JSON lines: which rows are good, and their values, by the standard library.

pyarrow's parser takes more than the standard library does: words such as `Inf` and `-NaN`, and any
bytes in the texts of columns that are not read.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from faults.fuzzing import run
from faults.reading_rows import Contents, read_all

from engine.data.json_layout import LINES, layout_of
from engine.errors import ColumnError, InputError

WORDS = (
    *(b'"text":', b'"v":', b'{"text":"t","v":', b"null", b"true", b"false", b"NaN", b"Infinity"),
    *(b"\\u0000", b"\\ud800", b"\\udc00", b"\\\\", b'\\"', b"\r\n", b"\n\n", b"1e400", b"-0.0"),
    *(b"18446744073709551616", b"\xef\xbb\xbf", b"\xff", b"[[", b"{}", b'{"a":', b"}\n{", b"},{"),
)
BESIDE = b'{"text":"beside","v":null}'
_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-jsonl-")
_LENIENT = (b"NaN", b"Inf")


def check(content: bytes) -> None:
    """Raise where the engine reads lines otherwise than the standard library."""
    whole = b"\n".join([BESIDE, content, BESIDE])
    path = Path(_FOLDER.name, "corpus.jsonl")
    path.write_bytes(whole)
    try:
        contents = read_all(path, keep=("v",))
    except ColumnError:
        return  # a type that no column can have
    except InputError as error:
        if "cannot be read as" in error.message:
            raise
        return
    if layout_of(whole, whole=True) == LINES:
        for number, line in enumerate(whole.split(b"\n")):
            _check_line(contents, number, line.strip(b" \t\r"))


def _check_line(contents: Contents, number: int, line: bytes) -> None:
    is_row, is_bad = number in contents.rows, number in contents.rejects
    assert not (is_row and is_bad)
    if not line:
        assert not is_row
        assert not is_bad
        return
    assert is_row or is_bad, "a line is lost"
    value = _parsed(line)
    if value is None:
        may_be = not _is_text(line) or any(word in line for word in _LENIENT)
        assert is_bad or may_be, "a row that is no JSON"
        return
    good = isinstance(value, dict) and isinstance(value.get("text"), str)
    if is_row:
        text, (kept,) = contents.rows[number]
        assert good, "a row without a text"
        assert text == value["text"], "another text"
        assert _equal(kept, value.get("v")), "another value"
    elif good:
        code, column = contents.rejects[number]
        fits = code in ("kept_type", "invalid_utf8", "too_deep")
        assert fits, f"a good line is bad: {code} {column}"
        assert code != "kept_type" or column.startswith("v"), column


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        return None


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _equal(kept: Any, value: Any) -> bool:
    """Whether a column has a value of JSON; keys of other rows' objects are null."""
    if isinstance(kept, dict) and isinstance(value, dict):
        return all(_equal(kept.get(key), value.get(key)) for key in kept.keys() | value.keys())
    if isinstance(kept, list) and isinstance(value, list):
        return len(kept) == len(value) and all(map(_equal, kept, value))
    if isinstance(kept, float) and isinstance(value, float) and math.isnan(value):
        return math.isnan(kept)
    return isinstance(kept, bool) == isinstance(value, bool) and bool(kept == value)


if __name__ == "__main__":
    run("fuzz_jsonl")
