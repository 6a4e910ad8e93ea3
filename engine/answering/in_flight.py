"""Windows in memory on their way through the stages: two at a time, handed over in order.

While one is computed the next is read, in the thread that asks, and tokenized, and the one before
is finished. No thread pulls: what the windows come from is asked in the caller's thread only, and
never for more than one window beyond the one that the caller waits for or holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import chain
from typing import Self

from engine.answering.stages import Stages
from engine.core.types import Answers, Batch, Output, Rows
from engine.errors import Stopped

IN_FLIGHT = 2
_AHEAD = 3
"""Batches submitted for each thread that computes."""
_POLL_SECONDS = 0.1


def answer_windows(
    stages: Stages, windows: Iterator[Rows], *, one_table: bool = False
) -> Generator[Answers, None, None]:
    """The answers of windows, in order.

    What the iterator raises is raised here as it is, once the windows before it are handed over.

    Args:
        stages: Bound to the options.
        windows: Of one table after the other, the last one of each marked.
        one_table: There is one table only.

    Raises:
        Stopped: `stages.context.stopped` says so.
        EngineError: A window cannot be answered.
    """
    if one_table:
        first = next(windows, None)
        if first is None:
            return
        if first.last:
            yield _answer_alone(stages, first)
            return
        windows = chain([first], windows)
    with _Flight(stages) as flight:
        yield from flight.answers(windows)


def _answer_alone(stages: Stages, rows: Rows) -> Answers:
    """The only window, which is not worth threads unless batches are computed side by side."""
    batches = _batches(stages, rows)
    first = next(batches)
    if stages.workers == 1 or first.last:
        return stages.finish([*map(stages.infer, chain([first], batches))])
    with _Flight(stages) as flight:
        return flight.answer(chain([first], batches))


def _batches(stages: Stages, rows: Rows) -> Iterator[Batch]:
    """The batches of a window, tokenized now."""
    _proceed(stages)
    for batch in stages.cut(stages.encode(rows)):
        _proceed(stages)
        yield batch


def _proceed(stages: Stages) -> None:
    if stages.context.stopped():
        raise Stopped("stopped")


class _Flight:
    """The threads of one call. They end with it: what they are in is interrupted then."""

    def __init__(self, stages: Stages) -> None:
        self._closed = False
        self._pending: deque[Future[Answers]] = deque()
        stopped = stages.context.stopped
        backend, self._interrupt = stages.backend.stoppable()
        context = replace(stages.context, stopped=lambda: self._closed or stopped())
        self._stages = replace(stages, backend=backend, context=context)
        self._windows = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="window")
        self._batches = ThreadPoolExecutor(stages.workers, thread_name_prefix="batch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closed = True
        interrupted = bool(self._pending) or kind not in (None, GeneratorExit)
        if interrupted:
            self._interrupt()
        for pool in (self._windows, self._batches):
            pool.shutdown(cancel_futures=True)
        if interrupted:
            # Steps of a decoder that are bound to what was interrupted compute no more.
            self._stages.context.spare.clear()

    def answer(self, batches: Iterator[Batch]) -> Answers:
        """The answers of a window that is tokenized."""
        self._pending.append(self._windows.submit(self._finish, batches))
        answers = self._wait(self._pending[0])
        self._pending.popleft()
        return answers

    def answers(self, windows: Iterator[Rows]) -> Iterator[Answers]:
        """The answers of windows, in order; several are in flight."""
        pending = self._pending
        failed: Exception | None = None
        more = True
        while more or pending:
            while more and len(pending) < IN_FLIGHT:
                try:
                    rows = next(windows)
                except StopIteration:
                    more = False
                except Exception as error:  # whatever it is, after the answers of what came before
                    more, failed = False, error
                else:
                    batches = _batches(self._stages, rows)
                    pending.append(self._windows.submit(self._finish, batches))
            if pending:
                answers = self._wait(pending[0])
                pending.popleft()
                yield answers
        if failed:
            raise failed

    def _wait(self, future: Future[Answers]) -> Answers:
        _proceed(self._stages)
        while not wait([future], _POLL_SECONDS).done:
            _proceed(self._stages)
        return future.result()

    def _finish(self, batches: Iterator[Batch]) -> Answers:
        return self._stages.finish([*self._infer(batches)])

    def _infer(self, batches: Iterable[Batch]) -> Iterator[Output]:
        """The results of batches, as many computed at a time as there are workers."""
        pending: deque[Future[Output]] = deque()
        for batch in batches:
            pending.append(self._batches.submit(self._stages.infer, batch))
            if len(pending) >= _AHEAD * self._stages.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
