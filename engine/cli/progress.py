"""Progress of a run on standard error: a bar on a terminal, otherwise lines of text, which a
scheduler keeps; these also beside JSON on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.cli import interrupt, terminal
from engine.core.telemetry import Progress
from engine.printable import printable

_LINE_SECONDS, _STALL_SECONDS = 10.0, 30.0
_BLOCKS, _WIDE = 12, 60
"""Columns of the bar, and those of a terminal that has space for one."""


@contextmanager
def shown(quiet: bool, lines: bool = True) -> Iterator[Callable[[Progress], None]]:
    """A callback for progress; it raises KeyboardInterrupt once a signal has arrived.

    Args:
        quiet: Show no bar.
        lines: Write lines where there is no terminal.
    """
    if not sys.stderr.isatty() and lines:
        yield _interruptible(_lines())
    elif quiet:
        yield _interruptible(_stalls())
    else:
        with _bar() as update:
            yield _interruptible(update)


def _interruptible(update: Callable[[Progress], None]) -> Callable[[Progress], None]:
    def check_and_update(progress: Progress) -> None:
        interrupt.check()
        update(progress)

    return check_and_update


def _stalls() -> Callable[[Progress], None]:
    """Only what makes no progress, which is said whatever else is not."""
    last = -_STALL_SECONDS

    def update(progress: Progress) -> None:
        nonlocal last
        if progress.stuck and time.monotonic() - last >= _STALL_SECONDS:
            last = time.monotonic()
            terminal.tell(progress.stuck)

    return update


def _lines() -> Callable[[Progress], None]:
    last = time.monotonic()

    def update(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            terminal.tell(f"{progress.done:4.0%}  {progress}")

    return update


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    # What does not fit is left out before; a work that is stuck may have any length.
    description = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    console = Console(stderr=True)
    blocks = [BarColumn(_BLOCKS)] if console.width >= _WIDE else []
    percent = TextColumn("{task.percentage:3.0f}%", table_column=Column(min_width=4))
    taken = 6 + (_BLOCKS + 1) * len(blocks)
    with Bar(*blocks, percent, description, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def update(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.done,
                description=printable(progress.fitting(console.width - taken)),
            )

        yield update
