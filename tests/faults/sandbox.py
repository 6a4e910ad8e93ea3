"""A function in a forked child with limits on time and memory: a crash or a hang is a result.

The parent imports all that the child needs once; a child costs a few milliseconds.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError

OK, REFUSED, TRACEBACK, CRASH, HANG = "ok", "refused", "traceback", "crash", "hang"
MIB = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """How a call in a child ended.

    Attributes:
        state: `OK`; `REFUSED` by an EngineError; `TRACEBACK`, any other exception; `CRASH`, a
            signal of its own; `HANG`, killed since its time was over.
        value: What the call returned, or the error in words.
        seconds: Until it ended.
        peak: Most bytes of memory of the child, besides what it began with.
    """

    state: str
    value: Any
    seconds: float
    peak: int


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def call_apart(
    function: Callable[..., Any], *arguments: Any, seconds: float = 10, space: int = 2048 * MIB
) -> Outcome:
    """The outcome of function(*arguments) in a child of its own.

    Args:
        function: What is called; its result must be picklable.
        arguments: Of the function.
        seconds: After which the child is killed.
        space: Bytes of addresses that the child may take besides what it has.
    """
    started, before = time.perf_counter(), resident()
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        _answer(write_end, function, arguments, space)
    os.close(write_end)
    content = _receive(read_end, started + seconds)
    os.close(read_end)
    if content is None:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    # A fork begins with all of its parent's memory.
    spent, peak = time.perf_counter() - started, max(0, usage.ru_maxrss * 1024 - before)
    if content is None:
        return Outcome(HANG, f"killed after {seconds} s", spent, peak)
    if not content or status:
        return Outcome(CRASH, f"wait status {status}", spent, peak)
    return Outcome(*pickle.loads(content), spent, peak)


def _answer(
    write_end: int, function: Callable[..., Any], arguments: tuple[Any, ...], space: int
) -> None:
    """Call the function and leave, whatever happens."""
    status = 1
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        most = address_space() + space
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        content = pickle.dumps(_outcome(function, arguments))
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(content)
        status = 0
    finally:
        os._exit(status)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return OK, function(*arguments)
    except EngineError as error:
        return REFUSED, f"{type(error).__name__}: {error}"
    except BaseException as error:  # what a person would see as a traceback
        return TRACEBACK, f"{type(error).__name__}: {error}"[:500]


def _receive(read_end: int, deadline: float) -> bytes | None:
    """All that the child writes; None where its time is over first."""
    pieces = []
    while True:
        left = deadline - time.perf_counter()
        if left <= 0 or not select.select([read_end], [], [], left)[0]:
            return None
        piece = os.read(read_end, 1 << 20)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def address_space() -> int:
    """Bytes of addresses that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
