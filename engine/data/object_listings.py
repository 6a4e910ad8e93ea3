"""URLs to the objects of a corpus: one, those below a folder, or those that a pattern matches.

It is read what would be read of a local copy, under the same names and in the same order. A listing
comes in pages; of what is not read only numbers are kept.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.core.types import InputPath
from engine.data import hub_datasets, stores
from engine.data.key_patterns import matches
from engine.data.kinds import kind_as, kind_of
from engine.data.object_files import ObjectPath, persistent, waited
from engine.data.stores import StoreUrl, open_store, talking
from engine.errors import EngineError, InputError

Why = Callable[[ObjectPath, str], str]
"""An object and the input format -> why it is not read by its name, or ""."""
_NO_FORMAT = "name its format with --input-format, such as --input-format jsonl"
_PAGE = 1000
_OUTPUT, _MARKER = "outputs of other runs", "empty objects that stand for folders"
_RUN, _SUCCESS = "_manifest", "_SUCCESS"
_DELTA, _ICEBERG = "_delta_log", re.compile(r"(?:^|/)metadata/[^/]+\.metadata\.json$")


@dataclass(frozen=True)
class StoredFile:
    """An object that is read: its kind, and how many parts of its name lie below the input."""

    kind: str
    depth: int


@dataclass
class Objects:
    """What URLs name: the objects to read, in order, and how many are not, by why."""

    files: dict[ObjectPath, StoredFile] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)


def find_objects(
    urls: Sequence[str], input_format: str, why: Why, *, by_content: bool = False
) -> Objects:
    """The objects that URLs name, each once, in the order of a local copy.

    Raises:
        SettingsError: A URL is malformed or of no known store.
        MissingDependency: The extra is not installed.
        InputError: One is missing, cannot be listed, or names nothing that is read.
    """
    objects, by_address = Objects(), dict[str, StoreUrl]()
    for text in urls:
        for path, file in _matches(stores.parse(text), input_format, why, objects.unread):
            before = by_address.setdefault(str(path), path.url)
            if before != path.url:
                raise InputError(
                    f"{path}: is named twice, and only what is behind the ? differs",
                    "run the two apart",
                )
            objects.files.setdefault(replace(path, by_content=by_content), file)
    return objects


def find_input(text: str) -> InputPath | None:
    """The file or the object of an input's record; None where it is not there, or not open without
    what its URL had of secrets."""
    if not stores.is_url(text):
        return path if (path := Path(text)).is_file() else None
    try:
        return _one(stores.parse(text))
    except EngineError:
        return None


def _matches(
    url: StoreUrl, input_format: str, why: Why, unread: Counter[str]
) -> Iterator[tuple[ObjectPath, StoredFile]]:
    if url.is_hub:
        url = waited(lambda: hub_datasets.pinned(url))
    one = _one(url) if url.key and not url.key.endswith("/") else None
    if one:
        if kind_of(one) is None and not input_format:
            raise InputError(f"{one}: unknown ending", _NO_FORMAT)
        yield one, StoredFile(_kind(one, input_format, is_named=True), 1)
        return
    if url.is_web:
        raise InputError(f"{url}: a web server lists no files", "name each file")
    pattern = url.key if glob.has_magic(url.key) else ""
    parts = url.key.strip("/").split("/")
    depth = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    folder = StoreUrl(url.root, "/".join(parts[:depth]), url.user, url.query)
    yield from _below(url, folder, pattern, input_format, why, unread)


def _below(
    url: StoreUrl, folder: StoreUrl, pattern: str, input_format: str, why: Why, unread: Counter[str]
) -> Iterator[tuple[ObjectPath, StoredFile]]:
    listing = _Listing(folder, pattern)
    listing.collect()
    listing.check_finished()
    base = len(ObjectPath(folder, 0).parts) if folder.key else 1
    files: list[tuple[ObjectPath, StoredFile]] = []
    paths, reasons = listing.read(), listing.unread
    for path in paths:
        if reason := why(path, input_format):
            reasons[reason] += 1
            continue
        kind = _kind(path, input_format, is_named=False)
        files.append((path, StoredFile(kind, len(path.parts) - base)))
    texts = [file for file in files if file[1].kind.split(".")[0] == "txt"]
    if len(texts) < len(files):  # plain text beside other kinds is about them
        reasons.update(path.suffix.lower() for path, _ in texts)
        files = [file for file in files if file not in texts]
    unread.update(reasons)
    if not files:
        what = "no object matches" if pattern else "no such object, and none to read below it"
        listed = ", ".join(f"{count:,} {name}" for name, count in reasons.most_common(4))
        hint = f"it has {listed}" if listed else "check the name"
        raise InputError(f"{url}: {what}", hint)
    yield from files


def _kind(path: ObjectPath, input_format: str, *, is_named: bool) -> str:
    by_ending = kind_of(path)
    return (
        by_ending if by_ending and not (is_named and input_format) else kind_as(path, input_format)
    )


def _one(url: StoreUrl) -> ObjectPath | None:
    """The object of this very name; None where there is none, and names below it may be."""
    if url.is_hub:
        files = waited(lambda: [one for one in _hub_files(url) if one[0] == url.key])
        return ObjectPath(url, files[0][1], files[0][2]) if files else None
    store = open_store(url)
    try:
        with talking(url):
            # Of a web server the first byte is asked for: an address may be signed for that alone.
            meta = waited(lambda: _meta(store, url))
    except InputError:
        if url.is_web or not waited(lambda: _is_missing(store, url)):
            raise
        return None
    return _path_of(url, meta)


def _meta(store: Any, url: StoreUrl) -> Any:
    return store.get(url.key, options={"range": (0, 1)}).meta if url.is_web else store.head(url.key)


def _is_missing(store: Any, url: StoreUrl) -> bool:
    """Whether there is a store, and no object of this name in it."""
    try:
        store.head(url.key)
    except (FileNotFoundError, ValueError):
        return True
    except Exception:
        return False
    return False


def _hub_files(url: StoreUrl) -> list[tuple[str, int, str]]:
    try:
        return list(hub_datasets.listed(url))
    except InputError:
        return []


def _path_of(url: StoreUrl, meta: Any) -> ObjectPath:
    modified = meta["last_modified"]
    return ObjectPath(
        url,
        int(meta["size"]),
        meta["e_tag"] or "",
        int(modified.timestamp() * 1e9) if modified else 0,
    )


def _pages(folder: StoreUrl) -> Iterator[Sequence[Any]]:
    """What lies below a folder, a page at a time. Where a connection breaks, the listing begins
    anew behind the last page."""
    last, pages = "", None

    def next_page() -> Sequence[Any]:
        nonlocal pages
        with talking(folder, "listed"):
            try:
                if pages is None:
                    store = open_store(folder)
                    pages = store.list(folder.key or None, offset=last or None, chunk_size=_PAGE)
                return next(pages, ())
            except Exception:
                pages = None
                raise

    while page := waited(lambda: persistent(next_page)):
        yield [meta for meta in page if meta["path"] != last]
        last = page[-1]["path"]


class _Listing:
    """What lies below a folder of a store, and matches a pattern if there is one."""

    def __init__(self, folder: StoreUrl, pattern: str) -> None:
        self.folder, self.pattern = folder, pattern.rstrip("/").split("/") if pattern else []
        self.unread: Counter[str] = Counter()
        self._found: list[ObjectPath] = []
        self._folders: set[str] = set()  # of what is listed, as keys
        self._outputs: set[str] = set()
        self._finished: set[str] = set()

    def collect(self) -> None:
        for path in self._objects():
            above = path.url.key.split("/")[:-1]
            folders = ["/".join(above[:i]) for i in range(len(above) + 1)]
            self._folders.update(folders)
            self._note_special(path, above, folders)
            if self._is_visible(path.url.key):
                self._found.append(path)

    def _objects(self) -> Iterator[ObjectPath]:
        folder = self.folder
        if folder.is_hub:
            for key, size, e_tag in waited(lambda: list(hub_datasets.listed(folder))):
                yield ObjectPath(StoreUrl(folder.root, key), size, e_tag)
            return
        for page in _pages(folder):
            for meta in page:
                yield _path_of(StoreUrl(folder.root, meta["path"], folder.user, folder.query), meta)

    def _note_special(self, path: ObjectPath, above: list[str], folders: list[str]) -> None:
        if _DELTA in above or _ICEBERG.search(path.url.key):
            name = "a Delta table" if _DELTA in above else "an Iceberg table"
            raise InputError(
                f"{self.folder}: has {name}, whose files are not all of its rows",
                "copy the table to a local folder, and name that",
            )
        if _RUN in above:
            self._outputs.add(folders[above.index(_RUN)])
        if path.name == _SUCCESS:
            self._finished.add(folders[-1])

    def _is_visible(self, key: str) -> bool:
        """Whether a key matches, or lies below a folder that does, with no hidden name below it."""
        inner = (
            key[len(self.folder.key) :].strip("/").split("/") if self.folder.key else key.split("/")
        )
        if not self.pattern:
            return not any(part.startswith((".", "_")) for part in inner)
        parts = key.split("/")
        for i in range(1, len(parts) + 1):
            if matches(parts[:i], self.pattern):
                return not any(part.startswith((".", "_")) for part in parts[i:])
        return False

    def check_finished(self) -> None:
        """Raise InputError for the output of a run that has not finished."""
        if (key := self.folder.key) in self._outputs - self._finished:
            raise InputError(
                f"{StoreUrl(self.folder.root, key)}: the output of a run that has not finished",
                "run the command that writes it again first; or name its parts that are there",
            )

    def read(self) -> list[ObjectPath]:
        """What is read as far as places tell, sorted as paths are; what is not is counted."""
        closed = self._outputs - {self.folder.key}
        self.unread[_OUTPUT] += len(closed)
        kept = []
        for path in self._found:
            folders = path.url.key.split("/")[:-1]
            above = {"/".join(folders[:i]) for i in range(len(folders) + 1)}
            if above & closed or self._is_rejects(path):
                continue
            if (not path.size and path.url.key in {*self._folders, self.folder.key}) or (
                not path.size and kind_of(path) is None
            ):
                self.unread[_MARKER] += 1
            else:
                kept.append(path)
        self.unread += Counter()  # without zeros
        ranks = self._ranks()
        return sorted(kept, key=lambda path: (ranks.get(path.name, 0), path.parts))

    def _is_rejects(self, path: ObjectPath) -> bool:
        folder = self.folder.child("rejects").key
        return self.folder.key in self._outputs and path.url.key.startswith(f"{folder}/")

    def _ranks(self) -> dict[str, int]:
        """The places of a run's parts in the order of its inputs; none for another folder."""
        if self.folder.key not in self._outputs:
            return {}
        success = _one(self.folder.child(_SUCCESS))
        try:
            files = json_text.parse(success.open("rb").read())["files"] if success else []
            return {str(name): rank for rank, name in enumerate(files)}
        except (ValueError, KeyError, TypeError):
            return {}
