"""What is computed of a split that is not finished, so that a stop costs the batches in hand only.

    OUT/_tmp/part-00000-NAME.journal         of one split, removed once its part is committed

    engine-journal 1 {"batches": ..., "run": ...}    a line: what the answers depend on
    key, bytes, rows, checksum, checksum of these    of one batch, 40 bytes
    names, types and shapes as JSON; the arrays      what `infer` returned for it

The key is a digest of all that `infer` reads of a batch; a decoder's rows are recorded as they are
finished, and have keys of their own (`row_records`). A resumed split is read, tokenized and cut
again, and each batch that has a record gets its arrays from there; so a file that grew loses
nothing either. Nothing in a journal is trusted without its checksum: what is torn or
damaged is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core import json_text
from engine.core.system_calls import open_file, read_at, sync_data, write_at
from engine.core.types import Arrays, Batch, Ragged

FOLDER = "_tmp"
ENDING = ".journal"
_MAGIC = b"engine-journal 1 "
_LONGEST_HEADER = 4096
_PREFIX = struct.Struct("<16sQQII")
_LENGTH = struct.Struct("<I")
# A split that takes no longer has no journal on the disk.
LAZY_SECONDS = 0.2
# What a power cut may cost; a kill costs nothing that was written.
SYNC_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Record:
    """Where the arrays of one batch are, their checksum, and how many rows end with them."""

    start: int
    size: int
    rows: int
    checksum: int


class Journal:
    """The journal of one split, opened where an earlier start left it; for all threads.

    A disk that is full is no error: the space is given back to the part, which needs it more, and
    nothing more is recorded.

    Args:
        file: Its path.
        header: What the answers depend on besides the batch; a file with another is dropped.
        is_lost: Whether another run has taken the output folder, whose journals are left alone.
    """

    def __init__(
        self,
        file: Path,
        header: Mapping[str, object],
        is_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self._file, self._header, self._is_lost = file, _header(header), is_lost
        self._lock = threading.Lock()
        self._records: dict[bytes, _Record] = {}
        self._pending: list[bytes] = []
        self._pending_since = self._synced = 0.0
        self._handle: int | None = None
        self._end = self._resumed_end = 0
        self.failed = self._closed = False
        with suppress(OSError):
            if not is_lost():
                self._resume()

    def find(self, key: bytes) -> Arrays | None:
        """What an earlier start recorded under a key, or None."""
        record, handle = self._records.get(key), self._handle
        if record is None or handle is None:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            body = bytearray(read_at(handle, record.size, record.start))
            if len(body) == record.size and zlib.crc32(body) == record.checksum:
                return _from_body(body)
        return None

    def keys(self) -> Sequence[bytes]:
        """The keys of what earlier starts have recorded."""
        return tuple(self._records)

    def add(self, key: bytes, arrays: Arrays, rows: int) -> None:
        """Record what was computed for a batch, with which `rows` rows end."""
        body = _to_body(arrays)
        if body is None or self.failed:
            return
        with self._lock:
            if self._closed:  # a stopped run has not waited for this batch
                return
            self._pending.append(_prefix(key, body, rows) + body)
            self._pending_since = self._pending_since or time.monotonic()
            self._write(created=False)

    def sync(self) -> None:
        """Write what waits, and once in a while put it on the disk."""
        with self._lock:
            self._write(created=False)
            due = time.monotonic() - self._synced >= SYNC_SECONDS
            handle = self._handle if due else None
        if handle is not None:
            self._synced = time.monotonic()
            with suppress(OSError):
                sync_data(handle)

    def close(self) -> None:
        """Write what waits, and let the file go."""
        with self._lock:
            self._closed = True
            self._write(created=True)
            self._release()

    def remove(self) -> None:
        """Drop the journal: its part is committed."""
        with self._lock:
            self._pending.clear()
            self._release()
            with suppress(OSError):
                if not self._is_lost():
                    self._file.unlink(missing_ok=True)

    def _resume(self) -> None:
        try:
            handle = open_file(self._file, os.O_RDWR)
        except FileNotFoundError:
            return
        if not _starts_with(handle, self._header):
            os.close(handle)
            self._file.unlink()
            return
        self._handle = handle
        self._records = dict(_records(handle, len(self._header)))
        ends = (record.start + record.size for record in self._records.values())
        self._end = self._resumed_end = max(ends, default=len(self._header))
        os.ftruncate(handle, self._end)

    def _write(self, *, created: bool) -> None:
        """Write what waits, unless the file would have to be created for little."""
        if not self._pending or self.failed:
            return
        waited = time.monotonic() - self._pending_since
        if self._handle is None and not created and waited < LAZY_SECONDS:
            return
        try:
            if not self._is_lost():
                self._append(b"".join(self._pending))
        except OSError:
            self._fail()
        self._pending.clear()

    def _append(self, content: bytes) -> None:
        if self._handle is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open_file(self._file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            self._synced = time.monotonic()
            content = self._header + content
        view = memoryview(content)
        while view:
            written = write_at(self._handle, view, self._end)
            self._end += written
            view = view[written:]

    def _fail(self) -> None:
        self.failed = True
        if self._handle is not None:
            with suppress(OSError):
                os.ftruncate(self._handle, self._resumed_end)

    def _release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def journal_file(out: Path, part: str) -> Path:
    """Where the journal of a part's split is."""
    return out / FOLDER / f"{Path(part).stem}{ENDING}"


def batch_key(batch: Batch) -> bytes:
    """A digest of all that `infer` reads of a batch, 16 bytes."""
    digest = hashlib.blake2b(digest_size=16)
    arrays: dict[str, NDArray[Any] | None] = {**batch.feeds, "": batch.numbers, " ": batch.seeds}
    for name, array in sorted(arrays.items()):
        if array is not None:
            digest.update(repr((name, array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def any_in(out: Path) -> bool:
    """Whether an output folder has a journal."""
    return bool(_files(out))


def rows_kept(out: Path, run: str, parts: set[str]) -> int:
    """Rows that the journals of these parts of a run hold, which are not finished."""
    stems = {Path(part).stem for part in parts}
    files = (file for file in _files(out) if file.stem in stems)
    return sum(map(_rows, (file for file in files if _is_of(file, run))))


def drop_others(out: Path, run: str, parts: set[str]) -> None:
    """Remove all journals but those of a run's parts.

    Args:
        out: The output folder.
        run: The run's fingerprint.
        parts: Names of its part files.
    """
    files = _files(out)
    stems = {Path(part).stem for part in parts} if files else set()
    for file in files:
        if file.stem not in stems or not _is_of(file, run):
            file.unlink(missing_ok=True)


def _files(out: Path) -> Sequence[Path]:
    return sorted((out / FOLDER).glob(f"*{ENDING}"))


def _rows(file: Path) -> int:
    with suppress(OSError), file.open("rb", buffering=0) as stream:
        start = len(stream.read(_LONGEST_HEADER).partition(b"\n")[0]) + 1
        return sum(record.rows for record in dict(_records(stream.fileno(), start)).values())
    return 0


def _is_of(file: Path, run: str) -> bool:
    with suppress(OSError, ValueError), file.open("rb") as stream:
        line = stream.readline(_LONGEST_HEADER)
        if line.startswith(_MAGIC):
            header = json_text.parse(line[len(_MAGIC) :])
            return isinstance(header, dict) and header.get("run") == run
    return False


def _header(header: Mapping[str, object]) -> bytes:
    return _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n"


def _starts_with(handle: int, header: bytes) -> bool:
    return read_at(handle, len(header), 0) == header


def _records(handle: int, start: int) -> Iterator[tuple[bytes, _Record]]:
    """The key and place of each record, up to the first that is torn or damaged."""
    end = os.fstat(handle).st_size
    while len(prefix := read_at(handle, _PREFIX.size, start)) == _PREFIX.size:
        key, size, rows, checksum, own = _PREFIX.unpack(prefix)
        start += len(prefix)
        if own != zlib.crc32(prefix[: -_LENGTH.size]) or start + size > end:
            return
        yield key, _Record(start, size, rows, checksum)
        start += size


def _prefix(key: bytes, body: bytes, rows: int) -> bytes:
    fields = _PREFIX.pack(key, len(body), rows, zlib.crc32(body), 0)[: -_LENGTH.size]
    return fields + _LENGTH.pack(zlib.crc32(fields))


def _to_body(arrays: Arrays) -> bytes | None:
    """Arrays by name as bytes; None for those that have no bytes of their own."""
    described, buffers = [], []
    for name, value in arrays.items():
        ragged = isinstance(value, Ragged)
        parts = [value.values, value.offsets] if isinstance(value, Ragged) else [value]
        parts = [np.asarray(part) for part in parts]
        if any(part.dtype.hasobject for part in parts):
            return None
        described.append([name, ragged, [[part.dtype.str, part.shape] for part in parts]])
        buffers += [part.tobytes() for part in parts]
    text = json.dumps(described).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *buffers])


def _from_body(body: bytearray) -> Arrays:
    (length,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size + length
    arrays: dict[str, NDArray[Any] | Ragged] = {}
    for name, ragged, parts in json_text.parse(body[_LENGTH.size : start]):
        values = []
        for dtype, shape in parts:
            # A copy: NumPy wants numbers at addresses that are multiples of their size.
            part = np.ndarray(shape, dtype, body, start).copy()
            start += part.nbytes
            values.append(part)
        arrays[name] = Ragged(*values) if ragged else values[0]
    return arrays
