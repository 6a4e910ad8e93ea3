"""What runs beside one another, and what must not: the engine's only threads, queues and locks.

One stop event for all of them. The first error anywhere sets it and is the one that the person
sees; whoever waits at a queue then leaves.
"""

from __future__ import annotations

import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_POLL, _SOON = 0.1, 0.01
_PATIENCE = 20.0
_END = object()


class PipelineCancelled(Exception):
    """The run is stopping; raised in threads that wait, never seen by a person."""


class Overlap:
    """The threads of one run, and the first error among them."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def ahead(self, items: Iterable[T], depth: int) -> Iterator[T]:
        """The same items, produced in a thread of their own from now on.

        Produced and waiting <= depth items, besides one in the producer's hands.
        """
        return self._consume(self._started(items, depth), _nothing)

    def ordered(
        self, call: Callable[[T], R], items: Iterable[T], workers: int, depth: int
    ) -> Iterator[R]:
        """call(item) for each item, computed by `workers` threads, results in the items' order.

        Submitted and not yet handed on <= depth items.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix=getattr(call, "__name__", "work"))
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(self._guarded, call, item))
                if len(pending) >= depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def merged(
        self, sources: Sequence[Iterable[T]], tick: Callable[[], None]
    ) -> Iterator[tuple[int, T]]:
        """The items of all sources as they come, with the source's number: each is produced in a
        thread of its own, and the thread that drives the run takes them as in `last`.

        Waiting <= as many items as there are sources.
        """
        waiting: queue.Queue[Any] = queue.Queue(len(sources))
        for number, source in enumerate(sources):
            self._begin(zip(repeat(number), source), waiting)
        left = len(sources)
        while left:
            try:
                yield from self._consume(waiting, tick)
                left -= 1
            except PipelineCancelled:
                raise self.error or PipelineCancelled() from None

    def last(self, items: Iterable[T], depth: int, tick: Callable[[], None]) -> Iterator[T]:
        """`ahead` for the thread that drives the run: `tick` is called while it waits, and the
        first error of any stage is raised here as soon as it happens."""
        try:
            yield from self._consume(self._started(items, depth), tick)
        except PipelineCancelled:
            raise self.error or PipelineCancelled() from None

    def close(self) -> None:
        """Stop everything and wait until nothing is left running."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _started(self, items: Iterable[Any], depth: int) -> queue.Queue[Any]:
        waiting: queue.Queue[Any] = queue.Queue(depth)
        self._begin(items, waiting)
        return waiting

    def _begin(self, items: Iterable[Any], waiting: queue.Queue[Any]) -> None:
        thread = threading.Thread(target=self._produce, args=(items, waiting), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _produce(self, items: Iterable[Any], waiting: queue.Queue[Any]) -> None:
        try:
            for item in items:
                self._put(waiting, item)
            self._put(waiting, _END)
        except PipelineCancelled:
            return
        except BaseException as error:  # whatever it is, the driving thread must see it
            self._fail(error)
        finally:
            if close := getattr(items, "close", None):
                close()

    def _put(self, waiting: queue.Queue[Any], item: object) -> None:
        while not self.stopping.is_set():
            try:
                return waiting.put(item, timeout=_POLL)
            except queue.Full:
                continue
        raise PipelineCancelled

    def _consume(self, waiting: queue.Queue[Any], tick: Callable[[], None]) -> Iterator[Any]:
        while not self.stopping.is_set():
            tick()
            try:
                item = waiting.get(timeout=_POLL)
            except queue.Empty:
                continue
            if item is _END:
                return
            yield item
        raise PipelineCancelled

    def _guarded(self, call: Callable[[T], R], item: T) -> R:
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


def ended(process: subprocess.Popen[Any]) -> None:
    """Close the input of a process that ends by that, and wait until it has; in the end kill it."""
    assert process.stdin
    with suppress(OSError):  # it may be gone already, with something left to say to it
        process.stdin.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Pool(Generic[T]):
    """Things that one thread at a time has for itself.

    Args:
        things: The earlier ones are taken first.
        ready: Whether one may be taken; asked again in a while where none is.
    """

    def __init__(self, things: Sequence[T], ready: Callable[[T], bool]) -> None:
        self._things, self._ready = things, ready
        self._changed = threading.Condition()
        self._taken: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[T]:
        """The first that nobody has and that is ready, waited for."""
        with self._changed:
            while (place := self._free()) is None:
                self._changed.wait(_SOON)
            self._taken.add(place)
        try:
            yield self._things[place]
        finally:
            with self._changed:
                self._taken.remove(place)
                self._changed.notify()

    def _free(self) -> int | None:
        places = (n for n in range(len(self._things)) if n not in self._taken)
        return next((n for n in places if self._ready(self._things[n])), None)
