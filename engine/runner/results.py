"""The results of a finished run: its answers as a dataset, and its bad rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data import read_rejects
from engine.errors import OutputError
from engine.runner.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow.dataset


def open(out: Path | str) -> pyarrow.dataset.Dataset:
    """The answers of a run as a pyarrow dataset: its parts in input order, nothing read yet.

    Raises:
        OutputError: The folder holds no run, or one that has not finished.
    """
    import pyarrow.dataset

    manifest = _manifest(out)
    files = manifest.answered()
    if files is None:
        raise OutputError(f"{out}: the run has not finished", "run the same command again")
    paths = [str(manifest.out / file) for file in files]
    kind = Path(paths[0]).suffix[1:] if paths else "arrow"
    return pyarrow.dataset.dataset(paths, format=kind)


def rejects(out: Path | str) -> Iterator[dict[str, Any]]:
    """The bad rows of a run, part by part: file, row, code, message and, where one is at fault,
    column, expected and found type.

    Raises:
        OutputError: The folder holds no run, or a file of bad rows is damaged.
    """
    manifest = _manifest(out)
    for entry in manifest.entries():
        if entry.rejects:
            for row in read_rejects(manifest.out / entry.rejects.file):
                # The record has it: a renamed input takes its answers and bad rows along.
                yield {"file": entry.input.path, **row}


def _manifest(out: Path | str) -> Manifest:
    manifest = Manifest(Path(out))
    if manifest.read_run() is None:
        raise OutputError(f"{out}: not the output of a run", "give the folder named with -o")
    return manifest
