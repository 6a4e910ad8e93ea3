"""The user's folder for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$CORPUS_ENGINE_CACHE, or corpus-engine in the user's cache folder."""
    if path := os.environ.get("CORPUS_ENGINE_CACHE"):
        return Path(path).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "corpus-engine"
