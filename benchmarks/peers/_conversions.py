"""Conversions of a checkpoint that are made once and kept in the job's cache."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kept(job: dict[str, Any], name: str, make: Callable[[Path], Any]) -> Path:
    """The folder of that name; `make` fills a temporary one, so that half of one is never found."""
    folder = Path(job["cache"], name)
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=job["cache"]))
        make(made)
        made.rename(folder)
    return folder
