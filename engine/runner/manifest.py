"""The records of an output folder: which run it holds, and which of its splits have finished.

    OUT/_manifest/run.json               settings, bundle and fingerprint of the run, written first
    OUT/_manifest/part-00000-NAME.json   the commit record of a split, written after its part
    OUT/_manifest/rejects/               the bad rows of a split, where it has any
    OUT/_manifest/starts/                what each start did, for reports (see `starts`)
    OUT/.huggingface.yaml                tells `datasets` which files are the parts
    OUT/_tmp/part-00000-NAME.journal     what is computed of a split that is not finished
    OUT/_SUCCESS                         written last

A split has finished when its record has the fingerprint of this run, the sha256 of the split's
bytes as they are now and the number of rows that the limit leaves for it, and its files have the
sizes that the record gives.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.core.config import FORMATS
from engine.core.system_calls import sync_folder
from engine.data import PASSES, REJECTS, make_folder, rejects_name, write_text, writing
from engine.errors import OtherRunError, OutputError
from engine.runner import clearing, journal
from engine.runner.folder_lock import GATE, LOCK, SHARES, Hold, locked
from engine.runner.records import (
    FOLDER,
    PART,
    STARTS,
    SUCCESS,
    Entry,
    InputRecord,
    RunRecord,
    difference,
)

__all__ = ["DATASET", "FOLDER", "PART", "SUCCESS", "Manifest"]

DATASET = ".huggingface.yaml"


class Manifest:
    """The records of one output folder, which one run at a time may hold.

    Args:
        out: The folder.
        fetch: Brings a file of parts or bad rows below it, where it is elsewhere as yet.
        hold: The run's hold of the folder, in a process of its own.
    """

    def __init__(
        self,
        out: Path,
        fetch: Callable[[str], None] = lambda name: None,
        hold: Hold | None = None,
    ) -> None:
        self.out, self._fetch, self.hold = out, fetch, hold
        # Whether parts of earlier starts are hashed before they count as finished.
        self.check_parts = False
        # Parts whose files are no longer what their records say.
        self.damaged: list[str] = []
        # Parts that no record named, removed before the run succeeded.
        self.unrecorded: list[str] = []
        self.folder = out / FOLDER
        # Records of files that are no inputs under that name, by the hash of what they are of.
        self._others: dict[str, list[Entry]] = {}

    @contextmanager
    def held(self, *, guarded: bool = True) -> Iterator[None]:
        """Lock the folder against other runs while the body runs, unless it is not to be guarded.

        Raises:
            OutputError: Another run is writing here, or the folder cannot be written.
            OtherRunError: The folder is not empty and holds no run; nothing in it is changed.
        """
        clearing.refuse_links(self.out)
        with writing(self.out):
            made = [path for path in (self.folder, self.out) if not path.exists()]
            if made:
                self._refuse_foreign()
            make_folder(self.folder)
        with locked(self.out, self.folder, guarded=guarded) as hold, self.undone(made, hold):
            self.hold = hold
            try:
                yield
            except OutputError:
                hold.check()  # what could not be written was another's by then
                raise
            finally:
                self.hold = None

    def is_lost(self) -> bool:
        """Whether another run has taken the folder."""
        return self.hold is not None and self.hold.is_lost()

    def check_held(self) -> None:
        """Raise OutputError where another run has taken the folder: nothing may be changed."""
        if self.hold:
            self.hold.check()

    def write(self, file: Path, text: str) -> None:
        """Write a small file of the folder, complete or not at all.

        Raises:
            OutputError: It cannot be written, or the folder is no longer held.
        """
        self.check_held()
        write_text(file, text, self.check_held)

    @contextmanager
    def undone(self, made: Sequence[Path], hold: Hold) -> Iterator[None]:
        """Remove the folders made for a run where it fails before anything of it is kept."""
        try:
            yield
        except BaseException:
            with suppress(OSError, OutputError):  # it may be the disk that fails
                if made and not hold.is_lost():
                    self.undo(made)
            raise

    def undo(self, made: Sequence[Path]) -> None:
        """Remove folders made for a run, unless they have answers."""
        if not made or self.has_answers():
            return
        for folder in (self.out / journal.FOLDER, self.folder / SHARES, self.folder / STARTS):
            shutil.rmtree(folder, ignore_errors=True)
        records = (self.folder / name for name in ("run.json", LOCK, GATE, PASSES))
        for path in (self.out / DATASET, *records):
            path.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # somebody has put something there
                folder.rmdir()

    def begin(
        self,
        run: RunRecord,
        parts: set[str],
        *,
        overwrite: bool,
        is_input: Callable[[Entry], bool] = lambda entry: False,
    ) -> None:
        """Take the folder for a run, or continue the same run.

        Args:
            run: The run.
            parts: Names of its part files.
            overwrite: Remove what another run left.
            is_input: Whether what a record is of is an input under another name. Asked where no
                record is of an input by its name.

        Raises:
            OtherRunError: The folder holds other settings, other inputs or foreign files.
        """
        try:
            self._check(run, parts, is_input)
        except OtherRunError:
            if not overwrite and self.has_answers():
                raise
            self._clear()  # another run's folder without an answer in it may be taken
            self.write(self.folder / "run.json", _json(run))
        with writing(self.out):
            journal.drop_others(self.out, run["fingerprint"], parts)
            clearing.drop_half_written(self.out)
        if self.read_run() is None:
            self.write(self.folder / "run.json", _json(run))
        if parts:
            self.write(self.out / DATASET, _dataset(Path(min(parts)).suffix))

    def _check(self, run: RunRecord, parts: set[str], is_input: Callable[[Entry], bool]) -> None:
        surplus, self._others = self.compare(run, parts, is_input)
        for entry in surplus:
            self.forget(entry.part.file)

    def compare(
        self, run: RunRecord, parts: set[str], is_input: Callable[[Entry], bool]
    ) -> tuple[list[Entry], dict[str, list[Entry]]]:
        """What the folder has besides a run's own parts, if it holds that run; nothing is changed.

        Returns:
            Records of files that have fewer splits than before, and by the hash of what they are of
            those of files that are no inputs under that name.

        Raises:
            OtherRunError: As `begin`.
        """
        earlier = self.read_run()
        if earlier is None:
            self._refuse_foreign()
            return [], {}
        if earlier.get("fingerprint") != run["fingerprint"]:
            raise OtherRunError(
                f"{self.out}: holds a run with {difference(earlier, run)}",
                "use that run's settings, " + _CHOOSE,
            )
        names, entries = set(map(_split_name, parts)), self.entries()
        others = [e for e in entries if _split_name(e.part.file) not in names]
        if others and len(others) == len(entries) and not any(map(is_input, others)):
            raise OtherRunError(
                f"{self.out}: holds answers for {others[0].input.path}, and none for an input of "
                "this run",
                "name its inputs, " + _CHOOSE,
            )
        by_hash: dict[str, list[Entry]] = {}
        for entry in others:
            by_hash.setdefault(entry.input.sha256, []).append(entry)
        rest = (e for e in entries if _split_name(e.part.file) in names)
        return [entry for entry in rest if entry.part.file not in parts], by_hash

    def path(self, name: str) -> Path:
        """A file of a part or of bad rows, to be read."""
        self._fetch(name)
        return self.out / name

    def has_answers(self) -> bool:
        """Whether the folder has a part, or rows of one that is not finished."""
        return any(self.out.glob("part-*")) or journal.any_in(self.out)

    def check_free(self) -> None:
        """Refuse a folder that no run can take, before anything else is done for it.

        Raises:
            OtherRunError: It is not empty and holds no run.
            OutputError: It is a file, or lies in one, or may not be written.
        """
        place = next(path for path in (self.out, *self.out.absolute().parents) if path.exists())
        if not place.is_dir():
            raise OutputError(f"{place}: not a folder", "choose another folder with -o")
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(f"{place}: may not be written", "choose another folder with -o")
        clearing.refuse_links(self.out)
        if not self.folder.is_dir():
            self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        paths = sorted(self.out.iterdir()) if self.out.is_dir() else []
        foreign = [path.name for path in paths if path.name != FOLDER]
        if foreign and self.read_run() is None:  # else another share has just begun
            raise OtherRunError(
                f"{self.out}: not empty, and not a run's output (it holds {foreign[0]!r})",
                "choose an empty or new folder with -o",
            )

    def _clear(self) -> None:
        """Remove what runs write and nothing else, but for run.json."""
        if self.read_run() is None:
            raise OtherRunError(
                f"{self.out}: not empty, and not a run's output; nothing was removed",
                "choose an empty or new folder with -o",
            )
        self._others = {}
        self.check_held()
        clearing.clear(self.out, self.entries(), [_dataset(ending) for ending in FORMATS.values()])

    def read_run(self) -> dict[str, Any] | None:
        """The content of run.json, or None where it cannot be read."""
        return _read(self.folder / "run.json")

    def entry(self, part: str) -> Entry | None:
        """The commit record of a part, or None where none can be read."""
        content = _read(self.folder / f"{Path(part).stem}.json")
        try:
            entry = Entry.of(content) if content else None
        except (TypeError, KeyError):
            return None
        return entry if entry and entry.is_ours else None

    def entries(self) -> list[Entry]:
        """All records, by part name."""
        with writing(self.folder):
            names = sorted(p.stem for p in self.folder.glob("part-*.json"))
        return [e for e in map(self.entry, names) if e]

    def finished(self, part: str, fingerprint: str, input_record: InputRecord) -> Entry | None:
        """The record of a part that need not be computed again, or None.

        Args:
            part: Its file name.
            fingerprint: Of the run.
            input_record: What the split's `Entry.input` would be now.
        """
        entry = self.entry(part)
        if entry is not None and self.is_complete(entry, fingerprint, input_record):
            if entry.input != input_record:  # the corpus lies elsewhere now
                entry = dataclasses.replace(entry, input=input_record)
                self.commit(entry)
            return entry
        for other in self._others.get(input_record.sha256, ()):
            if self.is_complete(other, fingerprint, input_record):
                return self._adopt(other, part, input_record)
        if entry and entry.fingerprint == fingerprint and entry.input.equals(input_record):
            self.damaged.append(part)
        return None

    def is_complete(self, entry: Entry, fingerprint: str, input_record: InputRecord) -> bool:
        """Whether a record's part has the answers to an input, and is there."""
        if entry.fingerprint != fingerprint or not entry.input.equals(input_record):
            return False
        if entry.rejects and entry.rejects.file != rejects_name(entry.part.file):
            return False  # of an earlier version: readers take its bad rows for answers
        return all(o.is_intact(self.out, hashed=self.check_parts) for o in entry.files)

    def _adopt(self, entry: Entry, part: str, input_record: InputRecord) -> Entry:
        """The record of a part under another name: its input has been renamed or moved.

        Stopped on the way, no record fits: the split is computed again, and `drop_surplus` removes
        what was left under the old name.
        """
        self._others[entry.input.sha256].remove(entry)
        self.forget(part)
        files = [(entry.part, part)]
        files += [(entry.rejects, rejects_name(part))] if entry.rejects else []
        with writing(self.out):
            (self.folder / f"{Path(entry.part.file).stem}.json").unlink()
            for output, name in files:
                (self.out / output.file).rename(self.out / name)
            self._sync()
        renamed = [dataclasses.replace(output, file=name) for output, name in files]
        adopted = dataclasses.replace(
            entry,
            part=renamed[0],
            rejects=renamed[1] if entry.rejects else None,
            input=input_record,
        )
        self.commit(adopted)
        return adopted

    def forget_others(self) -> None:
        """Adopt no part of a renamed input: of equal files, several shares would."""
        self._others = {}

    def drop_surplus(self, entries: Sequence[Entry]) -> list[str]:
        """Remove every part, file of bad rows and record but those of a run, before it succeeds.

        What lies in the folder is asked, not the records: a part may have none.

        Args:
            entries: All records of the run.

        Returns:
            The paths of the files whose parts were removed, since they are no inputs any more.
        """
        stems = {Path(entry.part.file).stem for entry in entries}
        written = {output.file for entry in entries for output in entry.files}
        surplus = [path for path in self.folder.glob("part-*.json") if path.stem not in stems]
        recorded = {path.stem for path in surplus}
        for folder in (self.out, self.out / REJECTS, self.out / "rejects"):
            with writing(folder):
                parts = [p for p in folder.glob("part-*") if PART.fullmatch(p.name)]
            # A folder is nobody's part.
            files = (p for p in parts if p.is_symlink() or not p.is_dir())
            surplus += [p for p in files if p.relative_to(self.out).as_posix() not in written]
        unnamed = [p for p in surplus if p.parent == self.out and p.stem not in recorded]
        self.unrecorded = sorted(path.name for path in unnamed)
        self.check_held()
        with writing(self.out):
            if surplus:
                clearing.drop_success(self.out)
            for path in surplus:
                path.unlink()
        return sorted({other.input.path for others in self._others.values() for other in others})

    def forget(self, part: str) -> None:
        """Remove a part and its records, and the run's success with it."""
        earlier = f"rejects/{Path(part).stem}.parquet"  # of an earlier version
        self.check_held()
        with writing(self.folder):
            clearing.drop_success(self.out)
            (self.folder / f"{Path(part).stem}.json").unlink(missing_ok=True)
            for rejects in (rejects_name(part), earlier):
                (self.out / rejects).unlink(missing_ok=True)
            (self.out / part).unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or not yet empty
            (self.out / earlier).parent.rmdir()

    def commit(self, entry: Entry) -> None:
        """Write the record of a part that lies under its final name."""
        name = f"{Path(entry.part.file).stem}.json"
        self.write(self.folder / name, _json(dataclasses.asdict(entry)))

    def answered(self) -> list[str] | None:
        """Names of the parts of a finished run, in input order; None for one that has not."""
        success = self.read_success()
        return [str(name) for name in success["files"]] if success else None

    def read_success(self) -> dict[str, Any] | None:
        """The content of _SUCCESS, or None where the run has not finished."""
        return _read(self.out / SUCCESS)

    def _sync(self) -> None:
        """Put on the disk what was renamed or removed, before a record says that it was."""
        for folder in (self.out, self.folder, self.out / REJECTS):
            if folder.is_dir():
                sync_folder(folder)

    def succeed(self, content: Mapping[str, object], *, alone: bool = True) -> None:
        """Write the record of a run that has finished, and, unless shares of it still run, remove
        what only unfinished ones need."""
        self.check_held()
        with writing(self.out):
            if alone:
                shutil.rmtree(self.out / journal.FOLDER, ignore_errors=True)
            self._sync()
        self.write(self.out / SUCCESS, _json(content))
        if alone:
            self.forget_shares()

    def forget_shares(self) -> None:
        """Remove what only shares that still run need."""
        shutil.rmtree(self.folder / SHARES, ignore_errors=True)
        with suppress(OSError):  # the run has finished, and a gate alone keeps nobody out
            (self.folder / GATE).unlink()


_CHOOSE = "or choose another folder with -o, or clear this one with --overwrite"


def _dataset(ending: str) -> str:
    """The content of `DATASET`. Without it `datasets` takes records for rows, and a part whose name
    has `test` in it for a split of its own."""
    return (
        "configs:\n- config_name: default\n  data_files:\n"
        f'  - split: train\n    path: "part-*{ending}"\n'
    )


def _split_name(part: str) -> str:
    """The name that all parts of one input file share."""
    return part.split("-", 2)[-1]


def _json(content: object) -> str:
    return json.dumps(content, indent=2, sort_keys=True, default=str) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None where none is there. A disk that fails is another matter: a
    record that is there must not be taken for none, and its part for surplus.

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        content = json_text.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read: {error.strerror}", "check the folder's permissions and disk"
        ) from error
    return content if isinstance(content, dict) else None
