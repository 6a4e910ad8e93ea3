"""A run over several GPUs: a process with a worker for each, and one coordinator.

Splits wait with the coordinator, and whichever worker is free takes the next: GPUs of different
speeds finish together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from engine.core.activity import proceed
from engine.errors import Stalled, Stopped
from engine.runner.child_process import (
    PATIENCE_SECONDS,
    STOP_SECONDS,
    ChildChannel,
    ChildProcess,
    end,
)
from engine.runner.messages import Assignment, Message, WorkerSettings
from engine.runner.supervision import Supervision
from engine.runner.threads import ThreadGroup
from engine.runner.worker import Worker

# What a worker's process sends for its next split.
_NEXT = "next"


def answer(
    workers: Sequence[WorkerSettings],
    assignments: Iterator[Assignment],
    receive: Callable[[int, Message], None],
) -> None:
    """Have a process for each worker answer the splits.

    Args:
        workers: One for each GPU.
        assignments: The splits.
        receive: Called with a worker's number and each of its messages, in this thread.

    Raises:
        EngineError: What the first of them failed with, or what `receive` raised.
    """
    threads = ThreadGroup()
    processes = [_start(settings) for settings in workers]
    patience = PATIENCE_SECONDS
    try:
        for number, message in threads.merge([process.messages() for process in processes]):
            proceed()
            if message == _NEXT:
                processes[number].tell(next(assignments, None))
            else:
                receive(number, message)
    except (KeyboardInterrupt, Stopped, Stalled):
        patience = STOP_SECONDS
        raise
    finally:
        end(processes, patience)
        threads.close()


def _start(settings: WorkerSettings) -> ChildProcess:
    return ChildProcess(
        __name__,
        settings,
        name=f"the process for {settings.device}",
        hint="the system may be out of memory; run the same command again to go on",
    )


def main() -> None:
    """The process of one worker."""
    channel = ChildChannel()
    with channel.reporting():
        settings = channel.hear()
        supervision: Supervision[None] = Supervision(timeout=settings.config.stall_timeout)
        supervision.run(partial(_answer, settings, channel, supervision))
        channel.tell(None)


def _answer(
    settings: WorkerSettings, channel: ChildChannel, supervision: Supervision[None]
) -> None:
    with closing(Worker(settings, channel.tell)) as worker:
        supervision.each_second = worker.report
        worker.answer(_assignments(channel))


def _assignments(channel: ChildChannel) -> Iterator[Assignment]:
    while True:
        channel.tell(_NEXT)
        if (assignment := channel.hear()) is None:
            return
        yield assignment
