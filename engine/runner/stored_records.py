"""The records of an output in an object store, and its keys, as one listing and their content tell.

A stored record is the local one and `e_tags`: the versions of its files as they were put. A part
has finished where the listing still has these.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.data import REJECTS, StoredFile, StoredFolder
from engine.errors import OtherRunError
from engine.runner import journal
from engine.runner.manifest import FOLDER, PART
from engine.runner.records import Entry
from engine.runner.store_lock import CLOCK
from engine.runner.threads import ThreadGroup

RUN = f"{FOLDER}/run.json"
E_TAGS = "e_tags"
_READERS = 16
_RECORD = re.compile(rf"{FOLDER}/part-\d{{5,}}-.+\.json")


@dataclass(frozen=True)
class StoredRecord:
    """The record of a part in a store: as text without `e_tags`, and these by file."""

    entry: Entry
    text: str
    e_tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredRun:
    """An output in a store.

    Attributes:
        files: All its keys.
        run: The content of run.json, or None; run_text: the same as text.
        records: Of all parts, by the part's name.
    """

    files: dict[str, StoredFile]
    run: dict[str, Any] | None
    run_text: str
    records: dict[str, StoredRecord]

    @property
    def whole(self) -> dict[str, StoredRecord]:
        """Records of the parts that are there as they were put."""
        return {n: record for n, record in self.records.items() if is_whole(record, self.files)}


def read_run(folder: StoredFolder) -> StoredRun:
    """List an output and read its records, several at a time."""
    files = folder.files()
    content = _content(folder, RUN) if RUN in files else b""
    run = _json(content)
    names = sorted(filter(_RECORD.fullmatch, files))
    records = [r for content in _contents(folder, names) if (r := _record(content))]
    by_part = {record.entry.part.file: record for record in records}
    return StoredRun(files, run, content.decode() if run else "", by_part)


def is_whole(record: StoredRecord, files: Mapping[str, StoredFile]) -> bool:
    """Whether a listing has the files of a record as they were put."""
    return all(
        (there := files.get(output.file)) is not None
        and there.size == output.bytes
        and there.version.tag == record.e_tags.get(output.file)
        for output in record.entry.files
    )


def with_intact_parts(folder: StoredFolder, stored: StoredRun) -> StoredRun:
    """The output without the records of parts whose bytes are not those that were put; all of them
    are read."""
    records = {
        name: record
        for name, record in stored.whole.items()
        if all(_sha256(folder, output.file) == output.sha256 for output in record.entry.files)
    }
    return replace(stored, records=records)


def _sha256(folder: StoredFolder, name: str) -> str:
    digest = hashlib.sha256()
    for block in folder.blocks(name):
        digest.update(block)
    return digest.hexdigest()


def check_ours(folder: StoredFolder) -> None:
    """Raise OtherRunError where there are keys, and none of a run."""
    if folder.stat(RUN) is not None:
        return
    ours = (FOLDER, journal.FOLDER)
    if foreign := next((n for n in folder.names() if n.split("/")[0] not in ours), ""):
        raise OtherRunError(
            f"{folder.url}: not empty, and not a run's output (it holds {foreign!r})",
            "choose an empty or new folder with -o",
        )


def surplus(files: Mapping[str, StoredFile], entries: Sequence[Entry]) -> list[str]:
    """Keys of parts, bad rows and records, and of puts to see the clock, that no entry names;
    records first, so that none is left without its part."""
    named = {output.file for entry in entries for output in entry.files}
    named |= {record_name(entry.part.file) for entry in entries}
    return sorted(
        (name for name in files if name not in named and _is_of_a_run(name)),
        key=lambda name: (not name.startswith(f"{FOLDER}/part-"), name),
    )


def record_name(part: str) -> str:
    """The key of a part's record."""
    return f"{FOLDER}/{Path(part).stem}.json"


def stored_text(text: str, e_tags: Mapping[str, str]) -> str:
    """The text of a record as it is stored."""
    return (
        json.dumps({**json_text.parse(text), E_TAGS: dict(e_tags)}, indent=2, sort_keys=True) + "\n"
    )


def _is_of_a_run(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    if folder == FOLDER:
        return bool(_RECORD.fullmatch(name)) or name.startswith(CLOCK)
    return folder in ("", REJECTS) and bool(PART.fullmatch(last))


def _contents(folder: StoredFolder, names: Sequence[str]) -> Iterator[bytes]:
    threads = ThreadGroup()
    try:
        yield from threads.map(lambda name: _content(folder, name), names, _READERS, 2 * _READERS)
    finally:
        threads.close()


def _content(folder: StoredFolder, name: str) -> bytes:
    there = folder.read(name)
    return there[0] if there else b""


def _json(content: bytes) -> dict[str, Any] | None:
    try:
        fields = json_text.parse(content)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _record(content: bytes) -> StoredRecord | None:
    """A record that can be read, or None."""
    fields = _json(content)
    try:
        if fields is None:
            return None
        e_tags = {str(name): str(tag) for name, tag in fields.pop(E_TAGS).items()}
        entry = Entry.of(fields)
    except (TypeError, KeyError, AttributeError):
        return None
    if not entry.is_ours:
        return None
    return StoredRecord(entry, json.dumps(fields, indent=2, sort_keys=True) + "\n", e_tags)
