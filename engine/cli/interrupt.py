"""SIGINT and SIGTERM stop the command, even where Python would lose the exception.

Python drops an exception that a signal handler raises inside a finalizer or a callback from C. So
the signal is recorded too, and the next progress callback of the run raises it again. A stopped
process does not wait for threads that are inside of a library's call.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from typer.core import TyperGroup

from engine.errors import EngineError, Stopped

_received: list[int] = []


class Interruptible(TyperGroup):
    """The command line. An interrupt ends it with exit code 75; typer would exit with 130."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped("stopped") from error
        except (EngineError, ImportError) as error:
            # Modules of C make an ImportError of a signal that comes while they are imported.
            if _received and not isinstance(error, Stopped):
                raise Stopped("stopped") from error
            raise
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; typer would exit with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


def install() -> None:
    """Handle both signals for the rest of the process."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived."""
    if _received:
        raise KeyboardInterrupt


def leave() -> NoReturn:
    """End the process with exit code 75; what a run keeps is on the disk by then."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(75)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt
