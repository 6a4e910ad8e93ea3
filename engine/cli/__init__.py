"""The command line: the only package that prints or exits.

Exit codes: 0 done · 1 failed · 2 wrong usage or settings · 3 done, with rejected rows · 4 compared,
and too different · 75 stopped, run again. Results and summaries go to standard output, progress and
messages to standard error.

Signals are handled before anything else is imported: imports take a second or two.
"""

from __future__ import annotations

import os
import sys

from engine.cli import interrupt


def main() -> None:
    """Entry point: run the command, turn errors into a message and an exit code."""
    _open_streams()
    interrupt.install()
    from engine.core import memory_limits

    if shortage := memory_limits.find_shortage():
        interrupt.leave(f"{shortage}\nhint: {memory_limits.HINT}", 1)
    from engine.cli import commands

    interrupt.begin()
    try:
        code = commands.call()
    except KeyboardInterrupt:
        interrupt.leave_stopped()
    except Exception:
        # What becomes of a KeyboardInterrupt on its way through a library.
        if interrupt.received():
            interrupt.leave_stopped()
        raise
    interrupt.finish(code)
    sys.exit(code)


def _open_streams() -> None:
    """Standard streams that are closed, as `>&-` leaves them, read and write nothing from now on:
    a file that is opened later would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            # The lowest free number: those before it are open.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module 'engine.cli' has no attribute {name!r}")
    from engine.cli.commands import app

    return app
