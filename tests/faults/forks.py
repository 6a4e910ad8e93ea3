"""Runs as forks of this process, which has imported all: to be traced, killed, and run undisturbed.

A fork waits until strace is attached; then `-e inject=CALL:signal=SIGKILL:when=N` kills it as it
enters a system call for the N-th time in one of its threads. The call is not carried out.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open", "openat", "creat", "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync",
    "sync_file_range", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "unlink",
    "unlinkat", "rmdir", "mkdir", "mkdirat", "truncate", "ftruncate", "fallocate",
)  # fmt: skip
KILLED, FAILED = -signal.SIGKILL, 1
_ENTERED = re.compile(r"^(?:\[pid +)?(\d+)\]? +(\w+)\((.*)")


@dataclass(frozen=True)
class Point:
    """A call, and which of those that are counted; torn after half of what it writes."""

    call: str
    number: int
    torn: bool = False


@dataclass
class Fork:
    """A forked run that waits for its start; its output goes to a file."""

    pid: int
    gate: int

    def start(self) -> None:
        """Let it run."""
        os.write(self.gate, b"x")
        os.close(self.gate)

    def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill_group(self) -> None:
        """Kill it and all processes that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def can_trace() -> bool:
    """Whether strace is here, and may attach to a process and kill it."""
    if not shutil.which("strace"):
        return False
    child = fork(lambda: None, Path(os.devnull))
    return traced(child, Path(os.devnull), ["-e", "trace=exit_group"]) == 0


def fork(body: Callable[[], object], output: Path) -> Fork:
    """A fork in a process group of its own, which runs the body once it is started."""
    ready, gate = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ready)
        return Fork(pid, gate)
    code = FAILED
    try:
        os.setsid()
        os.close(gate)
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for standard in (1, 2):
            os.dup2(stream, standard)
        os.read(ready, 1)
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def undisturbed(body: Callable[[], object], output: Path) -> int:
    """Exit code of a run that nobody disturbs."""
    child = fork(body, output)
    child.start()
    return child.wait()


def points_of(body: Callable[[], object], paths: Sequence[str], output: Path) -> list[Point]:
    """The calls of an undisturbed run that name a path which begins with one of `paths`."""
    log = output.with_suffix(".trace")
    names = ",".join(f"?{call}" for call in CALLS)
    code = traced(fork(body, output), log, ["-y", "-e", f"trace={names}"])
    if code:
        raise RuntimeError(f"a traced run ended with {code}: {output.read_text()}")
    lines = log.read_text(errors="replace").splitlines()
    return sorted(set(_points(lines, paths)), key=lambda point: (point.call, point.number))


def killed(body: Callable[[], object], point: Point, output: Path) -> int:
    """Exit code of a run that strace kills at a point."""
    trace = ["-e", f"trace={point.call}"]
    inject = f"inject={point.call}:signal=SIGKILL:when={point.number}"
    return traced(fork(body, output), Path(os.devnull), [*trace, "-e", inject])


def killed_after(body: Callable[[], object], seconds: float, output: Path) -> int:
    """Exit code of a run whose process group is killed after some seconds."""
    child = fork(body, output)
    child.start()
    time.sleep(seconds)
    child.kill_group()
    return child.wait()


def traced(child: Fork, log: Path, options: Sequence[str]) -> int:
    """Exit code of a fork that strace follows from its start; FAILED where strace failed."""
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", "signal=none", *options]
    tracer = subprocess.Popen(
        [*command, "-p", str(child.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    status = Path(f"/proc/{child.pid}/status")
    while tracer.poll() is None and "TracerPid:\t0\n" in status.read_text():
        time.sleep(0.001)
    child.start()
    code = child.wait()
    return code if tracer.wait() == 0 else FAILED


def _points(lines: Sequence[str], paths: Sequence[str]) -> Iterator[Point]:
    """Counted as strace counts, by thread and call; `when` cannot tell one thread from another."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if entered := _ENTERED.match(line):
            thread, call, arguments = entered.groups()
            counts[thread, call] += 1
            if any(path in arguments for path in paths):
                yield Point(call, counts[thread, call])
