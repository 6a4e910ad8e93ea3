"""Threads: order and bounds are kept, the first error is raised, no thread is left."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runner.threads import Allowance, PipelineCancelled, ResourcePool, ThreadGroup

LONG = 30.0  # seconds until a test that hangs fails instead


class OopsError(Exception):
    pass


def nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before]
    for thread in left:
        thread.join(LONG)
    assert not [t for t in left if t.is_alive()]


@pytest.fixture
def threads() -> Iterator[ThreadGroup]:
    group = ThreadGroup()
    yield group
    group.close()


def failing(items: Iterable[int], at: int, error: BaseException) -> Iterator[int]:
    for item in items:
        if item == at:
            raise error
        yield item


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9))
def test_order_is_kept_through_all_stages(
    items: int, depth: int, workers: int, waiting: int
) -> None:
    threads = ThreadGroup()
    drawn = random.Random(items)
    waits = [drawn.random() / 2000 for _ in range(items)]

    def call(item: int) -> int:
        threading.Event().wait(waits[item])
        return item * item

    try:
        ahead = threads.prefetch(range(items), depth)
        outputs = threads.map(call, ahead, workers, waiting)
        results = list(threads.drive(threads.prefetch(outputs, depth), depth, nothing))
    finally:
        threads.close()
    assert results == [n * n for n in range(items)]
    assert threads.error is None


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_than_depth_items_wait_besides_the_one_being_produced(
    threads: ThreadGroup, depth: int
) -> None:
    asked, excess = 0, []

    def items() -> Iterator[int]:
        for n in range(200):
            if n + 1 > asked + depth + 1:
                excess.append((n, asked))
            yield n

    full = threading.Event()
    produced = threads.prefetch(items(), depth)
    full.wait(0.05)  # let the producer run ahead as far as it goes
    for n in range(200):
        asked += 1
        assert next(produced) == n
    assert not excess


@pytest.mark.parametrize(("workers", "depth"), [(1, 1), (2, 2), (2, 6), (3, 4)])
def test_no_more_than_depth_items_are_submitted_and_not_handed_on(
    threads: ThreadGroup, workers: int, depth: int
) -> None:
    handed, excess = 0, []

    def items() -> Iterator[int]:
        for n in range(100):
            if n + 1 > handed + depth:
                excess.append((n, handed))
            yield n

    for n, result in enumerate(threads.map(lambda item: item, items(), workers, depth)):
        assert result == n
        handed += 1
    assert handed == 100
    assert not excess


def test_workers_compute_at_the_same_time_and_no_more_of_them(threads: ThreadGroup) -> None:
    together = threading.Barrier(3)
    lock = threading.Lock()
    inside, peak = 0, 0

    def call(item: int) -> int:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        if item < 3:
            together.wait(LONG)
        with lock:
            inside -= 1
        return item

    assert list(threads.map(call, range(50), 3, 9)) == list(range(50))
    assert peak == 3


def stages(threads: ThreadGroup, fail_at: str, error: BaseException) -> Iterator[int]:
    """Source, worker and finish over endless items, one of which raises."""

    def worker(item: int) -> int:
        if fail_at == "worker" and item == 7:
            raise error
        return item

    source = failing(count(), 7 if fail_at == "source" else -1, error)
    middle = failing(threads.prefetch(source, 2), 7 if fail_at == "middle" else -1, error)
    outputs = threads.map(worker, threads.prefetch(middle, 2), 2, 6)
    finish = failing(threads.prefetch(outputs, 2), 7 if fail_at == "finish" else -1, error)
    return threads.drive(finish, 2, nothing)


@pytest.mark.parametrize("error", [OopsError("here"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("fail_at", ["source", "middle", "worker", "finish"])
def test_an_error_in_any_stage_is_the_one_that_is_seen(
    threads: ThreadGroup, fail_at: str, error: BaseException
) -> None:
    seen = []
    with pytest.raises(type(error)) as caught:
        seen.extend(stages(threads, fail_at, error))
    assert caught.value is error
    assert threads.error is error
    assert seen == list(range(len(seen)))
    assert len(seen) <= 7


def test_the_first_error_wins_over_those_that_follow_from_it(threads: ThreadGroup) -> None:
    first, second = OopsError("first"), OopsError("second")

    def source() -> Iterator[int]:
        yield 0
        raise first

    def worker(item: int) -> int:
        assert threads.stopping.wait(LONG)
        raise second

    outputs = threads.map(worker, threads.prefetch(source(), 1), 1, 1)
    with pytest.raises(OopsError) as caught:
        list(threads.drive(outputs, 1, nothing))
    assert caught.value is first


def test_an_error_is_seen_at_once_while_queues_are_full_and_a_worker_is_busy(
    threads: ThreadGroup,
) -> None:
    release = threading.Event()
    busy = threading.Event()

    def worker(item: int) -> int:
        if item == 0:
            busy.set()
            assert release.wait(LONG), "the error did not come before the busy worker was done"
        return item

    def source() -> Iterator[int]:
        yield from range(3)
        assert busy.wait(LONG)
        raise OopsError("reading")

    outputs = threads.map(worker, threads.prefetch(source(), 1), 1, 9)
    with pytest.raises(OopsError, match="reading"):
        list(threads.drive(threads.prefetch(outputs, 1), 1, nothing))
    assert not release.is_set()
    release.set()


def test_nothing_is_called_after_an_error(threads: ThreadGroup) -> None:
    submitted, calls = threading.Event(), []

    def items() -> Iterator[int]:
        yield from (0, 1)
        submitted.set()
        assert threads.stopping.wait(LONG)
        threading.Event().wait(0.1)  # time for a call that must not be

    def call(item: int) -> None:
        calls.append(item)
        assert submitted.wait(LONG)
        raise OopsError

    with pytest.raises(OopsError):
        list(threads.drive(threads.map(call, items(), 1, 9), 1, nothing))
    assert calls == [0]


def test_a_stage_that_waits_at_a_full_queue_leaves_when_another_fails(threads: ThreadGroup) -> None:
    stuck = threads.prefetch(count(), 1)  # nobody takes these
    with pytest.raises(OopsError):
        list(threads.drive(failing(count(), 3, OopsError()), 1, nothing))
    threads.close()
    with pytest.raises(PipelineCancelled):
        list(stuck)


def test_close_ends_threads_whether_their_items_were_taken_or_not() -> None:
    closed: list[str] = []

    def endless(name: str) -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.append(name)

    threads = ThreadGroup()
    threads.prefetch(endless("untouched"), 2)
    taken = threads.prefetch(endless("taken"), 2)
    assert [next(taken), next(taken)] == [0, 1]
    outputs = threads.map(lambda n: n, threads.prefetch(endless("worked"), 2), 2, 4)
    last = threads.drive(outputs, 1, nothing)
    assert next(last) == 0
    threads.close()
    assert sorted(closed) == ["taken", "untouched", "worked"]
    assert threads.error is None
    threads.close()


def test_close_without_threads_is_no_matter() -> None:
    ThreadGroup().close()


def test_what_happens_while_closing_is_no_error() -> None:
    threads = ThreadGroup()
    started = threading.Event()

    def source() -> Iterator[int]:
        started.set()
        assert threads.stopping.wait(LONG)
        raise OopsError("too late")
        yield 0

    threads.prefetch(source(), 1)
    assert started.wait(LONG)
    threads.close()
    assert threads.error is None


def test_the_driving_thread_ticks_while_it_waits(threads: ThreadGroup) -> None:
    ticked = threading.Event()

    def source() -> Iterator[int]:
        assert ticked.wait(LONG), "nobody ticked"
        yield 1

    assert list(threads.drive(source(), 1, ticked.set)) == [1]


@pytest.mark.parametrize("error", [OopsError, KeyboardInterrupt])
def test_an_error_of_the_tick_ends_the_run(
    threads: ThreadGroup, error: type[BaseException]
) -> None:
    def tick() -> None:
        raise error

    with pytest.raises(error):
        list(threads.drive(count(), 1, tick))


@settings(deadline=None, max_examples=12)
@given(st.tuples(*[st.integers(0, 19)] * 3))
def test_a_cancelled_pipeline_raises_the_first_error_instead(at: tuple[int, int, int]) -> None:
    errors = [OopsError(str(stage)) for stage in range(3)]

    def worker(item: int) -> int:
        if item >= at[1]:
            raise errors[1]
        return item

    threads = ThreadGroup()
    try:
        source = threads.prefetch(failing(count(), at[0], errors[0]), 2)
        outputs = threads.map(worker, source, 2, 4)
        finish = failing(threads.prefetch(outputs, 1), at[2], errors[2])
        with pytest.raises(OopsError) as caught:
            list(threads.drive(finish, 1, nothing))
        assert caught.value is threads.error
    finally:
        threads.close()


def test_a_resource_has_one_user_and_the_first_that_is_ready_is_preferred() -> None:
    ready = {"a": False, "b": True, "c": True}
    pool = ResourcePool(["a", "b", "c"], ready.__getitem__)
    with pool.acquire() as first, pool.acquire() as second:
        assert (first, second) == ("b", "c")
        with ThreadPoolExecutor(1) as executor:

            def waited() -> str:
                with pool.acquire() as resource:
                    return resource

            third = executor.submit(waited)
            ready["a"] = True
            assert third.result() == "a"
    with pytest.raises(ValueError, match="given back"), pool.acquire():
        raise ValueError("given back")
    with pool.acquire() as again:
        assert again == "a"


def test_closing_leaves_a_thread_behind_that_is_stuck() -> None:
    group, stuck, free = ThreadGroup(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        stuck.set()
        free.wait()
        yield 1

    consumed = group.prefetch(items(), 2)
    assert next(consumed) == 0
    assert stuck.wait(30)
    group.close(0.01)
    free.set()
    group.close()
    with pytest.raises(PipelineCancelled):
        next(consumed)


def test_who_is_over_the_allowance_waits_until_others_have_taken_enough() -> None:
    allowance, passed = Allowance(10), threading.Event()
    allowance.add(10)
    allowance.wait(lambda: False)  # within
    allowance.add(5)
    stopped = threading.Event()

    def waiting() -> None:
        allowance.wait(stopped.is_set)
        passed.set()

    thread = threading.Thread(target=waiting)
    thread.start()
    assert not passed.wait(0.05)
    allowance.remove(5)
    assert passed.wait(30)
    thread.join()
    allowance.add(100)
    stopped.set()
    allowance.wait(stopped.is_set)  # a stop ends it
