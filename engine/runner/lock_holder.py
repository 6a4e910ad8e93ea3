"""Who holds the lock of an output folder: what a lock file says, and whether it still runs."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from engine.core import json_text, system_calls

SIZE = 1024
"""Bytes of a lock file: always as many, so that one write replaces what was there."""
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,255}")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        host: Name of its machine.
        boot: Id of the machine's start, and `namespace` of the processes that can see each other,
            as in one container; "" where the system has none.
        pid: Its number.
        started: Its start by the machine's clock, in ticks; "" where the system does not tell.
        since: When it took the lock, in UTC.
        way: FLOCK where the system has the lock, FILE where the file's existence is the lock.
        token: Of this one hold.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    since: str
    way: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def to_bytes(self) -> bytes:
        """As JSON, filled up with spaces to `SIZE` bytes."""
        return json.dumps(asdict(self)).encode().ljust(SIZE - 1) + b"\n"

    def is_gone(self) -> bool:
        """Whether its process certainly does not run any more; of another machine or container
        nobody knows."""
        here = this_process("")
        if self.host != here.host:
            return False
        if self.boot != here.boot:  # the machine has been started since
            return True
        if self.namespace != here.namespace:
            return False
        started = process_start(self.pid)
        return started is None or (bool(started and self.started) and started != self.started)

    def is_elsewhere(self) -> bool:
        """Whether it is of another machine or container, whose processes are not seen from here."""
        here = this_process("")
        return (self.host, self.namespace) != (here.host, here.namespace)


def this_process(way: str) -> Holder:
    """This process as a holder that has taken the lock now."""
    return Holder(
        host=_host(),
        boot=_boot(),
        namespace=_namespace(),
        pid=os.getpid(),
        started=process_start(os.getpid()) or "",
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        way=way,
        token=uuid4().hex,
    )


def read_holder(content: bytes) -> Holder | None:
    """The holder that a lock file names; None where it names none, as one that is empty or torn."""
    with suppress(ValueError, TypeError):
        holder = Holder(**json_text.parse(content))
        texts = (holder.boot, holder.namespace, holder.started, holder.since, holder.way)
        if (
            type(holder.pid) is int
            and 0 < holder.pid < 1 << 31
            and all(isinstance(text, str) and len(text) < 100 for text in texts)
            and _HOST.fullmatch(holder.host)
            and re.fullmatch(r"[\d :-]{19} UTC", holder.since)
            and re.fullmatch(r"[0-9a-f]{32}", holder.token)
        ):
            return holder
    return None


def process_start(pid: int) -> str | None:
    """When a process was started, in ticks of its machine; None where it has ended, and "" where
    the system does not tell."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:  # it has ended, belongs to another user, or this is no Linux
        return system_calls.process_start(pid)
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _host() -> str:
    name = socket.gethostname()
    return name if _HOST.fullmatch(name) else "unknown"


@functools.cache
def _boot() -> str:
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


@functools.cache
def _namespace() -> str:
    with suppress(OSError):
        return os.readlink(_PROC / "self/ns/pid")
    return ""
