"""What runs have written into an output folder, and in which order it goes.

`_SUCCESS` goes first, so that it never names what is gone, and each record before its part.
run.json, by which a run is recognized, stays until the next run's takes its place: wherever this is
stopped, the next start goes on. Whatever else lies in the folder stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from engine.core.system_calls import sync_folder
from engine.data import PASSES, REJECTS, writing
from engine.errors import OutputError
from engine.runner import journal
from engine.runner.folder_lock import SHARES
from engine.runner.records import FOLDER, STARTS, SUCCESS, Entry

EARLIER_REJECTS = "rejects"
"""Where earlier versions put bad rows."""
_BELOW = (f"{FOLDER}/{SHARES}", f"{FOLDER}/{STARTS}")


def refuse_links(out: Path) -> None:
    """Refuse folders of a run that are links: what is written or removed there is elsewhere.

    Raises:
        OutputError: One of them is.
    """
    for name in (FOLDER, REJECTS, *_BELOW, journal.FOLDER, EARLIER_REJECTS):
        if (out / name).is_symlink():
            raise OutputError(
                f"{out / name}: is a symbolic link, and a run follows none in its output folder",
                "remove the link, or choose another folder with -o",
            )


def drop_success(out: Path) -> None:
    """Make a run one that has not finished, on the disk, too, before anything of it goes."""
    success = out / SUCCESS
    if success.is_symlink() or success.exists():
        success.unlink(missing_ok=True)  # another share may have
        sync_folder(out)


def drop_half_written(out: Path) -> None:
    """Remove what killed runs were writing: files that have not got their names.

    Raises:
        OSError: One of them cannot be removed.
    """
    folder = out / journal.FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != journal.ENDING:
            path.unlink()
    with suppress(OSError):  # it is not there, or has journals
        folder.rmdir()
    texts = (out / f".{name}.tmp" for name in (SUCCESS, ".huggingface.yaml"))
    records = (out / FOLDER).glob(".*.tmp"), (out / FOLDER / STARTS).glob(".*.tmp")
    for path in (*texts, *chain(*records)):
        if path.is_symlink() or path.is_file():
            path.unlink()


def clear(out: Path, entries: Sequence[Entry], datasets: Collection[str]) -> None:
    """Remove what records name, the records, and what else runs write.

    Args:
        out: The output folder.
        entries: All records that can be read.
        datasets: What runs write into `.huggingface.yaml`.

    Raises:
        OutputError: Something cannot be removed; nothing was, where that can be known before.
    """
    with writing(out):
        files = [*_recorded(out, entries), *_others(out, datasets)]
        for folder in sorted({out, out / FOLDER, *(file.parent for file in files)}):
            if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(
                    f"{folder}: may not be written; nothing was removed",
                    "allow it, or choose another folder with -o",
                )
        drop_success(out)
        for file in files:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or somebody has put something there
            (out / EARLIER_REJECTS).rmdir()
        sync_folder(out / FOLDER)


def _recorded(out: Path, entries: Sequence[Entry]) -> Iterator[Path]:
    for entry in entries:
        yield out / FOLDER / f"{Path(entry.part.file).stem}.json"
        for output in entry.files:
            yield out / output.file


def _others(out: Path, datasets: Collection[str]) -> Iterator[Path]:
    """Records that cannot be read, journals, and the run's small files but for run.json."""
    yield from sorted((out / FOLDER).glob("part-*.json"))
    yield from sorted((out / journal.FOLDER).glob(f"part-*{journal.ENDING}"))
    for folder in _BELOW:
        yield from sorted((out / folder).glob("*.json"))
    yield out / FOLDER / PASSES
    dataset = out / ".huggingface.yaml"
    with suppress(OSError, ValueError):
        if dataset.read_text(encoding="utf-8") in datasets:
            yield dataset
