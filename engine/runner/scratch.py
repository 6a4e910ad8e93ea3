"""Where a run to an object store works: a local folder that is like any other output.

    SCRATCH/<digest of the URL>/
        .lock             locked while a run works here
        owner             the lock that this machine has in the store
        placeholders      parts below `out` that are holes, a name a line as JSON
        out/              the output folder, with the parts that are not published yet

A part that is in the store is a *placeholder* here: a hole of the same size, so that records and
sizes are compared as in any other folder, and the disk holds the parts in hand only. Placeholders
are made anew at each start from what the store has.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.core import cache_folder, json_text
from engine.data import placeholder, rejects_name, writing
from engine.runner.folder_lock import locked
from engine.runner.manifest import FOLDER, Manifest
from engine.runner.records import Entry
from engine.runner.stored_records import StoredRecord, record_name


class Scratch:
    """The folder of one output.

    Args:
        folder: Its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.owner = folder / "owner"
        self._placeholders = folder / "placeholders"

    @contextmanager
    def held(self, url: str) -> Iterator[None]:
        """Lock the folder against other runs of this machine while the body runs.

        Raises:
            OutputError: Another run is writing to this URL.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(Path(url), self.folder):
            yield

    def replace(self, entry: Entry) -> None:
        """Make the files of a part placeholders: they are in the store."""
        with writing(self.out):
            self._remember([entry.part.file])
            for output in entry.files:
                placeholder(self.out / output.file, output.bytes, output.modified)

    def drop_placeholders(self) -> None:
        """Remove all placeholders and the records of their parts."""
        if not self._placeholders.is_file():
            return
        records = self.out / FOLDER
        with writing(self.folder):
            for part in map(
                json_text.parse, self._placeholders.read_text(encoding="utf-8").split()
            ):
                (records / f"{Path(part).stem}.json").unlink(missing_ok=True)
                (self.out / part).unlink(missing_ok=True)
                (self.out / rejects_name(part)).unlink(missing_ok=True)
            self._placeholders.unlink()

    def mirror(self, records: Sequence[StoredRecord]) -> None:
        """Make the parts that are in the store placeholders, and write their records."""
        with writing(self.out):
            (self.out / FOLDER).mkdir(parents=True, exist_ok=True)
            self._remember([record.entry.part.file for record in records])
            for record in records:
                for output in record.entry.files:
                    placeholder(self.out / output.file, output.bytes, output.modified)
                name = record_name(record.entry.part.file)
                (self.out / name).write_text(record.text, encoding="utf-8")

    def clear(self) -> None:
        """Remove the output folder."""
        shutil.rmtree(self.out, ignore_errors=True)
        self._placeholders.unlink(missing_ok=True)

    def clear_empty(self) -> None:
        """Remove the output folder where it has nothing that a later start would go on from."""
        self.drop_placeholders()
        if not Manifest(self.out).has_answers():
            self.clear()

    def _remember(self, parts: list[str]) -> None:
        """Write names down before their files become holes."""
        with self._placeholders.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(part) + "\n" for part in parts)


def scratch_of(url: str, folder: str = "") -> Scratch:
    """The scratch of a URL, in a folder or else in the user's cache."""
    name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    scratch = Path(folder).expanduser() if folder else cache_folder.folder() / "scratch"
    return Scratch(scratch / name)
