"""Brings the finished parts of a run to an object store, one after the other, while it goes on.

    local part, local record ─► part, bad rows ─► record ─► hole in scratch
                                conditional puts

A record is put after its files, and `_SUCCESS` after all records, once a fresh listing has shown
that every file is there as it was put and that no other is beside them. Before the first change
`_SUCCESS` goes. No change is made without the lock.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from engine.bundle.format import sha256
from engine.data import PASSES, KeyChangedError, OutputFile, StoredFile, StoredFolder
from engine.errors import OutputError
from engine.runner.manifest import DATASET, FOLDER, SUCCESS
from engine.runner.records import STARTS, Entry
from engine.runner.scratch import Scratch
from engine.runner.store_lock import StoreLock
from engine.runner.stored_records import (
    RUN,
    StoredRecord,
    StoredRun,
    is_whole,
    record_name,
    stored_text,
    surplus,
)

_AHEAD = 2
"""Parts that wait while others are put."""
_THREADS = 4
_POLL_SECONDS, _CLOSE_SECONDS = 0.1, 1.0
_TRIES = 3
_STARTS = f"{FOLDER}/{STARTS}"


class Publisher:
    """Puts the parts of one run; its methods are for the thread that drives the run.

    Args:
        folder: The output.
        lock: Of the output, held.
        scratch: Where the run works.
        stored: What the output had at the start.
    """

    def __init__(
        self, folder: StoredFolder, lock: StoreLock, scratch: Scratch, stored: StoredRun
    ) -> None:
        self._folder, self._lock, self._scratch = folder, lock, scratch
        self._versions = {name: file.version for name, file in stored.files.items()}
        self._stored_run = stored.run or {}
        self._first = dict(self._versions)
        self._records = stored.whole
        outputs = [o for record in self._records.values() for o in record.entry.files]
        self._hashes = {output.file: output.sha256 for output in outputs}
        self._names = {output.sha256: output.file for output in outputs}
        self._waiting: queue.Queue[Entry | None] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._closing = False
        self._threads = [
            threading.Thread(target=self._publish_all, daemon=True) for _ in range(_THREADS)
        ]

    def begin(self) -> None:
        """Put what the run is, before anything is computed, and start the threads."""
        for name in (RUN, DATASET, f"{FOLDER}/{PASSES}"):
            file = self._scratch.out / name
            if file.is_file():
                self._put_text(name, file.read_bytes())
        for thread in self._threads:
            thread.start()

    def publish(self, entry: Entry) -> None:
        """Have a part that is finished put, unless it is in the store; waits while others wait.

        Raises:
            OutputError: An earlier one could not be put, or another run has the lock.
        """
        record = self._records.get(entry.part.file)
        if record is None or record.entry != entry:
            self._wait(entry)

    def check(self) -> None:
        """Raise what has failed meanwhile."""
        if self._error:
            raise self._error
        self._lock.check()

    def finish(self, entries: Sequence[Entry], success: Mapping[str, object]) -> None:
        """Wait until all is put, remove what is no part of the run, and put `_SUCCESS`.

        Raises:
            OutputError: A part could not be put, or has been changed since.
        """
        self._end()
        files = self._folder.files()
        self._versions = {name: file.version for name, file in files.items()}
        for entry in entries:
            if not is_whole(self._records[entry.part.file], files):
                raise OutputError(
                    f"{self._folder.url}/{entry.part.file}: has been changed or removed since it "
                    "was put",
                    "run the same command again, which computes it anew",
                )
        if others := surplus(files, entries) + self._other_starts(files, success):
            with self._changing():
                self._folder.remove(others)
        for file in sorted((self._scratch.out / _STARTS).glob("*.json")):
            self._put_text(f"{_STARTS}/{file.name}", file.read_bytes())
        text = json.dumps(success, indent=2, sort_keys=True, default=str) + "\n"
        self._put_text(SUCCESS, text.encode())

    def _other_starts(
        self, files: Mapping[str, StoredFile], success: Mapping[str, object]
    ) -> list[str]:
        """What starts of another run did, whose output this one has taken."""
        if self._stored_run.get("fingerprint") == success["fingerprint"]:
            return []
        return [name for name in files if name.startswith(f"{_STARTS}/")]

    def close(self) -> None:
        """Let the threads put what is finished, if that takes no longer than a moment; a put that
        does is left alone: it succeeds whole or not at all."""
        end = time.monotonic() + _CLOSE_SECONDS
        self._closing = True
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))
        self._error = self._error or OutputError("the run has ended")

    def _end(self) -> None:
        for _ in self._threads:
            self._wait(None)
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                self.check()
        self.check()

    def _wait(self, entry: Entry | None) -> None:
        """Queue a part, or None for a thread to end, once there is space."""
        while True:
            self.check()
            try:
                return self._waiting.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def _publish_all(self) -> None:
        try:
            while not self._error:
                try:
                    entry = self._waiting.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    if self._closing:
                        return
                    continue
                if entry is None:
                    return
                self._publish(entry)
        except BaseException as error:  # whatever it is, the driving thread must raise it
            self._error = self._error or error

    def _publish(self, entry: Entry) -> None:
        """Put the files of a part, then its record."""
        for output in entry.files:
            with self._changing():
                self._put_output(output)
        e_tags = {output.file: self._versions[output.file].tag for output in entry.files}
        name = record_name(entry.part.file)
        text = (self._scratch.out / name).read_text(encoding="utf-8")
        self._put_text(name, stored_text(text, e_tags).encode())
        self._records[entry.part.file] = StoredRecord(entry, text, e_tags)
        self._scratch.replace(entry)

    def _put_output(self, output: OutputFile) -> None:
        """Put a part or its bad rows; where the input was renamed, the store has them already."""
        name, file = output.file, self._scratch.out / output.file
        if self._hashes.get(name) == output.sha256 and self._is_as_it_was(name):
            return
        old = self._names.get(output.sha256)
        if old and self._is_as_it_was(old) and sha256(file) != output.sha256:
            # A hole, which has the new name of its input.
            self._versions[name] = self._folder.copy(old, name)
            return
        for _ in range(_TRIES):
            try:
                self._versions[name] = self._folder.put_file(name, file, self._versions.get(name))
                return
            except KeyChangedError:
                self._look_again(name)
        raise self._changed(name)

    def _is_as_it_was(self, name: str) -> bool:
        return self._versions.get(name) == self._first[name]

    def _put_text(self, name: str, content: bytes) -> None:
        """Put a small key, unless it has this content."""
        for _ in range(_TRIES):
            there = self._folder.read(name) if name in self._versions else None
            if there and there[0] == content:
                return
            with self._changing():
                try:
                    expected = there[1] if there else None
                    self._versions[name] = self._folder.put(name, content, expected)
                    return
                except KeyChangedError:
                    self._look_again(name)
        raise self._changed(name)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """See that the lock is ours before a change, and take `_SUCCESS` away before the first."""
        self._lock.ensure()
        if SUCCESS in self._versions:
            self._folder.remove([SUCCESS])
            self._versions.pop(SUCCESS, None)
        yield

    def _look_again(self, name: str) -> None:
        """What is under a name now: a writer that had the lock before may have put it last."""
        self._lock.renew()
        there = self._folder.stat(name)
        if there:
            self._versions[name] = there.version
        else:
            self._versions.pop(name, None)

    def _changed(self, name: str) -> OutputError:
        return OutputError(
            f"{self._folder.url}/{name}: is changed by somebody else again and again",
            "find out who writes there, or choose another folder with -o",
        )
