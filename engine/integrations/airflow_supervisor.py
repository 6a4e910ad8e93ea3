"""The process that supervises an Airflow task, seen from the task.

It ends the task when Airflow says so. Where it has been killed itself nobody does: Airflow gives
the task up, starts it anew some time later, and would find its folder locked.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

WATCH_SECONDS = 0.5


@contextmanager
def ended_with_supervisor(end: Callable[[], None]) -> Iterator[None]:
    """Call `end`, from another thread, should the supervisor be gone while the body runs."""
    supervisor, ended = os.getppid(), threading.Event()
    if not is_supervised():
        yield
        return

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            if os.getppid() != supervisor:
                end()
                return

    threading.Thread(target=watch, name="engine-supervisor-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def is_supervised() -> bool:
    """Whether the parent process is a supervisor, to which a task's standard input is connected;
    in `airflow dags test` there is none."""
    with suppress(OSError):
        return stat.S_ISSOCK(os.fstat(0).st_mode)
    return False
