"""Progress of a run on standard error: a bar on a terminal, otherwise lines of text, which a
scheduler keeps; these also beside JSON on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from engine.cli import interrupt, terminal
from engine.core.steps import StepClock, StepProgress
from engine.core.telemetry import Progress
from engine.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

T = TypeVar("T")
Shown = Progress | StepProgress
"""What a bar shows."""

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


def _interruptible(update: Callable[[T], None]) -> Callable[[T], None]:
    def check_and_update(progress: T) -> None:
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
def on_terminal(quiet: bool = False) -> Iterator[Callable[[Shown], None]]:
    """A callback that draws a bar, where there is a terminal and `quiet` is not asked for."""
    if quiet or not sys.stderr.isatty():
        yield _interruptible(lambda progress: None)
    else:
        with _bar() as update:
            yield _interruptible(update)


@contextmanager
def steps(shares: Mapping[str, float]) -> Iterator[Callable[[str], None]]:
    """A callback for the lines of a work in steps: they are written, on a terminal above a bar with
    the time left.

    Args:
        shares: As for `StepClock`.
    """
    if not sys.stderr.isatty():
        yield terminal.tell
        return
    from rich.console import Console
    from rich.live import Live

    clock, console = StepClock(shares), Console(stderr=True)
    with Live(
        get_renderable=lambda: _line(clock.state(), console.width),
        console=console, transient=True, refresh_per_second=4,
    ), terminal.beside_bar(_lines_of(console)):  # fmt: skip

        def tell(line: str) -> None:
            interrupt.check()
            clock.begin(line)
            terminal.tell(line)

        yield tell


def _lines_of(console: Console) -> Callable[[str], None]:
    return partial(console.print, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _line(state: StepProgress, width: int) -> RenderableType:
    """A bar of one line, as that of a run."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    taken = 6 + (_BLOCKS + 1) * wide
    row = Table.grid(padding=(0, 1))
    text = Text(printable(state.fitting(width - taken)), no_wrap=True, overflow="ellipsis")
    bars = [ProgressBar(1.0, state.done, _BLOCKS)] if wide else []
    row.add_row(*bars, f"{state.done:4.0%}", text)
    return row


@contextmanager
def _bar() -> Iterator[Callable[[Shown], None]]:
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
    drawn = Bar(*blocks, percent, description, console=console, transient=True)
    with drawn as bar, terminal.beside_bar(_lines_of(console)):
        task = bar.add_task("starting", total=1.0)

        def update(progress: Shown) -> None:
            bar.update(
                task,
                completed=progress.done,
                description=printable(progress.fitting(console.width - taken)),
            )

        yield update
