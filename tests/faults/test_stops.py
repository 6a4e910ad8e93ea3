"""Stops end in time, with their code, and lose nothing: the short form of `faults.stops`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from faults import stops

from engine.demo import BUNDLE

pytest.importorskip("onnxruntime")
WAIT = 60


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """SIGHUP as a terminal sends it, also where the tests run under nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(*arguments: object, **settings: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload, no-any-return]  # Popen's own
    )


def begun(process: subprocess.Popen[str]) -> None:
    """Wait until Python itself has started, before which no program handles a signal."""
    while process.poll() is None and not stops.handles(process.pid, signal.SIGTERM):
        time.sleep(0.005)


@pytest.mark.parametrize("size", stops.SIZES)
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(size: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": 1, "text": "cuarenta y dos"}\n{"id": 2, "text": "uno"}\n' * 1000)
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(
        stops.command(BUNDLE, corpus, whole, size), check=True, capture_output=True, cwd=stops.ROOT
    )
    for after in (0.3, 2.0):
        one = stops.stop("translation", size, stops.command(BUNDLE, corpus, out, size), after)
        assert one.rc in (0, 75)
        assert "Traceback" not in one.said
        assert one.rc == 0 or "stopped" in one.said
    subprocess.run(
        stops.command(BUNDLE, corpus, out, size), check=True, capture_output=True, cwd=stops.ROOT
    )
    assert stops.parts(whole) == stops.parts(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_imports_has_the_same_code(number: signal.Signals) -> None:
    for after in (0.0, 0.3):
        process = start("doctor", "--json")
        begun(process)
        time.sleep(after)
        process.send_signal(number)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode in (0, 75), said
        assert "Traceback" not in said


def test_no_hangup_reaches_a_run_under_nohup(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start("tasks", preexec_fn=ignore)
    begun(process)
    for _ in range(5):
        time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
    process.communicate(timeout=WAIT)
    assert process.returncode == 0


def test_a_stop_of_the_whole_group_leaves_no_process_and_one_message(tmp_path: Path) -> None:
    corpus = stops.write_corpus(tmp_path / "corpus.jsonl", 20_000)
    process = start(
        *("run", BUNDLE, corpus, "-o", tmp_path / "out", "--tokenizers", 2, "--json"),
        start_new_session=True,
    )
    parent = psutil.Process(process.pid)
    end = time.monotonic() + WAIT
    while len(children := parent.children()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=WAIT)
    assert process.returncode == 75, said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=WAIT)
    assert not alive


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    corpus = stops.write_corpus(tmp_path / "corpus.jsonl", 20_000)
    process = start("run", BUNDLE, corpus, "-o", tmp_path / "out")
    begun(process)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=WAIT)
    assert process.returncode == 75
    assert "Traceback" not in said


ENDLESS = """
import sys
from engine import cli
from engine.runner import coordinator

def endless(*arguments, **settings):  # a call of C that Python's handlers wait for
    import hashlib
    print("inside", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)

coordinator.run = endless
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_main_thread_inside_of_a_library_cannot_hold_the_exit(
    number: signal.Signals, tmp_path: Path
) -> None:
    corpus = stops.write_corpus(tmp_path / "corpus.jsonl", 3)
    run = ["run", str(BUNDLE), str(corpus), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "inside\n"
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=WAIT)
        finally:
            process.kill()
    assert process.returncode == 75
    assert said.startswith("error: stopped")
    assert "run the same command again" in said
