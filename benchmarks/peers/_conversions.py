"""Conversions of a checkpoint, made once and kept in the job's cache."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cached(job: dict[str, Any], name: str, convert: Callable[[Path], Any]) -> Path:
    """The folder of that name; `convert` fills a temporary one, so it is never half full."""
    folder = Path(job["cache"], name)
    if not folder.exists():
        unfinished = Path(tempfile.mkdtemp(dir=job["cache"]))
        convert(unfinished)
        unfinished.rename(folder)
    return folder
