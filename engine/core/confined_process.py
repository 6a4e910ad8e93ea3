"""Files from strangers, given to native libraries in a process with limits before the run opens
them: there they may take all memory, compute without end, panic or crash.

    run -> process   JSON: the steps
    process -> run   JSON, a line each: {"begun": n} before each step, {"failed": why} at the first
                     that fails, {"done": true} after the last

JSON, not pickles: this end is the one that is not trusted.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.core.helper_process import command
from engine.core.system_calls import ENVIRONMENT, NEW_GROUP, limits
from engine.errors import BackendError

# How C++, ONNX Runtime and Python say that memory is full.
_FULL = re.compile(r"bad.alloc|failed to allocate|out of memory|MemoryError", re.IGNORECASE)
# What a process is ended with that has used up its CPU time (SIGXCPU on Linux and macOS).
_OUT_OF_TIME = -24
# Seconds that pass before a process is given up: so many times its CPU time, and so many more.
_PATIENCE, _START_SECONDS = 20, 120
_HINT = (
    "the system may be out of memory or processes; in Python, Bundle.load(FOLDER, check=False) "
    "opens a bundle of your own without it"
)


@dataclass(frozen=True)
class Step:
    """A call of a module's `attempt`, after the `prepare` of all steps' modules, which loads their
    libraries without limits.

    Attributes:
        module: Its dotted name.
        arguments: JSON values.
        memory: Bytes that it may take beyond what the process has by then.
        seconds: Of CPU time.
    """

    module: str
    arguments: Mapping[str, Any]
    memory: int
    seconds: int


class RefusedError(ValueError):
    """Raised by an `attempt`: why a file is not used, in words that follow its name."""


class FailedStepError(Exception):
    """A step that failed.

    Attributes:
        number: Of the step.
        reason: Why, in words that follow its name.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def run(steps: Sequence[Step]) -> None:
    """Run steps in a process of their own, one after the other.

    Raises:
        FailedStepError: One failed, or ended the process.
        BackendError: The process cannot be started.
    """
    replies, code = _replies(steps)
    number = max((reply["begun"] for reply in replies if "begun" in reply), default=-1)
    failures = [str(reply["failed"]) for reply in replies if "failed" in reply]
    if failures:
        raise FailedStepError(number, _described(failures[0], steps[number]))
    if any(reply.get("done") for reply in replies):
        return
    if number < 0:
        raise BackendError(
            f"the process that tries a bundle could not begin (exit code {code})", _HINT
        )
    raise FailedStepError(number, _ended(code, steps[number]))


def _replies(steps: Sequence[Step]) -> tuple[list[dict[str, Any]], int]:
    """What the process says, line by line, and its exit code."""
    seconds = _START_SECONDS + _PATIENCE * sum(step.seconds for step in steps)
    try:
        process = subprocess.Popen(
            command(__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            creationflags=NEW_GROUP,
            env=_environment(),
        )
    except OSError as error:
        raise BackendError(
            f"the process that tries a bundle could not begin: {error.strerror}", _HINT
        ) from error
    try:
        message = json.dumps([asdict(step) for step in steps]).encode()
        output, _ = process.communicate(message, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    finally:
        process.kill()
    return [json.loads(line) for line in output.splitlines()], process.returncode


def _environment() -> dict[str, str]:
    """What libraries need, and nothing else of this process's."""
    kept = ("HOME", "LD_LIBRARY_PATH", "ORT_DISABLE_TELEMETRY", *ENVIRONMENT)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAYON_NUM_THREADS": "1",
        # Each thread of a library may reserve 64 MiB of addresses otherwise.
        "MALLOC_ARENA_MAX": "2",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _described(reason: str, step: Step) -> str:
    if is_full(reason):
        return f"takes more than {step.memory >> 20:,} MiB of memory to open"
    return reason


def _ended(code: int, step: Step) -> str:
    if code == _OUT_OF_TIME:
        return f"takes more than {step.seconds} s of CPU time to open"
    return (
        f"ends the process that opens it (code {code}): it takes more than "
        f"{step.memory >> 20:,} MiB of memory, or crashes the library"
    )


def is_full(reason: str) -> bool:
    """Whether a library says that memory is full."""
    return bool(_FULL.search(reason))


def main() -> None:
    """The process."""
    steps = [Step(**step) for step in json.loads(sys.stdin.buffer.read())]
    modules = [importlib.import_module(step.module) for step in steps]
    # Before any limit: a library for GPUs takes more than a tokenizer may.
    for module in modules:
        module.prepare()
    for number, (step, module) in enumerate(zip(steps, modules, strict=True)):
        _tell({"begun": number})
        _limit(step)
        try:
            module.attempt(**step.arguments)
        except BaseException as error:  # a panic of a library in Rust is none of Exception
            _tell({"failed": _reason(error)})
            return
    _tell({"done": True})


def _reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{text or type(error).__name__}"[:2000]


def _limit(step: Step) -> None:
    if not (resource := limits()):
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    _lower(resource, resource.RLIMIT_CPU, math.ceil(spent + step.seconds - 0.5))  # to the nearest
    _lower(resource, resource.RLIMIT_CORE, 0)
    if used := re.search(r"VmSize:\s+(\d+) kB", _status()):
        _lower(resource, resource.RLIMIT_AS, (int(used[1]) << 10) + step.memory)


def _lower(resource: Any, name: int, most: int) -> None:
    """Set a soft limit, below the hard one."""
    hard = resource.getrlimit(name)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(name, (most, hard))


def _status() -> str:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _tell(message: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()
