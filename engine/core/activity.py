"""What the threads of a run are doing, so that a stop ends it and a stall is seen.

A run has an `Activity`, which its threads find in their context: whoever reads, hashes or computes
says so with `working`, and says that it goes on with `beat` or `proceed`. Outside of a run that
tells nobody.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.errors import Stopped

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """What a thread does: the stage, the file or batch, and a number that each sign of life
    changes."""

    stage: str
    what: str
    sign: int

    def __str__(self) -> str:
        return f"{self.stage} {self.what}".strip()


@dataclass
class Activity:
    """What the threads of one run do.

    Attributes:
        stop: Set once the run is to end.
        works: By thread.
        sign: The latest sign of life of any.
        note: The work that has given none for long, in words, or "".
    """

    stop: threading.Event = field(default_factory=threading.Event)
    works: dict[int, Work] = field(default_factory=dict)
    sign: int = 0
    note: str = ""

    def set(self, stage: str, what: str) -> None:
        self.sign = sign = next(_signs)
        self.works[threading.get_ident()] = Work(stage, what, sign)

    def beat(self) -> None:
        """The calling thread goes on with what it does."""
        work = self.works.get(threading.get_ident())
        if work is None:
            self.sign = next(_signs)
        else:
            self.set(work.stage, work.what)


_signs = itertools.count(1)
_current: ContextVar[Activity] = ContextVar("activity", default=Activity())  # noqa: B039  # shared


def current() -> Activity:
    """That of the run which the calling thread works for."""
    return _current.get()


def begin() -> Activity:
    """A new one, for the current context."""
    activity = Activity()
    _current.set(activity)
    return activity


@contextmanager
def working(stage: str, what: str = "") -> Iterator[None]:
    """The body is at work, such as "reading" a file; not around a generator's `yield`."""
    activity, me = current(), threading.get_ident()
    before = activity.works.get(me)
    activity.set(stage, what)
    try:
        yield
    finally:
        if before is None:
            activity.works.pop(me, None)
        else:
            activity.set(before.stage, before.what)


def without_event(options: Mapping[str, Any]) -> tuple[threading.Event | None, dict[str, Any]]:
    """`stop` where it is an event and not the texts that end a row, and the other options."""
    rest = dict(options)
    event = rest.pop("stop") if isinstance(rest.get("stop"), threading.Event) else None
    return event, rest


def beat() -> None:
    """The calling thread goes on with what it does."""
    current().beat()


def proceed() -> None:
    """As `beat`, where the work may be ended.

    Raises:
        Stopped: The run is to end.
    """
    activity = current()
    activity.beat()
    if activity.stop.is_set():
        raise Stopped("stopped", "run the same command again to go on")


def proceeding(items: Iterable[T]) -> Iterator[T]:
    """The items, as of a corpus of a million files; at some of them as `proceed`."""
    for number, item in enumerate(items):
        if number % _EVERY == 0:
            proceed()
        yield item


_EVERY = 64
