"""Progress in a notebook: one line of text that is written over, in the output of the cell."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from engine.core.telemetry import Progress
from engine.printable import printable

_SECONDS = 0.5
"""Between two lines, each of which travels to the browser."""


def running() -> bool:
    """Whether this process is the kernel of a notebook. IPython is not imported to find out."""
    shell = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and shell is not None and shell.get_ipython() is not None


def watching() -> Callable[[Progress], None] | None:
    """What shows progress in the cell, None outside of a notebook."""
    return _Line() if running() else None


class _Line:
    """A display that is made at the first progress, and updated from then on."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = -_SECONDS

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS and progress.done < 1:
            return
        self._last = now
        content = {"text/plain": printable(f"{progress.done:4.0%}  {progress}")}
        if self._handle is None:
            shown = import_module("IPython.display")  # of the kernel: it is loaded already
            self._handle = shown.display(content, raw=True, display_id=True)
        elif self._handle:
            self._handle.update(content, raw=True)
