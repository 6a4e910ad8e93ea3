"""A folder in an object store: its keys listed, read, and written on a condition.

Every write says what it expects under its name: nothing, or the version that was seen there. So two
writers never overwrite each other unseen, and a key is there whole or not at all. A file is put at
once, from the disk and without a copy in memory, which leaves no upload behind wherever it stops;
only what no store takes at once goes in pieces, and these puts have no condition.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.data import store_access, stores
from engine.errors import EngineError

LARGEST_PUT = 4 << 30
"""Bytes of a file that is put at once; S3 takes 5 GiB."""
_PIECE = 64 << 20
_READ = 8 << 20
_SLOWEST = 256 << 10
"""Bytes a second below which a put is given up."""
_PATIENCE = 30


@dataclass(frozen=True, slots=True)
class Version:
    """What a store calls one state of a key; it expects one of these or both."""

    e_tag: str
    version: str = ""

    @property
    def tag(self) -> str:
        """The e-tag, to compare: Azure's listing has it without the quotes that its puts answer."""
        return self.e_tag.removeprefix("W/").strip('"')


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A key as a listing has it: size in bytes, version, and when it was written by the store's
    clock."""

    size: int
    version: Version
    modified: datetime


class KeyChangedError(Exception):
    """There is something else under a name than was expected; never seen by a person."""


class StoredFolder:
    """The keys below a URL such as s3://bucket/out.

    Methods raise OutputError where the store cannot be reached or refuses.

    Args:
        url: Without credentials.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store = store_access.open_folder(self.url)

    def files(self, below: str = "") -> dict[str, StoredFile]:
        """All keys by their path below the folder, from one listing in pages."""
        with self._translated(below, missing=True):
            pages = self._store.list(below or None, chunk_size=1000)
            return {meta["path"]: _stored(meta) for page in pages for meta in page}

    def names(self) -> Iterator[str]:
        """All keys by their path below the folder, page by page."""
        with self._translated("", missing=True):
            for page in self._store.list(chunk_size=1000):
                yield from (meta["path"] for meta in page)

    def stat(self, name: str) -> StoredFile | None:
        """A key as it is now, or None."""
        try:
            with self._translated(name):
                return _stored(self._store.head(name))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """The content of a small key, and which version that is; None where there is none."""
        try:
            with self._translated(name):
                result = self._store.get(name)
                return bytes(result.bytes()), _stored(result.meta).version
        except FileNotFoundError:
            return None

    def blocks(self, name: str) -> Iterator[memoryview]:
        """The content of a key, block by block.

        Raises:
            OutputError: It is not there.
        """
        with self._translated(name, missing=True):
            for block in self._store.get(name).stream(min_chunk_size=_READ):
                yield memoryview(block)

    def range(self, name: str, start: int, length: int) -> bytes:
        """Some bytes of a key."""
        with self._translated(name, missing=True):
            return bytes(self._store.get_range(name, start=start, length=length))

    def fetch(self, name: str, file: Path) -> None:
        """Write the content of a key to a file."""
        with file.open("wb") as stream:
            for block in self.blocks(name):
                stream.write(block)

    def put(self, name: str, content: Any, expected: Version | None, *, size: int = 0) -> Version:
        """Write a key, complete or not at all.

        Args:
            name: Its path below the folder.
            content: Bytes or a buffer.
            expected: The version that it has, or None where it is not there.
            size: Of the content, where it takes long to travel.

        Raises:
            KeyChangedError: There is something else under the name.
        """
        store = self._store if size < _READ else self._patient(size)
        mode: Any = "create" if expected is None else self._condition(name, expected)
        try:
            with self._translated(name, missing=True):
                return _version(store.put(name, content, mode=mode, use_multipart=False))
        except KeyChangedError:
            # The answer to an earlier try of this very put may have been lost.
            if version := self._version_of(name, content):
                return version
            raise

    def put_file(self, name: str, file: Path, expected: Version | None) -> Version:
        """Write a key from a file, as `put`; without a condition where it is larger than
        `LARGEST_PUT`."""
        size = file.stat().st_size
        if size > LARGEST_PUT:
            return self._put_pieces(name, file)
        if not size:
            return self.put(name, b"", expected)
        with file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            return self.put(name, mapped, expected, size=size)

    def copy(self, old: str, new: str) -> Version:
        """Have the store copy a key; what is under the new name is replaced."""
        with self._translated(new, missing=True):
            self._store.copy(old, new)
            return _stored(self._store.head(new)).version

    def remove(self, names: Sequence[str]) -> None:
        """Remove keys, those that are not there too."""
        for start in range(0, len(names), 1000):
            try:
                with self._translated(names[start]):
                    self._store.delete(list(names[start : start + 1000]))
            except FileNotFoundError:
                for name in names[start : start + 1000]:
                    self._remove_one(name)

    def _remove_one(self, name: str) -> None:
        try:
            with self._translated(name):
                self._store.delete(name)
        except FileNotFoundError:
            return

    def _patient(self, size: int) -> Any:
        """The store for a request with many bytes."""
        return store_access.open_folder(self.url, patience=_PATIENCE + size // _SLOWEST)

    def _put_pieces(self, name: str, file: Path) -> Version:
        """Leaves no key and no upload where it fails; where the process is killed an upload is
        left, which `engine gc` removes."""
        with self._translated(name), file.open("rb") as stream:
            store = self._patient(_PIECE)
            with store_access.open_writer(store, name, _PIECE) as writer:
                while block := stream.read(_PIECE):
                    writer.write(block)
            return _stored(store.head(name)).version

    def _condition(self, name: str, expected: Version) -> dict[str, str]:
        """What `put` compares. Only of S3 a listing has it as it must be: Google's has no
        generation, and Azure's e-tags have no quotes."""
        if not self.url.startswith("s3"):
            now = self.stat(name)
            if now is None or now.version.tag != expected.tag:
                raise KeyChangedError(name)
            expected = now.version
        named = {"e_tag": expected.e_tag, "version": expected.version}
        return {key: value for key, value in named.items() if value}

    def _version_of(self, name: str, content: Any) -> Version | None:
        """The version of a key, if it has this very content."""
        wanted, there = memoryview(content).cast("B"), self.stat(name)
        if there is None or there.size != wanted.nbytes:
            return None
        start = 0
        for block in self.blocks(name):
            if wanted[start : start + block.nbytes] != block:
                return None
            start += block.nbytes
        return there.version

    @contextmanager
    def _translated(self, name: str, *, missing: bool = False) -> Iterator[None]:
        """Errors of the library as ours.

        Args:
            name: Of the key.
            missing: A key that is not there is an OutputError, and no FileNotFoundError.
        """
        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except EngineError:
            raise
        except FileNotFoundError as error:
            if not missing:
                raise
            raise store_access.output_error(where, error) from None
        except store_access.changed_errors():
            raise KeyChangedError(name) from None
        except Exception as error:
            if not stores.is_of_store(error):
                raise
            # Without its cause: a library's text has the whole address, secrets too.
            raise store_access.output_error(where, error) from None


def _stored(meta: Any) -> StoredFile:
    return StoredFile(int(meta["size"]), _version(meta), meta["last_modified"])


def _version(meta: Any) -> Version:
    return Version(meta["e_tag"] or "", meta["version"] or "")


def placeholder(file: Path, size: int, modified: int = 0) -> None:
    """Make a file, or what it holds, a hole of a size, which takes no space on the disk.

    Args:
        file: It may be there.
        size: In bytes.
        modified: The date that it gets, in nanoseconds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        os.ftruncate(stream.fileno(), size)
    os.utime(file, ns=(modified, modified))
