"""Threads that hand items from stage to stage, and resources that threads share.

All threads of a group share one stop event. The first error in any of them sets it and is the one
that the person sees; every thread that waits at a queue then leaves.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from itertools import repeat
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_POLL_SECONDS, _READY_SECONDS = 0.1, 0.01
GRACE_SECONDS = 0.25
"""How long what is being computed may go on once the threads are to end."""


class _End:
    """What a producer puts behind its last item."""


class PipelineCancelled(Exception):
    """Another thread has failed or the run is being stopped; never seen by a person."""


class ThreadGroup:
    """Threads that end together, and the first error among them.

    Attributes:
        stopping: Set once they are to end.
        interrupt: What ends the calls that they are in, where something can.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.interrupt: Callable[[], None] = _nothing
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def prefetch(self, items: Iterable[T], depth: int) -> Iterator[T]:
        """The same items, produced in a thread of their own from now on.

        Items produced and waiting <= depth, besides one that the producer holds.
        """
        return self._consume(self._produced(items, depth), _nothing)

    def map(
        self, call: Callable[[T], R], items: Iterable[T], workers: int, depth: int
    ) -> Iterator[R]:
        """call(item) for each item, computed by `workers` threads, results in the items' order.

        Items submitted whose results have not been taken <= depth.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix=getattr(call, "__name__", "work"))
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(copy_context().run, self._call, call, item))
                if len(pending) >= depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def merge(self, sources: Sequence[Iterable[T]]) -> Iterator[tuple[int, T]]:
        """(number of its source, item) of all sources as they come, for the driving thread as in
        `drive`; each source is produced in a thread of its own.

        Items waiting <= number of sources.
        """
        waiting: queue.Queue[tuple[int, T] | _End] = queue.Queue(len(sources))
        for number, source in enumerate(sources):
            self._start(zip(repeat(number), source), waiting)
        for _ in sources:
            yield from self._drive(waiting, _nothing)

    def drive(self, items: Iterable[T], depth: int, tick: Callable[[], None]) -> Iterator[T]:
        """`prefetch` for the thread that drives the others: `tick` is called while it waits, and
        the first error of any thread is raised here as soon as it happens."""
        return self._drive(self._produced(items, depth), tick)

    def close(self, seconds: float | None = None) -> None:
        """Stop everything and wait until nothing is left running.

        What ends within `GRACE_SECONDS` is finished; then the calls in hand are interrupted.

        Args:
            seconds: To wait at most, since some calls into a library cannot be stopped; None waits
                for the last. A thread that is left behind ends at its next item.
        """
        self.stopping.set()
        self._join(GRACE_SECONDS)
        self.interrupt()
        self._join(None if seconds is None else max(0.0, seconds - GRACE_SECONDS))

    def _join(self, seconds: float | None) -> None:
        end = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def _produced(self, items: Iterable[T], depth: int) -> queue.Queue[T | _End]:
        waiting: queue.Queue[T | _End] = queue.Queue(depth)
        self._start(items, waiting)
        return waiting

    def _start(self, items: Iterable[T], waiting: queue.Queue[T | _End]) -> None:
        run = copy_context().run  # the run that it works for
        thread = threading.Thread(target=run, args=(self._produce, items, waiting), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _produce(self, items: Iterable[T], waiting: queue.Queue[T | _End]) -> None:
        try:
            for item in items:
                self._put(waiting, item)
            self._put(waiting, _End())
        except PipelineCancelled:
            return
        except BaseException as error:  # whatever it is, the driving thread must raise it
            self._fail(error)
        finally:
            if close := getattr(items, "close", None):
                close()

    def _put(self, waiting: queue.Queue[T | _End], item: T | _End) -> None:
        while not self.stopping.is_set():
            try:
                return waiting.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        raise PipelineCancelled

    def _consume(self, waiting: queue.Queue[T | _End], tick: Callable[[], None]) -> Iterator[T]:
        while not self.stopping.is_set():
            tick()
            try:
                item = waiting.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                return
            yield item
        raise PipelineCancelled

    def _drive(self, waiting: queue.Queue[T | _End], tick: Callable[[], None]) -> Iterator[T]:
        try:
            yield from self._consume(waiting, tick)
        except PipelineCancelled:
            raise self.error or PipelineCancelled() from None

    def _call(self, call: Callable[[T], R], item: T) -> R:
        if self.stopping.is_set():
            raise PipelineCancelled
        try:
            return call(item)
        except BaseException as error:
            self._fail(error)
            raise PipelineCancelled from error

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if not self.stopping.is_set():
                self.error = error
            self.stopping.set()


def _nothing() -> None:
    pass


class ResourcePool(Generic[T]):
    """Resources that one thread at a time may use.

    Args:
        resources: The earlier ones are preferred.
        ready: Whether a resource may be used; asked again in a while where none is.
    """

    def __init__(self, resources: Sequence[T], ready: Callable[[T], bool]) -> None:
        self._resources, self._ready = resources, ready
        self._changed = threading.Condition()
        self._in_use: set[int] = set()

    @contextmanager
    def acquire(self) -> Iterator[T]:
        """The first resource that is free and ready, waited for."""
        with self._changed:
            while (index := self._free()) is None:
                self._changed.wait(_READY_SECONDS)
            self._in_use.add(index)
        try:
            yield self._resources[index]
        finally:
            with self._changed:
                self._in_use.remove(index)
                self._changed.notify()

    def _free(self) -> int | None:
        free = (i for i in range(len(self._resources)) if i not in self._in_use)
        return next((i for i in free if self._ready(self._resources[i])), None)


class Allowance:
    """An amount that one thread adds to and others take from; the first waits where it is over.

    Args:
        most: The amount beyond which it waits.
    """

    def __init__(self, most: int) -> None:
        self._most, self._amount = most, 0
        self._changed = threading.Condition()

    def add(self, amount: int) -> None:
        with self._changed:
            self._amount += amount

    def remove(self, amount: int) -> None:
        with self._changed:
            self._amount -= amount
            self._changed.notify_all()

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until the amount is within the allowance, or the work is stopped."""
        with self._changed:
            while self._amount > self._most and not stopped():
                self._changed.wait(_POLL_SECONDS)
