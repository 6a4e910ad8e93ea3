"""Calls that run one after another on one thread, and a lock that many may share."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from engine.runtime.gpu_serialization import ReadWriteLock, SerialExecutor

LONG = 30.0  # seconds until a test that hangs fails instead


class OopsError(Exception):
    pass


def test_a_serial_executor_has_one_thread_for_all_callers() -> None:
    executors, seen = [SerialExecutor()], []

    def oops() -> None:
        seen.append(threading.get_ident())
        raise OopsError

    def call() -> None:
        with pytest.raises(OopsError):
            executors[0](oops)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(seen) == 5
    assert len(set(seen)) == 1
    assert threading.get_ident() not in seen
    # Another test may have left an executor that is not collected yet.
    (own,) = (thread for thread in threading.enumerate() if thread.ident == seen[0])
    assert own.name.startswith("gpu-serial")
    executors.clear()
    own.join(LONG)
    assert not own.is_alive()


def test_an_exclusive_holder_is_alone_and_nobody_waits_forever() -> None:
    lock, at_work = ReadWriteLock(), count()
    holders = [0]

    def shares() -> None:
        for _ in range(200):
            with lock.shared():
                holders[0] += 1
                holders[0] -= 1

    def excludes() -> None:
        for _ in range(50):
            with lock.exclusive():
                assert holders[0] == 0
                next(at_work)

    threads = [threading.Thread(target=shares), *(threading.Thread(target=excludes) for _ in "ab")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert next(at_work) == 100


def test_shared_holders_run_at_the_same_time() -> None:
    lock, both = ReadWriteLock(), threading.Barrier(2)

    def shares() -> None:
        with lock.shared():
            both.wait(LONG)

    threads = [threading.Thread(target=shares) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not both.broken
    with pytest.raises(OopsError), lock.exclusive():
        raise OopsError
    with lock.shared():
        pass
