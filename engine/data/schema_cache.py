"""What a pass over a large file found, kept for the next start of a run.

Lines and records have no types but those that a pass over the whole file finds. A start that goes
on where another stopped would pass over all of a corpus again. What is kept is used only for the
very file: the same place, size and dates to the nanosecond, among them that of the last change,
which nobody sets by hand. A file that was written shortly before it was read is passed over again,
since a second change within one tick of the clock would not show.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from engine.core.types import CorpusFile, InputPath
from engine.data.object_files import ObjectPath
from engine.version import __version__

PASSES = "schema.json"
"""Name of the file, in the folder of a run's records."""
LEAST = 4 << 20
"""Bytes of a file that are worth a record; a smaller one is passed over in less than 0.1 s."""
_SETTLED_NS = 2_000_000_000


class SchemaCache:
    """The schemas of files by what was asked, from a file of an earlier start.

    Args:
        path: Where they are kept; a file that is missing or damaged counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self._earlier = _read(path)
        self._used: dict[str, str] = {}

    def schema(self, file: CorpusFile, asked: object, read: Callable[[], pa.Schema]) -> pa.Schema:
        """The schema that `read` gives, or that it gave for this file at an earlier start.

        `asked` is all that the result depends on besides the file, as a JSON value.
        """
        state = _state(file.path)
        if state is None:
            return read()
        key = json.dumps([__version__, pa.__version__, file.kind, str(file.path), state, asked])
        schema = _schema_of(self._earlier.get(key))
        if schema is None:
            schema = read()
            if _state(file.path) != state:
                return schema  # it changes meanwhile
        self._used[key] = base64.b64encode(schema.serialize().to_pybytes()).decode()
        return schema

    def text(self) -> str:
        """What to keep for the next start; "" for nothing."""
        return json.dumps(self._used) if self._used else ""


def _state(path: InputPath) -> list[int | str] | None:
    """What changes with a file's bytes; None where it is small or was changed just now."""
    if isinstance(path, ObjectPath):
        return [path.identity()] if path.size >= LEAST and path.identity() else None
    try:
        status = os.stat(str(path))
    except OSError:
        return None
    latest = max(status.st_mtime_ns, status.st_ctime_ns)
    if status.st_size < LEAST or time.time_ns() - latest < _SETTLED_NS:
        return None
    return [
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    ]


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _schema_of(text: object) -> pa.Schema | None:
    """The schema that a record holds; None where there is none, or it is damaged."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(str(text), validate=True)))
    except (ValueError, pa.ArrowException, OSError, EOFError):
        return None
