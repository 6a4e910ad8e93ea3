"""SIGINT, SIGTERM and SIGHUP (on Windows Ctrl-Break) end the process with exit code 75, whatever it
is doing.

    before the command     at once: nothing has been done yet
    within it              by a KeyboardInterrupt, so that it closes what it has open; where that
                           takes more than `PATIENCE_SECONDS`, and at a second Ctrl-C, at once
    behind it              at once, with the exit code that the command has earned

Python runs a handler between two of its own instructions, and drops an exception that the handler
raises inside a finalizer or a callback from C. So a thread hears of each signal from the system,
and ends a process whose main thread is inside of a library's call. What a run keeps is written as
it is computed, so that an end at once loses what is in hand and nothing else.

Nothing heavy is imported here: the handlers come before the imports.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from engine.core.system_calls import Incoming, write_now

STOPPED = 75
PATIENCE_SECONDS = 2.2
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
HINT = "run the same command again to go on"

_received: list[int] = []
_state: dict[str, int] = {}
"""`begun`, once the command has; `code`, once it has ended."""


def install() -> None:
    """Handle the signals for the rest of the process. SIGHUP stays ignored under `nohup`."""
    if "installed" in _state:
        return
    _state["installed"] = 1
    for number in _SIGNALS:
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _unraisable
    # Registered first and so called last: Python then gives handled signals back to the system.
    atexit.register(_ignore)
    _start_clock()


def begin() -> None:
    """The command begins: from now on a signal is a KeyboardInterrupt."""
    _state["begun"] = 1


def finish(code: int) -> None:
    """The command has ended with an exit code, and no signal changes that any more."""
    with suppress(OSError, ValueError):  # what Python finds, too, and says
        sys.stdout.flush()
    _state["code"] = code


def received() -> bool:
    """Whether a signal has arrived."""
    return bool(_received)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived."""
    if _received:
        raise KeyboardInterrupt


def leave_stopped() -> NoReturn:
    """End the process as a signal does that came within the command."""
    leave(f"stopped\nhint: {HINT}")


def leave(text: str, code: int = STOPPED) -> NoReturn:
    """End the process with a message, and without threads that are inside of a library's call; what
    a run keeps is on the disk by then."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    _say(text)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    # A temporary file of standard input goes at a normal end.
    if spooled := sys.modules.get("engine.data.standard_input"):
        spooled.drop()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if "code" in _state:
        os._exit(_state["code"])
    repeated = bool(_received)
    _received.append(number)
    if "begun" not in _state:
        _leave_at_once("stopped before anything was done")
    if not repeated:
        raise KeyboardInterrupt


def _leave_at_once(text: str) -> NoReturn:
    _say(f"{text}\nhint: {HINT}")
    os._exit(STOPPED)


def _say(text: str) -> None:
    """An error on standard error, unless nobody reads it: a full pipe must not hold the exit."""
    from engine.printable import printable

    text = "\n".join(map(printable, text.split("\n")))
    with suppress(OSError, ValueError):
        write_now(2, f"error: {text}\n".encode(errors="replace"))


def _start_clock() -> None:
    import threading

    heard, told = os.pipe()
    if hasattr(os, "set_blocking"):  # on Windows from Python 3.12 on
        os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_clock, args=(Incoming(heard),), name="stop-clock", daemon=True).start()


def _clock(heard: Incoming) -> None:
    """End the process some time after the first signal, or at a second Ctrl-C."""
    while not set(heard.read(64)) & set(_SIGNALS):
        pass
    end = time.monotonic() + PATIENCE_SECONDS
    while (left := end - time.monotonic()) > 0:
        if heard.has_come(left) and signal.SIGINT in heard.read(64):
            break
    if "code" in _state:
        os._exit(_state["code"])
    _leave_at_once("stopped; what was in hand did not end in time, and is done again")


def _unraisable(dropped: sys.UnraisableHookArgs) -> None:
    """Python's own, but for the exception of a signal that came inside of a finalizer."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)


def _ignore() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
