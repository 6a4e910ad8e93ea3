"""The lock of an output in an object store, which one run at a time may hold.

    OUT/_manifest/lock.json     who writes here, renewed while a run writes

A lock is a key that one writer creates; the store lets only one of them. Its owner renews it by
puts on the version that it wrote last. One that has not been renewed for `LEASE` seconds, by the
store's own clock, may be taken over, again by a put on the version that was seen, so that one of
several wins. An owner changes nothing later than `FRESH` seconds after a renewal, so that one
that was only asleep finds another version at its next renewal first, and changes nothing any more.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.core.system_calls import clock
from engine.data import KeyChangedError, StoredFolder, Version
from engine.errors import EngineError, OutputError

LOCK = "_manifest/lock.json"
CLOCK = "_manifest/clock-"
"""What the names of keys begin with that were put to see the store's clock."""
RENEWAL = 10.0
"""Seconds between renewals of a run that changes nothing."""
FRESH = 2.0
"""Seconds after a renewal in which a run may change something. Google's store takes one put of a
key in a second."""
LEASE = 180.0
"""Seconds without a renewal after which a lock is free: longer than a put is tried again."""
_TRIES = 3
_CLOSE_SECONDS = 1.0


class StoreLock:
    """The lock of one output.

    Args:
        folder: The output.
        memory: Where this machine remembers its own lock: a run that was killed here is known to
            be gone, and nobody waits for its lease. Whoever reads it holds the lock of the folder
            that it lies in.
    """

    def __init__(self, folder: StoredFolder, memory: Path) -> None:
        self._folder, self._memory = folder, memory
        self._nonce, self._since = uuid.uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds")
        self._beat = 0
        self._renewed = 0.0
        self._version: Version | None = None
        self._lost: OutputError | None = None
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, and renew it from now on.

        Raises:
            OutputError: Another run has it, or the store cannot be written.
        """
        self._check_conditions()
        earlier, now = self._remembered(), clock()
        self._memory.write_text(self._nonce, encoding="utf-8")
        for _ in range(_TRIES):
            try:
                self._version = self._folder.put(LOCK, self._content(), self._free(earlier))
                self._renewed = now
                break
            except KeyChangedError:
                continue
        else:
            raise self._held_by({})
        self._thread = threading.Thread(target=self._renew_on, daemon=True)
        self._thread.start()

    def _check_conditions(self) -> None:
        """Raise OutputError where the store puts a key that is there under the condition that it
        is not: with such a store there is no lock."""
        name = f"{CLOCK}{self._nonce}"
        self._folder.put(name, b"first", None)
        try:
            self._folder.put(name, b"second", None)
        except KeyChangedError:
            return
        finally:
            self._folder.remove([name])
        raise OutputError(
            f"{self._folder.url}: the store does not heed conditions of puts",
            "write to a local folder and copy it; or use a store that knows If-None-Match",
        )

    def ensure(self) -> None:
        """Renew the lock unless that was done just now: what comes before every change.

        Raises:
            OutputError: Another run has taken the lock.
        """
        self.check()
        if clock() - self._renewed >= FRESH:
            self.renew()

    def renew(self) -> None:
        """Show that the owner is there.

        Raises:
            OutputError: Another run has taken the lock.
        """
        with self._turn:
            self.check()
            for _ in range(_TRIES):
                assert self._version is not None
                self._beat, now = self._beat + 1, clock()
                try:
                    self._version = self._folder.put(LOCK, self._content(), self._version)
                    self._renewed = now
                    return
                except KeyChangedError:
                    self._version = self._own_version()
            raise self._lose({})

    def check(self) -> None:
        """Raise OutputError where another run is known to have taken the lock."""
        if self._lost:
            raise self._lost

    def release(self) -> None:
        """Give the lock back, unless another run has it."""
        self._closing.set()
        if self._thread:
            self._thread.join(_CLOSE_SECONDS)
        try:
            self.renew()
            self._folder.remove([LOCK])
        except EngineError:
            return  # it is another's, or the store cannot be reached: the lease ends it
        self._memory.unlink(missing_ok=True)

    def _free(self, earlier: str) -> Version | None:
        """The version to replace: None where there is no lock.

        Raises:
            OutputError: Another run has it.
        """
        there = self._folder.read(LOCK)
        if there is None:
            return None
        owner, version = _owner(there[0]), there[1]
        if owner.get("nonce") in (earlier, self._nonce):
            return version
        age = self._age()
        if age is not None and age < LEASE:
            raise self._held_by(owner, age)
        return version

    def _age(self) -> float | None:
        """Seconds since the lock was written, by the store's clock; None where it is gone."""
        name = f"{CLOCK}{self._nonce}"
        self._folder.put(name, uuid.uuid4().bytes, None)
        now, lock = self._folder.stat(name), self._folder.stat(LOCK)
        self._folder.remove([name])
        return (now.modified - lock.modified).total_seconds() if now and lock else None

    def _own_version(self) -> Version:
        """The version of the lock, where an answer to one of our own puts was lost."""
        there = self._folder.read(LOCK)
        owner = _owner(there[0]) if there else {}
        if there is None or owner.get("nonce") != self._nonce:
            raise self._lose(owner)
        return there[1]

    def _renew_on(self) -> None:
        while not self._closing.wait(RENEWAL):
            try:
                self.renew()
            except OutputError:
                if self._lost:
                    return  # else the store cannot be reached now; the next renewal may

    def _lose(self, owner: dict[str, Any]) -> OutputError:
        self._lost = OutputError(
            f"{self._folder.url}: another run has taken over while this one was not heard of"
            f"{_in_words(owner)}",
            "wait for it, then run the same command again; this run changes nothing any more",
        )
        return self._lost

    def _held_by(self, owner: dict[str, Any], age: float = 0) -> OutputError:
        sign = f", last heard of {max(0, age):.0f} s ago" if owner else ""
        return OutputError(
            f"{self._folder.url}: another run is writing here{_in_words(owner)}{sign}",
            "wait for it, or choose another folder with -o; the lock of a run that was killed is "
            f"free after {LEASE:.0f} s",
        )

    def _content(self) -> bytes:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since}
        # No two contents are equal: a store may call equal ones the same version.
        return json.dumps({**owner, "nonce": self._nonce, "beat": self._beat}).encode()

    def _remembered(self) -> str:
        return self._memory.read_text(encoding="utf-8") if self._memory.is_file() else self._nonce


def _owner(content: bytes) -> dict[str, Any]:
    try:
        owner = json_text.parse(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _in_words(owner: dict[str, Any]) -> str:
    names = {"host": "on", "pid": "process", "since": "since"}
    words = [f"{word} {owner[name]!s:.100}" for name, word in names.items() if name in owner]
    return f" ({', '.join(words)})" if words else ""
