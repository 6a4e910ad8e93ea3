"""Folders that `datasets` has saved: `Dataset.save_to_disk` and `DatasetDict.save_to_disk`.

`state.json` lists the shards of a dataset in their order. Arrow files beside them are caches of
earlier steps, and no rows of it. `dataset_dict.json` lists the folders of the splits.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.errors import InputError

NOT_LISTED = "files that a dataset does not list"
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_HINT = "save the dataset again with save_to_disk"


def shards(folder: Path) -> list[str] | None:
    """Names of the shards of a dataset in their order; None for another folder.

    Raises:
        InputError: The dataset has indices, so that its rows are not those of its shards.
    """
    try:
        changed = (folder / _STATE).stat().st_mtime_ns
    except OSError:
        return None
    return _shards(folder, changed)


@lru_cache(maxsize=256)
def _shards(folder: Path, changed: int) -> list[str] | None:
    state = _read(folder / _STATE)
    if not isinstance(state, dict) or not isinstance(state.get("_data_files"), list):
        return None
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{folder}: a dataset whose rows are chosen by indices",
            "flatten_indices() and save_to_disk() write its rows alone",
        )
    return [str(file["filename"]) for file in state["_data_files"]]


def check(folder: Path) -> None:
    """Raise InputError where a shard of a dataset, or a split of several, is missing."""
    for name in [*(shards(folder) or ()), *(splits(folder) or ())]:
        if not (folder / name).exists():
            raise InputError(f"{folder}: {name} is missing, which the dataset lists", _HINT)


def splits(folder: Path) -> list[str] | None:
    """Names of the folders of a DatasetDict's splits; None for another folder."""
    content = _read(folder / _SPLITS)
    names = content.get("splits") if isinstance(content, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None


def is_listed(path: Path) -> bool:
    """Whether a file is a shard of its dataset, or its folder no dataset."""
    names = shards(path.parent)
    return names is None or path.name in names


def ranks(folder: Path) -> dict[str, int]:
    """The places of the shards of a dataset; none for another folder."""
    return {name: rank for rank, name in enumerate(shards(folder) or ())}


def _read(path: Path) -> Any:
    try:
        return json_text.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
