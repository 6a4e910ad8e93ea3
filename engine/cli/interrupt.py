"""SIGINT and SIGTERM: stop now, and remember it.

Python drops an exception that a signal raises inside a finalizer or a callback from C. So the
signal is remembered too, and the run's progress call, which comes often, raises it again.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from typer.core import TyperGroup

from engine.errors import Stopped

_received: list[int] = []


class Interruptible(TyperGroup):
    """The command line, whose interrupts end as the engine's own do; typer would exit with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped("stopped") from error


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
