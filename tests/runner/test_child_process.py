"""Messages of a process of a run."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_TALK = """
import threading
from engine.runner.child_process import ChildChannel

channel = ChildChannel()
threads = [
    threading.Thread(target=lambda: [channel.tell("x" * 100) for _ in range(2_000)])
    for _ in range(4)
]
with channel.reporting():
    for thread in threads:
        thread.start()
for thread in threads:
    thread.join()
channel.tell(None)
"""


def test_threads_may_tell_at_once() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_TALK)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert child.stdin
    assert child.stdout
    assert child.stderr
    heard = []
    while (message := pickle.load(child.stdout)) is not None:
        heard.append(message)
    child.stdin.close()
    assert child.wait() == 0
    assert child.stderr.read() == b""
    assert len(heard) == 8_000
