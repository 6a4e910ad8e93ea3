"""Order among the calls of a GPU: some must come from one thread, some must not overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

R = TypeVar("R")


class SerialExecutor:
    """Runs calls one after another on one thread of its own, which ends with this object."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gpu-serial")

    def __call__(self, call: Callable[[], R]) -> R:
        """Run it there and return its result, or raise what it raised."""
        return self._pool.submit(call).result()


class ReadWriteLock:
    """A readers-writer lock: many `shared` holders, or one `exclusive` holder.

    Whoever waits for `exclusive` goes before whoever asks for `shared` later. The lock cannot be
    upgraded: a thread that holds `shared` must not ask for `exclusive`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shared, self._exclusive = 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock along with other `shared` holders."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive)
            self._exclusive = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._shared)
            yield
        finally:
            with self._changed:
                self._exclusive = False
                self._changed.notify_all()


# Shared by all work on the GPUs of this process; a capture holds it alone.
GPU_LOCK = ReadWriteLock()
