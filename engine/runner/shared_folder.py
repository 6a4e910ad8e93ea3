"""An output folder that several shares of a run write into, at the same time or one by one.

    OUT/_manifest/shares/listing.json     how many shares there are, and which parts
    OUT/_manifest/shares/2-of-8.json      what that share has compared with its inputs, by part

Each share plans the whole corpus and computes its own parts. While one runs, another begins only
for the same run, the same parts and the same number of shares, so that no two compute one part;
where none runs, the corpus and the number may have changed. Whoever ends and finds a record of
every part that is true of the inputs as they are now writes `_SUCCESS`; nobody removes surplus
parts before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

from engine import data
from engine.core import json_text
from engine.core.activity import proceed, working
from engine.core.share import Share, dealt, listing_digest
from engine.core.types import InputPath, Split
from engine.errors import OtherRunError, OutputError, Stopped
from engine.runner import clearing, fingerprint, journal
from engine.runner.folder_lock import SHARES, locked, shares_running
from engine.runner.manifest import Manifest
from engine.runner.moved_inputs import MovedInputs
from engine.runner.plan import Plan
from engine.runner.records import Entry, difference, success
from engine.runner.share_locks import passing, share_locked

LISTING = "listing.json"


@dataclass(frozen=True)
class OpenParts:
    """Parts without a record that is true of their input, and the shares that they are of."""

    count: int
    shares: tuple[Share, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know of them."""
        if not self.count:
            return ()
        names = ", ".join(map(str, self.shares[:8])) + (", ..." if len(self.shares) > 8 else "")
        return (
            f"{self.count:,} parts have no record yet, of shares {names}: whoever records the last "
            "writes _SUCCESS",
        )


NONE_OPEN = OpenParts(0, ())


class SharedFolder:
    """One share's view of the folder.

    Args:
        plan: Of the run, with the share.
        manifest: Of the folder.
    """

    def __init__(self, plan: Plan, manifest: Manifest) -> None:
        assert plan.share
        self._plan, self._manifest, self._share = plan, manifest, plan.share
        self._folder = manifest.folder / SHARES
        # By part: size and dates of its input just before it was hashed.
        self._states: dict[str, list[int]] = {}
        self._parts = [plan.parts[split] for split in dealt(plan.splits)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the share's place in the folder while the body runs.

        Raises:
            OutputError: The share, or a run of all parts, is writing here; or shares of another
                number or of other parts.
            OtherRunError: The folder holds, or shares in it are of, another run.
        """
        manifest = self._manifest
        manifest.check_free()
        with data.writing(manifest.out):
            made = [path for path in (manifest.folder, manifest.out) if not path.exists()]
            data.make_folder(manifest.folder)
        with ExitStack() as stack:
            out, folder = manifest.out, manifest.folder
            with passing(out, folder), locked(out, folder, shared=True):
                alone = not shares_running(folder)
                lock = share_locked(out, folder, self._share)
                manifest.hold = stack.enter_context(lock)
                stack.callback(self._let_go)
                with manifest.undone(made if alone else [], manifest.hold):
                    self._begin(alone=alone)
            try:
                yield
            except BaseException as error:
                if isinstance(error, OutputError):
                    manifest.check_held()  # what could not be written was another's by then
                self._undo(made)
                raise
        self._clear_up()

    def look(self, split: Split) -> None:
        """Note what a split's file is now, just before it is hashed."""
        if state := _state(split.path):
            self._states[self._plan.parts[split]] = state

    def finish(self, entries: Sequence[Entry]) -> OpenParts:
        """Write `_SUCCESS` unless parts of other shares, or of this one by now, are open.

        Args:
            entries: The records of this share.

        Raises:
            OutputError: The folder cannot be written.
        """
        manifest = self._manifest
        hashes = {entry.part.file: entry.input.sha256 for entry in entries}
        seen = {part: [hashes[part], *state] for part, state in self._states.items()}
        manifest.write(self._folder / f"{self._share.file_stem}.json", json.dumps(seen))
        with passing(manifest.out, manifest.folder):
            open_parts = self._missing()
            if not open_parts:
                all_entries, open_parts = self._checked()
            if open_parts:
                manifest.check_held()
                with data.writing(manifest.out):
                    clearing.drop_success(manifest.out)
            else:
                self._succeed(all_entries)
        places = {place % self._share.count + 1 for place in open_parts}
        shares = tuple(Share(number, self._share.count) for number in sorted(places))
        return OpenParts(len(open_parts), shares)

    def _clear_up(self) -> None:
        """Leave what one run leaves where it has finished and no share runs any more: of shares
        that end in one moment each has seen another's lock, and the last one to let go is here."""
        manifest = self._manifest
        if not self._folder.is_dir() or not manifest.read_success():
            return
        with suppress(OutputError, Stopped), passing(manifest.out, manifest.folder):
            if not shares_running(manifest.folder) and manifest.read_success():
                with data.writing(manifest.out):
                    shutil.rmtree(manifest.out / journal.FOLDER, ignore_errors=True)
                manifest.forget_shares()

    def _let_go(self) -> None:
        self._manifest.hold = None

    def _is_alone(self) -> bool:
        own = self._manifest.hold
        assert own
        return shares_running(self._manifest.folder) in ([], [own.file])

    def _undo(self, made: Sequence[Path]) -> None:
        """Remove the folders made for this share where it fails before anything is kept, and no
        other share has joined it."""
        manifest = self._manifest
        if not made or not manifest.hold or manifest.has_answers():
            return
        with suppress(OutputError, Stopped), passing(manifest.out, manifest.folder):
            if self._is_alone() and not manifest.is_lost():
                manifest.undo(made)

    def _begin(self, *, alone: bool) -> None:
        """Take the folder for the run, or join the shares that have."""
        plan, manifest = self._plan, self._manifest
        listing = {"shares": self._share.count, "parts": listing_digest(self._parts)}
        file = self._folder / LISTING
        if not alone:
            self._check_alike(listing, file)
            return
        is_input = MovedInputs(plan.splits).has
        overwrite = plan.config.overwrite
        manifest.begin(plan.record, set(self._parts), overwrite=overwrite, is_input=is_input)
        manifest.forget_others()
        if plan.passes:
            manifest.write(manifest.folder / data.PASSES, plan.passes)
        manifest.write(file, json.dumps(listing) + "\n")

    def _check_alike(self, listing: dict[str, Any], file: Path) -> None:
        """Refuse to join shares that are of another run, or would compute the same parts."""
        out, earlier = self._manifest.out, self._manifest.read_run() or {}
        wait = "wait for them, or choose another folder with -o"
        if earlier.get("fingerprint") != self._plan.record["fingerprint"]:
            raise OtherRunError(
                f"{out}: shares are writing here, of a run with "
                f"{difference(earlier, self._plan.record)}",
                f"use that run's settings, {wait}; where engine tune chose batch_tokens on each "
                "machine, run the same command again, which takes the folder's",
            )
        theirs = _read(file)
        if theirs.get("shares") != listing["shares"]:
            raise OutputError(
                f"{out}: shares are writing here, one of {theirs.get('shares')} each, and this is "
                f"share {self._share}",
                f"share the run into {theirs.get('shares')} as they do, {wait}",
            )
        if theirs != listing:
            raise OutputError(
                f"{out}: shares are writing here, of inputs with other files than there are now",
                f"name the same inputs; where files were added or removed since, {wait}",
            )

    def _missing(self) -> list[int]:
        """Places of the parts that have no record."""
        folder = self._manifest.folder
        with data.writing(folder):
            names = set(os.listdir(folder))
            records = (f"{Path(part).stem}.json" for part in self._parts)
            missing = [(place, name) for place, name in enumerate(records) if name not in names]
            # A network file system may list a folder as it was; it opens what is there now.
            missing = list(dropwhile(lambda one: (folder / one[1]).is_file(), missing))
        return [place for place, _ in missing]

    def _checked(self) -> tuple[list[Entry], list[int]]:
        """The records of all parts, in input order, and the places of those that are not true of
        their input."""
        plan, places = self._plan, {part: place for place, part in enumerate(self._parts)}
        seen = self._seen()
        entries: list[Entry] = []
        open_parts: list[int] = []
        with working("comparing", "the parts of all shares with their inputs"):
            for split in plan.splits:
                proceed()
                entry = self._entry(split, seen)
                if entry:
                    entries.append(entry)
                else:
                    open_parts.append(places[plan.parts[split]])
        return entries, open_parts

    def _entry(self, split: Split, seen: dict[str, list[Any]]) -> Entry | None:
        """A split's record, if it is true of its input; which is hashed unless the share that did
        so saw the same file."""
        plan, part = self._plan, self._plan.parts[split]
        entry = self._manifest.entry(part)
        if entry is None:
            return None
        sha256 = entry.input.sha256
        state = _state(split.path)
        known = sha256 if state and seen.get(part) == [sha256, *state] else ""
        record = fingerprint.input_record(split, 0, plan.columns, known)
        complete = self._manifest.is_complete(entry, plan.record["fingerprint"], record)
        return entry if complete else None

    def _seen(self) -> dict[str, list[Any]]:
        """What all shares have compared."""
        seen: dict[str, list[Any]] = {}
        for file in sorted(self._folder.glob("*-of-*.json")):
            seen |= _read(file)
        return seen

    def _succeed(self, entries: Sequence[Entry]) -> None:
        manifest, content = self._manifest, success(entries, self._plan.record["fingerprint"])
        alone = self._is_alone()
        manifest.drop_surplus(entries)
        if alone or manifest.read_success() != content:
            manifest.succeed(content, alone=alone)


def _state(path: InputPath) -> list[int] | None:
    """Size and dates of a file; None of an object in a store, whose e-tag is at hand."""
    if not isinstance(path, Path):
        return None
    try:
        status = path.stat()
    except OSError:
        return None  # hashing it says what is wrong
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read(file: Path) -> dict[str, Any]:
    """The object in a file of shares; an empty one where it is gone or torn."""
    try:
        content = json_text.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
