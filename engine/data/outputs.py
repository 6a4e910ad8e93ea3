"""The output of a run as the corpus of the next one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from engine.core import json_text
from engine.data import dataset_folders
from engine.errors import InputError

RUN = Path("_manifest", "run.json")
"""Below a folder: that it is the output of a run."""
_SUCCESS = "_SUCCESS"


def is_single(file: Path) -> bool:
    """Whether a file is the output of a run, `-o out.parquet`, which has a folder beside it."""
    return (folder_beside(file) / RUN).is_file()


def folder_beside(file: Path) -> Path:
    """The folder of the run whose output a file would be."""
    return file.with_name(f".{file.name}.run")


def check_finished(folder: Path) -> None:
    """Raise InputError for the output of a run that has not finished: rows would be missing."""
    if (folder / RUN).is_file() and not (folder / _SUCCESS).is_file():
        raise InputError(
            f"{folder}: the output of a run that has not finished",
            "run the command that writes it again first; or name its parts that are there",
        )


def in_order(paths: Iterable[str]) -> list[str]:
    """Absolute paths sorted by their parts, but for the parts of a run, which are in the order of
    its inputs, and for the shards of a dataset."""
    paths = list(paths)
    folders = set(map(os.path.dirname, paths))
    ranks = {folder: own for folder in folders if (own := _ranks_in(Path(folder)))}
    if not ranks:
        return sorted(paths, key=_by_parts)

    def place(path: str) -> tuple[str, int, str]:
        folder, name = os.path.split(path)
        own = ranks.get(folder, {})
        if name not in own:
            return _by_parts(path), 0, ""
        return _by_parts(os.path.join(folder, next(iter(own)))), own[name], name

    return sorted(paths, key=place)


def _by_parts(path: str) -> str:
    """What sorts as the parts of a path do: no character comes before this one."""
    return path.replace("/", "\0")


def _ranks_in(folder: Path) -> dict[str, int]:
    return _ranks(folder) or dataset_folders.ranks(folder)


def _ranks(folder: Path) -> dict[str, int]:
    """The places of a run's parts in the order of its inputs; none for another folder."""
    try:
        files = json_text.parse((folder / _SUCCESS).read_text(encoding="utf-8"))["files"]
        return {str(name): rank for rank, name in enumerate(files)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
