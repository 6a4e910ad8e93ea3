"""An output in an object store, to be looked at: its records are fetched into a temporary folder
as those of any other output, and a part or a file of bad rows when it is asked for."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from engine import data
from engine.data import REJECTS, StoredFolder, store_access
from engine.errors import OutputError
from engine.runner.manifest import FOLDER, PART, SUCCESS, Manifest
from engine.runner.records import STARTS
from engine.runner.single_file import is_file
from engine.runner.stored_records import StoredRun, is_whole, read_run, record_name

if TYPE_CHECKING:
    import pyarrow.dataset

_LOCAL = 2
"""Files of parts and bad rows that are here at the same time."""


class Fetcher:
    """Fetches files of one output, and lets earlier ones go.

    Args:
        folder: The output.
        stored: Its listing.
        local: The temporary folder.
    """

    def __init__(self, folder: StoredFolder, stored: StoredRun, local: Path) -> None:
        self._folder, self._stored, self._local = folder, stored, local
        self._here: deque[str] = deque()

    def fetch(self, name: str) -> None:
        """Bring a file, unless it is here or nowhere."""
        if name in self._here or name not in self._stored.files:
            return
        while len(self._here) >= _LOCAL:
            old = self._here.popleft()
            data.placeholder(self._local / old, self._stored.files[old].size)
        self._folder.fetch(name, self._local / name)
        self._here.append(name)


def mirror(url: str) -> Manifest:
    """The records of an output, with holes of their size for all parts and bad rows that are there.
    The temporary folder goes with the last use of the manifest.

    Raises:
        OutputError: The store cannot be read, or the URL is of one file, which has no records.
    """
    if is_file(url):
        raise OutputError(
            f"{url}: one file, which has no records in a store",
            "copy it, and read it as any other file; or name the folder of a run",
        )
    store_access.check_output(url)
    folder = StoredFolder(url)
    stored = read_run(folder)
    local = Path(tempfile.mkdtemp(prefix="engine-records-"))
    manifest = Manifest(local, Fetcher(folder, stored, local).fetch)
    weakref.finalize(manifest, shutil.rmtree, local, ignore_errors=True)
    _write_records(folder, stored, local)
    return manifest


def _write_records(folder: StoredFolder, stored: StoredRun, local: Path) -> None:
    for name, file in stored.files.items():
        where, _, last = name.rpartition("/")
        is_part = where in ("", REJECTS) and PART.fullmatch(last)
        if is_part or where == f"{FOLDER}/{STARTS}":
            data.placeholder(local / name, file.size)
    if stored.run:
        (local / FOLDER).mkdir(exist_ok=True)
        (local / FOLDER / "run.json").write_text(stored.run_text, encoding="utf-8")
    for part, record in stored.records.items():
        (local / record_name(part)).write_text(record.text, encoding="utf-8")
        if is_whole(record, stored.files):  # as it was written, and so is its date
            for output in record.entry.files:
                data.placeholder(local / output.file, output.bytes, output.modified)
    if SUCCESS in stored.files:
        folder.fetch(SUCCESS, local / SUCCESS)


def open_parts(url: str, manifest: Manifest, names: list[str]) -> pyarrow.dataset.Dataset:
    """The answers of a finished run as a dataset that reads the store: its parts in input order.

    Args:
        url: Of the output.
        manifest: From `mirror`.
        names: Of its parts.
    """
    from engine.data.stored_file_system import file_system

    folder = StoredFolder(url)
    entry = manifest.entry(names[0]) if names else None
    kind = data.format_of(names[0]) if names else "arrow"
    files = [Path(name) for name in names]
    schema = entry.table_schema if entry else None
    return data.dataset(files, kind, schema, file_system(folder, folder.files()))
