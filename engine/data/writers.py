"""Answers to part files, bad rows to JSON lines: hashed while written, renamed when complete.

A file grows under `_tmp` and gets its final name only after its bytes are on the disk, so that
nothing half-written is ever visible.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from engine.core.config import FORMATS
from engine.core.rejects import Rejects
from engine.core.system_calls import sync, sync_folder
from engine.data.new_files import open_new
from engine.data.parts import part_writer
from engine.data.store_access import WRITTEN
from engine.errors import OutputError, SettingsError
from engine.library_errors import reason_of, without_quotes

REJECTS = "_manifest/rejects"
"""Where bad rows lie below the output folder. Readers of a dataset skip what begins with `_`, and
DuckDB's `**/*.parquet`, which does not, skips the ending: a folder opens as its answers alone."""
REJECTS_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "code": pa.string(),
        "message": pa.string(),
        "column": pa.string(),
        "expected": pa.string(),
        "found": pa.string(),
        "text": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file under its final name: its path below the output folder, size in bytes, sha256, and
    when it was written, in nanoseconds; 0 where that is not known."""

    file: str
    bytes: int
    sha256: str
    modified: int = 0

    def is_intact(self, folder: Path, *, hashed: bool = False) -> bool:
        """Whether the file in `folder` is the one that was written, by its size and date. Where
        these leave a doubt, or on request, its bytes are hashed."""
        file = folder / self.file
        try:
            status = file.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != self.bytes:
                return False
            if not hashed and self.modified in (0, status.st_mtime_ns):
                return True
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate errors of the file system and pyarrow into an OutputError that names the file."""
    try:
        yield
    except pa.ArrowException as error:
        raise OutputError(
            f"{path}: cannot be written: {reason_of(error)}",
            "leave the column out of --keep, or choose another --format",
        ) from without_quotes(error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = (
            "free some space; the same command goes on where this one stopped"
            if full
            else "check the folder's permissions and disk"
        )
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}", hint) from error


def check_local(out: Path | str) -> None:
    """Raise SettingsError where the output is an address such as s3://bucket, or a dash, which as a
    path would be a local folder of that name."""
    if str(out) == "-":
        raise SettingsError(
            "out is -, which only the command line takes",
            "name a folder or a file; report.table() has the answers",
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(out)):
        raise SettingsError(
            f"out is {out}: {WRITTEN}",
            "choose another with -o; a URL is a text with two slashes",
        )


class HashingFile:
    """A file that hashes what is written to it, with as many methods as Arrow's writers need.

    After `dropped` it ignores writes: a Parquet writer still writes its footer when it is garbage
    collected.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.closed = False
        self.dropped = False

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if not self.dropped:
            self._stream.write(data)
            self.digest.update(data)
            self.bytes += size
        return size

    @property
    def written(self) -> dict[str, int | str]:
        """Size and sha256 of what has been written."""
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class FileWriter:
    """One part file, or the file of its bad rows, while it is written.

    Args:
        out: The output folder.
        name: Final path below it, ending included.
        schema: Of the table.
        kind: A key of `FORMATS` or, for bad rows, "rejects".
        compression: zstd, lz4 or none.
    """

    def __init__(
        self, out: Path, name: str, schema: pa.Schema, kind: str, compression: str
    ) -> None:
        self._final = out / name
        self._temporary = out / "_tmp" / name
        self.name = name
        self.rows = 0
        with writing(self._temporary):
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open_new(self._temporary)
            self._inode = os.fstat(self._stream.fileno()).st_ino
            self._hashing = HashingFile(self._stream)
            try:
                _check_columns(self._temporary, schema, kind, compression)
                self._writer = _writer(self._hashing, schema, kind, compression)
            except BaseException:
                self.abandon()
                raise

    def write(self, columns: pa.RecordBatch) -> None:
        """Append a window.

        Raises:
            OutputError: The disk is full, or the folder is gone.
        """
        if columns.num_rows:
            with writing(self._temporary):
                self._writer.write_batch(columns)
            self.rows += columns.num_rows

    def append(self, content: bytes) -> None:
        """Append bytes as they are.

        Raises:
            OutputError: The disk is full, or the folder is gone.
        """
        with writing(self._temporary):
            self._hashing.write(content)

    def finish(self, check: Callable[[], None] = lambda: None) -> OutputFile:
        """Put the file on the disk and give it its final name, unless `check` raises: it is called
        once the bytes are on the disk, which may take long."""
        with writing(self._final):
            self._writer.close()
            self._stream.flush()
            sync(self._stream.fileno())
            self._stream.close()
            check()
            make_folder(self._final.parent)
            self._temporary.replace(self._final)
            sync_folder(self._final.parent)
            modified = self._final.stat().st_mtime_ns
        digest = self._hashing.digest.hexdigest()
        return OutputFile(self.name, self._hashing.bytes, digest, modified)

    def abandon(self) -> None:
        """Drop what has been written, but for a file of that name that is another run's by now."""
        self._hashing.dropped = True
        own = self._inode
        with suppress(OSError):  # a full disk refuses the last bytes, which nobody needs
            self._stream.close()
        with writing(self._temporary), suppress(FileNotFoundError):
            if self._temporary.lstat().st_ino == own:
                self._temporary.unlink()


@contextmanager
def whole_file(
    path: Path, folder: Path, check: Callable[[], None] = lambda: None
) -> Iterator[HashingFile]:
    """A file that gets its name once the body has written all of it.

    Args:
        path: Its name.
        folder: Where it grows, on the same disk.
        check: Called before the file gets its name, which it does not where this raises.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = folder / "_tmp" / path.name
    with writing(path):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_new(temporary) as stream:
                yield (sink := HashingFile(stream))
                stream.flush()
                sync(stream.fileno())
            check()
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            sink.dropped = True
            temporary.unlink(missing_ok=True)
            with suppress(OSError):
                temporary.parent.rmdir()


class RejectsWriter:
    """Writes bad rows as JSON lines, without the columns that are null in them."""

    def __init__(self, sink: HashingFile) -> None:
        self._sink = sink

    def write_batch(self, columns: pa.RecordBatch) -> None:
        for row in columns.to_pylist():
            present = {name: value for name, value in row.items() if value is not None}
            self._sink.write(json.dumps(present, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self._sink.close()


def _writer(sink: HashingFile, schema: pa.Schema, kind: str, compression: str) -> Any:
    if kind == "rejects":
        return RejectsWriter(sink)
    return part_writer(kind, sink, schema, compression)


def _check_columns(path: Path, schema: pa.Schema, kind: str, compression: str) -> None:
    """Raise OutputError for a column that a format of parts cannot hold, by its name."""
    for field in schema if kind != "rejects" else ():
        try:
            with pa.BufferOutputStream() as sink:
                part_writer(kind, sink, pa.schema([field]), compression).close()
        except pa.ArrowException as error:
            raise OutputError(
                f"{path}: column {field.name!r} cannot be written as {kind}: {reason_of(error)}",
                f"leave {field.name!r} out of --keep, or choose another --format",
            ) from without_quotes(error)


def part_name(ordinal: int, split: str, kind: str) -> str:
    """File name of a split's part."""
    return f"part-{ordinal:05d}-{split}{FORMATS[kind]}"


def rejects_name(part: str) -> str:
    """Path below the output folder of a part's bad rows."""
    return f"{REJECTS}/{Path(part).stem}.jsonl"


def rejects_writer(out: Path, part: str) -> FileWriter:
    return FileWriter(out, rejects_name(part), REJECTS_SCHEMA, "rejects", "none")


def copy_rejects(
    file: Path, out: Path, part: str, check: Callable[[], None] = lambda: None
) -> OutputFile:
    """Copy a file of bad rows to where those of a part of another output lie; `check` as in
    `FileWriter.finish`.

    Raises:
        OutputError: It cannot be read or written.
    """
    writer = rejects_writer(out, part)
    try:
        with writing(file), file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                writer.append(block)
    except BaseException:
        writer.abandon()
        raise
    return writer.finish(check)


def rejects_columns(rejects: Rejects) -> pa.RecordBatch:
    """Bad rows as columns of `REJECTS_SCHEMA`; null where nothing is known."""
    count = len(rejects.rows)
    details = (
        pa.array([text or None for text in texts] or [None] * count, pa.string())
        for texts in (rejects.columns, rejects.expected, rejects.found, rejects.texts)
    )
    codes, messages = (pa.array(texts, pa.string()) for texts in (rejects.codes, rejects.messages))
    columns = [pa.array(rejects.rows), codes, messages, *details]
    return pa.RecordBatch.from_arrays(columns, schema=REJECTS_SCHEMA)


def read_rejects(file: Path) -> Iterator[dict[str, Any]]:
    """The bad rows of a part, in the columns of `REJECTS_SCHEMA`; those without a value are left
    out.

    Raises:
        OutputError: The file is missing or damaged.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{file}: cannot be read", "engine verify says what else is damaged"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, with their names on the disk: what is synced in a folder
    whose own name is lost in a power cut is lost, too.

    Raises:
        OSError: One of them cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def write_text(path: Path, text: str, check: Callable[[], None] = lambda: None) -> None:
    """Write a small file, complete or not at all.

    Args:
        path: The file.
        text: Its content.
        check: Called before the file gets its name, which it does not where this raises.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        make_folder(path.parent)
        with open_new(temporary) as stream:
            inode = os.fstat(stream.fileno()).st_ino
            try:
                stream.write(text.encode())
                stream.flush()
                sync(stream.fileno())
                stream.close()  # Windows renames nothing that is open
                check()
                temporary.replace(path)
            except BaseException:
                _drop(temporary, inode)
                raise
        sync_folder(path.parent)


def _drop(file: Path, inode: int) -> None:
    """Remove a file that was not finished, unless the name is another's by now."""
    with suppress(OSError):
        if file.lstat().st_ino == inode:
            file.unlink()
