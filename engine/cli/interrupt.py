"""SIGINT and SIGTERM: stop now, and remember it.

Python drops an exception that a signal raises inside a finalizer or a callback from C. So the
signal is remembered too, and the run's progress call, which comes often, raises it again.
"""

from __future__ import annotations

import signal
from types import FrameType

_received: list[int] = []


def install() -> None:
    """Take both signals for the rest of the process."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has come."""
    if _received:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt
