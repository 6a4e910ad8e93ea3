"""Standard input as a file of the corpus: written to a temporary file first.

A run hashes its inputs, looks at their columns and cuts them before it answers the first row, and a
pipe can be read only once. The file goes when the process ends; `TMPDIR` says where it lies.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.core.types import InputPath
from engine.errors import InputError

DASH = "-"
"""The input that stands for it."""
_spooled: dict[Any, tempfile.TemporaryDirectory[str]] = {}  # each goes when the process ends


def spool() -> Path:
    """A file with all that comes from standard input; the same one at every call.

    Raises:
        InputError: It is a terminal, or the file cannot be written.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            f"{DASH}: nothing is piped into standard input", "zcat rows.gz | engine run MODEL - ..."
        )
    if sys.stdin in _spooled:
        return Path(_spooled[sys.stdin].name, "stdin")
    folder = _spooled[sys.stdin] = tempfile.TemporaryDirectory(prefix="engine-stdin-")
    path = Path(folder.name, "stdin")
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    except OSError as error:
        raise InputError(
            f"{DASH}: cannot be written to {path}: {error.strerror}",
            "set TMPDIR to a folder with room for all of it",
        ) from error
    return path


def drop() -> None:
    """Remove what `spool` has written, where the process is about to end without more ado."""
    for folder in _spooled.values():
        with suppress(OSError):
            folder.cleanup()


def is_spooled(path: InputPath) -> bool:
    """Whether a file is what `spool` has written."""
    folders = [Path(folder.name) for folder in _spooled.values()]
    return isinstance(path, Path) and path.parent in folders
