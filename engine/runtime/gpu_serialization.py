"""Around a GPU: calls that must come from one thread, and calls that must be alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

R = TypeVar("R")


class SerialExecutor:
    """One thread for calls that have to come from one, in their order; it ends with this object."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lane")

    def __call__(self, call: Callable[[], R]) -> R:
        """Have it called there, and wait for it; what it raises is raised here."""
        return self._pool.submit(call).result()


class ReadWriteLock:
    """What may happen beside other things of its kind, and what only while none of them does.

    Whoever wants to be alone waits for those that are at it, and whoever comes then waits in turn.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shared, self._alone = 0, 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Others may be at it, too."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is; not to be asked for from within `shared`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = 1
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._shared)
            yield
        finally:
            with self._changed:
                self._alone = 0
                self._changed.notify_all()
