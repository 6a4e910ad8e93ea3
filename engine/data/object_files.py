"""Objects of a store as files: read by ranges, which are kept as far as they fit.

A reader takes an `ObjectPath` where it takes a path. What is read of an object is of one version,
that of the plan: every request names its e-tag, and the answer's is compared.
A read that goes on where another ended fetches ever more at a time, and the next range ahead.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import IO, Any, TypeVar

from engine.core.types import CorpusFile
from engine.data import hub_datasets, store_errors
from engine.data.page_cache import PAGE, PageCache
from engine.data.stores import StoreUrl, open_store, talking
from engine.errors import InputError

SMALL = 1 << 20
"""Bytes of an object that is fetched at once."""
LARGEST = 8 << 20
"""Bytes of one request at most."""
KEPT = 1 << 30
"""Bytes of downloads that are kept in the folder of temporary files (TMPDIR)."""
_TRIES = 6
_PAUSE = 0.2
"""Seconds before the second try; each further pause is twice as long."""
_cache = PageCache(KEPT)
Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectPath:
    """An object of a store, as it was when it was found.

    Attributes:
        url: Its address.
        size: Bytes.
        e_tag: What changes with its bytes, as the store has it; "" where it gives none.
        modified_ns: When it was last changed, in nanoseconds; 0 where that is not known.
        by_content: Whether a later run compares its bytes rather than its e-tag.
    """

    url: StoreUrl
    size: int
    e_tag: str = ""
    modified_ns: int = 0
    by_content: bool = False

    @property
    def name(self) -> str:
        return self.url.key.rstrip("/").rpartition("/")[2]

    @property
    def parts(self) -> tuple[str, ...]:
        """The store, and the folders and the name of its key."""
        return (self.url.root, *self.url.key.split("/"))

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return str(self.url)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its bytes; only what is read of them is fetched."""
        assert mode == "rb"
        return io.BufferedReader(_ObjectReader(self), PAGE)

    def stat(self) -> Any:
        """Size and date as those of a file; nothing is sent."""
        return SimpleNamespace(st_size=self.size, st_mtime_ns=self.modified_ns)

    def identity(self) -> str:
        """What stands for its bytes where they are not read: another one has other bytes. "" where
        they have to be read."""
        if self.by_content or not (self.e_tag or self.modified_ns):
            return ""
        date = "" if self.e_tag and not self.e_tag.startswith("W/") else str(self.modified_ns)
        return f"{self.e_tag} {self.size} {date}"


def is_stored(file: CorpusFile) -> bool:
    """Whether a file of a corpus is an object of a store."""
    return isinstance(file.place, ObjectPath)


def fetch(path: ObjectPath, start: int, stop: int) -> memoryview:
    """A range of an object's bytes. A connection that breaks is tried again.

    Raises:
        InputError: It is gone, has changed or cannot be read.
    """
    return persistent(lambda: _fetch(path, start, stop))


def persistent(call: Callable[[], Result]) -> Result:
    """What a call returns, which is made again where a connection broke on the way."""
    attempt = 0
    while True:
        try:
            return call()
        except InputError as error:
            attempt += 1
            if attempt == _TRIES or not store_errors.is_passing(error):
                raise
            time.sleep(_PAUSE * 2 ** (attempt - 1))


def _fetch(path: ObjectPath, start: int, stop: int) -> memoryview:
    with talking(path.url):
        if path.url.is_hub:
            content, e_tag = hub_datasets.fetch(path.url, start, stop), path.e_tag
        else:
            options: dict[str, Any] = {"range": (start, stop)}
            if path.e_tag and not path.e_tag.startswith("W/"):
                options["if_match"] = path.e_tag
            answer = open_store(path.url).get(path.url.key, options=options)
            e_tag = answer.meta["e_tag"] or ""
            content = memoryview(answer.bytes())
            if answer.meta["size"] != path.size:
                e_tag = ""
    if e_tag != path.e_tag or len(content) != stop - start:
        raise InputError(
            f"{path}: cannot be read: {store_errors.CHANGED}", "run again when nothing writes it"
        )
    return memoryview(content)


def waited(call: Callable[[], Any]) -> Any:
    """What a call returns, made in a thread that holds no exit and lets signals through."""
    return _started(call).result()


def _started(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="download", daemon=True).start()
    return future


class _ObjectReader(io.RawIOBase):
    """An object's bytes from any position on."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._at = path, 0
        self._run: tuple[int, memoryview] = (0, memoryview(b""))  # the last range fetched
        self._coming: dict[int, Future[memoryview]] = {}  # ranges ahead by their start
        self._sizes: dict[int, int] = {}  # of the range that ends before a byte

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._path.size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._path.size:
            return 0
        content = self._bytes_at(self._at)[: len(buffer)]
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _bytes_at(self, at: int) -> memoryview:
        """Some bytes from a position on."""
        start, content = self._run
        if start <= at < start + len(content):
            return content[at - start :]
        page = at - at % PAGE
        if (kept := _cache.find((self._path, page))) is not None:
            self._note(page, page + PAGE, self._sizes.get(page, PAGE))
            return memoryview(kept)[at - page :]
        content = self._fetched(page)
        self._run = page, content
        return content[at - page :]

    def _fetched(self, start: int) -> memoryview:
        """The range from a page on, which is fetched, and the one after it where reads go on."""
        size = self._sizes.get(start, 0)
        coming = self._coming.pop(start, None) or self._ask(start, size)
        content = coming.result()
        stop = start + len(content)
        self._note(start, stop, len(content))
        if size and stop < self._path.size and stop not in self._coming:
            self._coming = dict([*self._coming.items()][-3:])  # of those that nobody came for
            self._coming[stop] = self._ask(stop, len(content))
        return content

    def _note(self, start: int, stop: int, size: int) -> None:
        self._sizes[stop] = max(size, self._sizes.pop(start, 0))

    def _ask(self, start: int, before: int) -> Future[memoryview]:
        """A range from a page on, twice as long as the one before it, to the next kept page."""
        whole = self._path.size
        size = whole if whole <= SMALL else min(LARGEST, max(PAGE, 2 * before))
        stop = min(whole, start + size)
        pages = range(start + PAGE, stop, PAGE)
        stop = next((page for page in pages if (self._path, page) in _cache), stop)

        def fetch_and_keep() -> memoryview:
            content = fetch(self._path, start, stop)
            for page in range(start, stop, PAGE):
                _cache.keep((self._path, page), content[page - start : page - start + PAGE])
            return content

        return _started(fetch_and_keep)
