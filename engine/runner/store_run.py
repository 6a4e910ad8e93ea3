"""A run whose output is in an object store, `-o s3://bucket/out`: it works in a local scratch
folder as in any other, and its parts are put as they finish.

A store's records are the truth: what they name and the listing has is not computed again, on
whichever machine. What scratch has besides, of a run that was stopped here, is used.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data
from engine.core import json_text
from engine.data import PASSES, KeyChangedError, StoredFile, StoredFolder, store_access
from engine.errors import InputError, OtherRunError, OutputError
from engine.runner.manifest import FOLDER, Manifest
from engine.runner.publisher import Publisher
from engine.runner.scratch import Scratch, scratch_of
from engine.runner.single_file import FILE_RECORD, folder_of, is_file
from engine.runner.store_lock import StoreLock
from engine.runner.stored_records import StoredRun, check_ours, read_run, with_intact_parts

if TYPE_CHECKING:
    from engine.runner.report import Report

Run = Callable[[Path, Mapping[str, Any], Publisher | None], "Report"]
"""What runs: a local folder or file, settings and who puts the parts -> the report."""


def run_to_store(url: str, settings: Mapping[str, Any], run: Run) -> Report:
    """Run into the scratch of a URL, and put its parts, or its file.

    Raises:
        SettingsError: The URL is of no store that is written.
        OtherRunError: There is something else.
        OutputError: Another run is writing there, or the store cannot be reached.
    """
    store_access.check_output(url)
    rest = {name: value for name, value in settings.items() if name != "scratch"}
    scratch = scratch_of(url, str(settings.get("scratch") or ""))
    with scratch.held(url):
        if is_file(url):
            return _run_to_key(url, scratch, rest, run)
        return _run_to_folder(StoredFolder(url), scratch, rest, run)


def check_apart(inputs: Sequence[str | Path] | str | Path, url: str) -> None:
    """Raise InputError where an input is the output, or lies in it."""
    named = [inputs] if isinstance(inputs, (str, Path)) else inputs
    place = f"{url.rstrip('/')}/"
    if any(f"{str(name).rstrip('/')}/".startswith(place) for name in named):
        raise InputError(f"{url}: is an input and the output", "choose another output with -o")


def scratch_folder(url: str, folder: str = "") -> Path:
    """The local folder that the run of a URL works in; it need not be there."""
    scratch = scratch_of(url, folder)
    return folder_of(scratch.folder / _last(url)) if is_file(url) else scratch.out


def _run_to_folder(
    folder: StoredFolder, scratch: Scratch, settings: Mapping[str, Any], run: Run
) -> Report:
    check_ours(folder)
    with _locked(folder, scratch) as lock:
        stored = read_run(folder)
        if settings.get("check_parts"):
            stored = with_intact_parts(folder, stored)
        _prepare(folder, scratch, stored)
        publisher = Publisher(folder, lock, scratch, stored)
        try:
            report = run(scratch.out, settings, publisher)
            scratch.clear()
        except OtherRunError as error:
            message = error.message.replace(str(scratch.out), folder.url)
            raise OtherRunError(message, error.hint) from error
        finally:
            publisher.close()
            scratch.clear_empty()
    return dataclasses.replace(report, out=folder.url)


@contextmanager
def _locked(folder: StoredFolder, scratch: Scratch) -> Iterator[StoreLock]:
    lock = StoreLock(folder, scratch.owner)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def _prepare(folder: StoredFolder, scratch: Scratch, stored: StoredRun) -> None:
    """Make scratch what the store is, and keep what it has of the same run besides."""
    scratch.drop_placeholders()
    if stored.run is None:
        return
    local = Manifest(scratch.out)
    earlier = local.read_run()
    if earlier is None or earlier.get("fingerprint") != stored.run.get("fingerprint"):
        scratch.clear()
        data.write_text(local.folder / "run.json", stored.run_text)
    run = stored.run.get("fingerprint")
    scratch.mirror([r for r in stored.whole.values() if r.entry.fingerprint == run])
    passes = f"{FOLDER}/{PASSES}"
    if passes in stored.files and not (scratch.out / passes).is_file():
        folder.fetch(passes, scratch.out / passes)


def _run_to_key(url: str, scratch: Scratch, settings: Mapping[str, Any], run: Run) -> Report:
    """Run to a local file, and put it once at the end."""
    folder, name = StoredFolder(url.rsplit("/", 1)[0]), _last(url)
    file, there = scratch.folder / name, folder.stat(name)
    ours = _is_ours(scratch, there)
    if there and not ours and not settings.get("overwrite"):
        raise OtherRunError(
            f"{url}: is there already, and no run of this machine is known to have written it",
            "choose another file with -o, or replace this one with --overwrite",
        )
    if not ours:  # a hole of what was there is of no use
        file.unlink(missing_ok=True)
    report = run(file, settings, None)
    sha256 = json_text.parse((folder_of(file) / FILE_RECORD).read_text(encoding="utf-8"))["sha256"]
    if not ours or sha256 != _remembered(scratch).get("sha256"):
        _put_key(url, folder, file, there, scratch, sha256)
    return dataclasses.replace(report, out=url, files=(name,))


def _put_key(
    url: str,
    folder: StoredFolder,
    file: Path,
    there: StoredFile | None,
    scratch: Scratch,
    sha256: str,
) -> None:
    try:
        version = folder.put_file(_last(url), file, there.version if there else None)
    except KeyChangedError as error:
        raise OutputError(
            f"{url}: was written by somebody else since this run began",
            "choose another file with -o, or replace that one with --overwrite",
        ) from error
    text = json.dumps({"e_tag": version.tag, "sha256": sha256})
    data.write_text(scratch.owner, text)
    data.placeholder(file, file.stat().st_size)


def _is_ours(scratch: Scratch, there: StoredFile | None) -> bool:
    return there is not None and _remembered(scratch).get("e_tag") == there.version.tag


def _remembered(scratch: Scratch) -> dict[str, Any]:
    try:
        content = json_text.parse(scratch.owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _last(url: str) -> str:
    return url.rsplit("/", 1)[1]
