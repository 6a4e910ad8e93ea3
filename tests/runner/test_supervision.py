"""A run ends at a stop and at a stall, whatever call it is in, and not while it makes progress."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import engine
from engine.core import activity
from engine.core.activity import Activity
from engine.core.telemetry import Progress, Telemetry
from engine.demo import BUNDLE
from engine.errors import SettingsError, Stalled, Stopped
from engine.runner import supervision
from engine.runner.manifest import Manifest
from engine.runner.supervision import Supervision, Watch


class Clock:
    """Seconds that pass, and the processor's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 0.0
        monkeypatch.setattr(supervision.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(supervision.time, "process_time", lambda: self.cpu)

    def look(self, watch: Watch, seconds: int, busy: bool = False) -> str:
        text = ""
        for _ in range(seconds):
            self.now += 1
            self.cpu += busy
            text = watch.look() or text
        return text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def doing(stage: str = "reading", what: str = "a.jsonl") -> Activity:
    current = Activity()
    current.set(stage, what)
    return current


def test_silence_is_told_and_ends_in_a_stall(clock: Clock) -> None:
    current = doing()
    watch = Watch(current, 300)
    assert clock.look(watch, 29) == ""
    assert current.note == ""
    assert clock.look(watch, 270) == ""
    assert current.note == "reading a.jsonl: no progress for 299 s"
    assert clock.look(watch, 3).startswith("reading a.jsonl: no progress for 30")


def test_a_sign_of_life_begins_anew(clock: Clock) -> None:
    current = doing()
    watch = Watch(current, 10)
    for _ in range(20):
        assert clock.look(watch, 9) == ""
        current.beat()
    assert clock.look(watch, 12)


def test_what_computes_has_ten_times_as_long(clock: Clock) -> None:
    watch = Watch(doing("computing", "a batch"), 10)
    assert clock.look(watch, 99, busy=True) == ""
    assert clock.look(watch, 5, busy=True).startswith("computing a batch: no progress for 10")


def test_time_in_which_nobody_looked_is_no_stall(clock: Clock) -> None:
    watch = Watch(doing(), 10)
    for _ in range(9):
        clock.now += 3600  # asleep, or stopped by SIGSTOP
        assert watch.look() == ""


def test_zero_switches_the_watch_off(clock: Clock) -> None:
    current = doing()
    assert clock.look(Watch(current, 0), 100_000) == ""
    assert current.note


def test_a_run_in_which_nobody_works_stalls_too(clock: Clock) -> None:
    assert clock.look(Watch(Activity(), 10), 12).startswith("waiting for a stage")


def test_counting_is_a_sign_of_life_and_stages_end() -> None:
    current = activity.begin()
    telemetry = Telemetry()
    with telemetry.timed("infer", "a batch"):
        (before,) = current.works.values()
        telemetry.add(group_steps=4, busy=3)
        (after,) = current.works.values()
        assert str(before) == str(after) == "computing a batch"
        assert before.sign != after.sign
        with activity.working("hashing", "b"):
            assert str(next(iter(current.works.values()))) == "hashing b"
        assert str(next(iter(current.works.values()))) == "computing a batch"
    assert not current.works


def test_what_a_run_raises_and_returns_comes_through() -> None:
    assert Supervision[int]().run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        Supervision[float]().run(lambda: 1 / 0)


def test_progress_is_shown_in_the_calling_thread_and_what_that_raises_ends_the_run() -> None:
    seen: list[int] = []

    def on_progress(progress: Progress) -> None:
        seen.append(threading.get_ident())
        if len(seen) == 3:
            raise ValueError("enough")

    one: Supervision[None] = Supervision(on_progress)

    def work() -> None:
        for _ in range(10):
            one.show(Progress(0.0, 0, 0, 0, 0, 0, 0, 0.0))

    with pytest.raises(ValueError, match="enough"):
        one.run(work)
    assert seen == [threading.get_ident()] * 3


@pytest.fixture
def free() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def blocked(free: threading.Event) -> Callable[..., Any]:
    return lambda *arguments, **settings: free.wait(60)


def corpus(folder: Path, count: int = 40) -> Path:
    file = folder / "x.jsonl"
    file.write_text('{"text": "uno"}\n' * count)
    return file


STAGES = {
    "computing a batch of": "engine.answering.stages.Stages.infer",
    "tokenizing": "engine.answering.stages.Stages.encode",
    "writing the answers for": "engine.runner.part.PartWriter.write",
    "reading": "engine.answering.stages.Stages.prepare",
    "hashing": "engine.data.splits._content_hash",
    "loading": "engine.runner.worker.Bundle.load",
    "listing": "engine.data.discover",
    "planning": "engine.data.settle",
}
"""What a stall is called by what blocks."""


@pytest.mark.parametrize("said", STAGES)
def test_a_stage_that_stands_still_ends_the_run_with_the_stacks(
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    free: threading.Event,
) -> None:
    file = corpus(tmp_path)
    monkeypatch.setattr(STAGES[said], blocked(free))
    with pytest.raises(Stalled, match=said) as stalled:
        engine.run(BUNDLE, file, tmp_path / "out", stall_timeout=1)
    assert "--stall-timeout" in stalled.value.message
    assert "--stall-timeout 0" in stalled.value.hint
    stacks = capfd.readouterr().err
    assert "test_supervision.py" in stacks
    assert "uno" not in stacks
    assert not (tmp_path / "out/_SUCCESS").exists()


@pytest.mark.parametrize("said", [said for said in STAGES if said != "writing the answers for"])
def test_a_stop_from_another_thread_ends_any_stage(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: threading.Event
) -> None:
    file, begun, stop = corpus(tmp_path), threading.Event(), threading.Event()

    def block(*arguments: Any, **settings: Any) -> None:
        begun.set()
        free.wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[said], block)
        setter = threading.Thread(target=lambda: (begun.wait(60), stop.set()))
        setter.start()
        with pytest.raises(Stopped) as stopped:
            engine.run(BUNDLE, file, tmp_path / "out", stop=stop)
        setter.join()
    assert "run the same command again" in stopped.value.hint
    free.set()
    while any(thread.name == "engine-run" for thread in threading.enumerate()):
        time.sleep(0.01)  # what was left behind ends, and lets the folder go
    assert engine.run(BUNDLE, file, tmp_path / "out").rows_out == 40


def test_a_stopped_write_commits_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stop, free = corpus(tmp_path), threading.Event(), threading.Event()
    from engine.runner.part import PartWriter

    write = PartWriter.write

    def slow(self: PartWriter, window: Any) -> None:
        stop.set()
        free.wait(60)
        write(self, window)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "write", slow)
        with pytest.raises(Stopped, match="writing the answers for"):
            engine.run(BUNDLE, file, tmp_path / "out", stop=stop)
        free.set()
        while any(thread.name == "engine-run" for thread in threading.enumerate()):
            time.sleep(0.01)
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert not Manifest(tmp_path / "out").entries()
    assert engine.run(BUNDLE, file, tmp_path / "out").rows_out == 40


def test_a_run_in_another_thread_than_the_main_one_is_stopped_and_goes_on(tmp_path: Path) -> None:
    file, stop, ends = corpus(tmp_path, 20_000), threading.Event(), []

    def work() -> None:
        try:
            engine.run(BUNDLE, file, tmp_path / "out", stop=stop, on_progress=lambda p: stop.set())
        except Stopped as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert len(ends) == 1
    assert engine.run(BUNDLE, file, tmp_path / "out").rows_out == 20_000
    engine.run(BUNDLE, file, tmp_path / "whole")
    (part,) = (tmp_path / "out").glob("part-*")
    assert part.read_bytes() == (tmp_path / "whole" / part.name).read_bytes()


def test_a_call_in_memory_is_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    bundle = engine.Bundle.load(BUNDLE)
    assert bundle(["uno"], stop=stop).num_rows == 1
    stop.set()
    with pytest.raises(Stopped):
        bundle(["uno"], stop=stop)
    assert bundle(["uno"], stop="x").num_rows == 1  # the task's own: texts that end a row


def test_a_stall_timeout_is_checked_as_other_settings_are(tmp_path: Path) -> None:
    for value in (-1, "long"):
        with pytest.raises(SettingsError, match="stall_timeout"):
            engine.run(BUNDLE, corpus(tmp_path), tmp_path / "out", stall_timeout=value)  # type: ignore[arg-type]  # one is of a wrong type


def test_a_run_ends_by_whatever_a_signal_handler_of_the_caller_raises() -> None:
    class TimeoutOfATask(BaseException):
        pass

    def raises(number: int, frame: FrameType | None) -> None:
        raise TimeoutOfATask

    ended = threading.Event()

    def work() -> None:
        try:
            while True:
                activity.proceed()
                time.sleep(0.01)
        finally:
            ended.set()

    before = signal.signal(signal.SIGUSR1, raises)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        with pytest.raises(TimeoutOfATask):
            Supervision[None]().run(work)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.is_set()
