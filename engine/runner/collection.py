"""`engine gc`: removes what a killed run left in an output and no record names.

    local     half-written files, parts and bad rows without a record
    stored    these, and uploads that were never finished

What an unfinished split has computed, in `_tmp/*.journal`, stays: the next start goes on from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import data
from engine.data import REJECTS, StoredFolder, store_access
from engine.data.unfinished_uploads import Upload, end_upload, unfinished_uploads, why_unknown
from engine.errors import OutputError
from engine.runner import journal
from engine.runner.manifest import FOLDER, PART, Manifest
from engine.runner.results import manifest_of
from engine.runner.scratch import scratch_of
from engine.runner.store_lock import StoreLock
from engine.runner.stored_records import read_run, surplus


@dataclass(frozen=True)
class Collection:
    """What was removed from an output, or would be.

    Attributes:
        out: The output.
        files: Paths below it.
        uploads: Paths below it that unfinished uploads would have written.
        notes: What the person should know.
    """

    out: str
    files: tuple[str, ...]
    uploads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def collect(out: Path | str, *, dry_run: bool = False, scratch: str = "") -> Collection:
    """Remove what no record of an output names, while no run writes there.

    Args:
        out: The output of a run: a folder, a file or a URL.
        dry_run: Remove nothing.
        scratch: As in `RunConfig`.

    Raises:
        OutputError: There is no run, one is writing there, or something cannot be removed.
    """
    if data.is_url(out):
        return _collect_stored(str(out), dry_run, scratch)
    manifest = manifest_of(out)
    with manifest.held():
        files = sorted(_leftovers(manifest))
        with data.writing(manifest.out):
            for file in files if not dry_run else ():
                file.unlink()
    names = (file.relative_to(manifest.out).as_posix() for file in files)
    return Collection(str(out), tuple(names))


def _leftovers(manifest: Manifest) -> Iterator[Path]:
    named = {output.file for entry in manifest.entries() for output in entry.files}
    for folder in (manifest.out, manifest.out / REJECTS):
        for file in folder.glob("part-*"):
            if PART.fullmatch(file.name) and file.relative_to(manifest.out).as_posix() not in named:
                yield file
    for file in (manifest.out / journal.FOLDER).rglob("*"):
        if file.suffix != journal.ENDING and (file.is_symlink() or file.is_file()):
            yield file
    for folder in (manifest.out, manifest.folder):
        yield from folder.glob(".*.tmp")


def _collect_stored(url: str, dry_run: bool, scratch: str) -> Collection:
    store_access.check_output(url)
    folder, here = StoredFolder(url), scratch_of(url, scratch)
    with here.held(url):
        lock = StoreLock(folder, here.owner)
        if not dry_run:
            lock.acquire()
        try:
            return _collect_held(folder, lock, dry_run)
        finally:
            if not dry_run:
                lock.release()


def _collect_held(folder: StoredFolder, lock: StoreLock, dry_run: bool) -> Collection:
    stored = read_run(folder)
    files = surplus(stored.files, [record.entry for record in stored.records.values()])
    uploads, notes = _uploads(folder.url)
    if stored.run is None and not uploads and not files:
        raise OutputError(f"{folder.url}: not the output of a run", "give the folder named with -o")
    if not dry_run:
        for start in range(0, len(files), 1000):
            lock.ensure()
            folder.remove(files[start : start + 1000])
        for upload in uploads:
            lock.ensure()
            end_upload(folder.url, upload)
    named = tuple(_name(folder.url, upload) for upload in uploads)
    return Collection(folder.url, tuple(files), named, notes)


def _uploads(url: str) -> tuple[list[Upload], tuple[str, ...]]:
    """Unfinished uploads of what runs write, and what to say where they cannot be known."""
    if note := why_unknown(url):
        return [], (note,)
    ours = ("part-", f"{FOLDER}/", f"{journal.FOLDER}/")
    return [u for u in unfinished_uploads(url) if _name(url, u).startswith(ours)], ()


def _name(url: str, upload: Upload) -> str:
    """The path of an upload's key below a URL."""
    prefix = url.partition("://")[2].partition("/")[2].strip("/")
    return upload.key.removeprefix(f"{prefix}/")
