"""A run in a thread of its own, and the thread that called it, which watches it.

So a signal, a stop from another thread and a stall end a run in whatever call it is: it is asked to
end, and where it does not in `STOP_SECONDS` it is left behind. What is left behind holds the lock
of its folder and commits nothing: it ends at its next step.

A thread stalls when neither it gives a sign of life nor the process computes for `stall_timeout`;
one that computes, such as a huge batch on a slow machine, may take ten times as long. Time in which
this process did not run itself (a suspended machine, SIGSTOP) does not count.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from typing import Generic, TypeVar

from engine.core import activity
from engine.core.activity import Activity, Work
from engine.core.telemetry import Progress
from engine.errors import Stalled, Stopped

T = TypeVar("T")
STALL_SECONDS = 300
STOP_SECONDS = 1.6
NOTE_SECONDS = 30.0
"""Without a sign of life, after which the person is told."""
_POLL_SECONDS, _TELL_SECONDS = 0.1, 1.0
# A share of one core that shows that the process computes, and how much longer that may take.
_COMPUTES, _LONGER = 0.05, 10
_NOTHING_YET = Progress(0.0, 0, 0, 0, 0, 0, 0, 0.0)


class Watch:
    """For how long each thread has given no sign of life; looked at a few times a second.

    Args:
        doing: What the threads do.
        timeout: Seconds until one has stalled; 0 for never.
    """

    def __init__(self, doing: Activity, timeout: float) -> None:
        self._doing, self._timeout = doing, timeout
        self._silent: dict[int, tuple[float, float]] = {}
        self._looked, self._cpu = time.monotonic(), time.process_time()

    def look(self) -> str:
        """Note the work that is silent; returns that which has stalled, or ""."""
        now, cpu = time.monotonic(), time.process_time()
        step = min(now - self._looked, _TELL_SECONDS)
        computes = cpu - self._cpu > _COMPUTES * (now - self._looked)
        self._looked, self._cpu = now, cpu
        doing = self._doing
        works = list(doing.works.values()) or [Work("waiting", "for a stage", doing.sign)]
        silent = {}
        for work in works:
            whole, idle = self._silent.get(work.sign, (0.0, 0.0))
            silent[work.sign] = whole + step, 0.0 if computes else idle + step
        self._silent = silent
        oldest = max(works, key=lambda work: silent[work.sign])
        whole, idle = silent[oldest.sign]
        text = f"{oldest}: no progress for {whole:.0f} s"
        doing.note = text if whole >= NOTE_SECONDS else ""
        stalled = idle > self._timeout or whole > _LONGER * self._timeout
        return text if self._timeout and stalled else ""


class Supervision(Generic[T]):
    """One run and its watch.

    Attributes:
        each_second: Called from the calling thread, too.

    Args:
        on_progress: Called from the calling thread.
        stop: Ends the run when set.
        timeout: `Watch`'s.
    """

    def __init__(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
        timeout: float = STALL_SECONDS,
    ) -> None:
        self._on_progress, self._stop, self._timeout = on_progress, stop, timeout
        self.each_second: Callable[[], None] | None = None
        self._changed = threading.Condition()
        self._shown: Progress | None = None
        self._latest = _NOTHING_YET
        self._refused: BaseException | None = None
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._ended = False

    def run(self, work: Callable[[], T]) -> T:
        """The result of work(), called in a thread of its own.

        Raises:
            Stopped: By `stop` or a signal.
            Stalled: A stage has made no progress for too long.
        """
        context = copy_context()
        doing = context.run(activity.begin)
        thread = threading.Thread(
            target=context.run, args=(self._work, work), name="engine-run", daemon=True
        )
        thread.start()
        try:
            stalled = self._wait(doing)
        except KeyboardInterrupt:
            self._end(doing)
            if not self._ended or self._error is None:
                raise self._stopped(doing) from None
            stalled = ""
        except BaseException:  # of a signal handler of the caller's, such as one for a timeout
            self._end(doing)
            raise
        if stalled:
            raise self._stalled(doing, stalled)
        if self._error is not None:
            raise self._error
        return self._result[0]

    def show(self, progress: Progress) -> None:
        """Have the calling thread call `on_progress`, and wait until it has; raises what it did."""
        with self._changed:
            self._shown = progress
            self._changed.notify_all()
            while self._shown is not None and self._refused is None:
                self._changed.wait(_POLL_SECONDS)
                if activity.current().stop.is_set():
                    break
            refused, self._refused = self._refused, None
        if refused is not None:
            raise refused

    def _work(self, work: Callable[[], T]) -> None:
        try:
            self._result.append(work())
        except BaseException as error:  # the calling thread raises it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait(self, doing: Activity) -> str:
        """Wait for the end of the run, and watch it; returns the work that has stalled, or ""."""
        watch, told = Watch(doing, self._timeout), time.monotonic()
        while True:
            with self._changed:
                if not self._ended and self._shown is None:
                    self._changed.wait(_POLL_SECONDS)
                shown, ended = self._shown, self._ended
            if ended:
                return ""
            if self._stop is not None and self._stop.is_set():
                raise KeyboardInterrupt
            if stalled := watch.look():
                return stalled
            if shown is not None:
                self._tell(shown, doing)
            elif time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                if self.each_second:
                    self.each_second()
                if doing.note:
                    self._call(replace(self._latest, stuck=doing.note))

    def _tell(self, shown: Progress, doing: Activity) -> None:
        """Call `on_progress` for a thread that waits for that."""
        self._latest = shown
        try:
            self._call(replace(shown, stuck=shown.stuck or doing.note))
        except BaseException as error:  # the run ends by it
            self._refused = error
        with self._changed:
            self._shown = None
            self._changed.notify_all()

    def _call(self, progress: Progress) -> None:
        if self._on_progress:
            self._on_progress(progress)

    def _end(self, doing: Activity) -> None:
        """Ask the run to end, and wait for that."""
        doing.stop.set()
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended, STOP_SECONDS)

    def _stopped(self, doing: Activity) -> Stopped:
        at = next(map(str, list(doing.works.values())), "")
        where = f" while {at}" if at else ""
        return Stopped(f"stopped{where}", "run the same command again to go on")

    def _stalled(self, doing: Activity, text: str) -> Stalled:
        with suppress(OSError, ValueError, AttributeError):
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        self._end(doing)
        return Stalled(
            f"{text}, which --stall-timeout does not allow (the stacks of all threads are on "
            "standard error)",
            "run the same command again to go on; --stall-timeout 0 waits for ever",
        )
