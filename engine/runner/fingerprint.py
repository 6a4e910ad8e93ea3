"""What a run and its splits are at this moment: a later one compares itself with that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from engine import data, tasks
from engine.bundle import format as bundle_format
from engine.core.config import RunConfig
from engine.core.types import Split
from engine.errors import InputError
from engine.version import __version__


def of_run(folder: bundle_format.BundleFolder, config: RunConfig, device: str) -> dict[str, Any]:
    """The content of run.json: everything that makes two runs the same run."""
    model_config = folder.description.model_config
    options = tasks.settle(tasks.find(folder.description.task), model_config, config.options)
    settings = {
        **config.shaping(),
        "options": dataclasses.asdict(options),
        "device": device.partition(":")[0],
        "engine": __version__,
    }
    content = {"settings": settings, "bundle": folder.fingerprint}
    text = json.dumps(content, sort_keys=True)
    return {**json.loads(text), "fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def of_split(split: Split, limit: int) -> dict[str, Any]:
    """What a split is at this moment, as its record will say."""
    return {
        "path": str(split.path),
        "start": split.start,
        "stop": split.stop,
        "first_row": split.first_row,
        "sha256": data.identity(split),
        "limit": limit,
    }


def of_file(file: Path) -> tuple[int, int]:
    """Size and date, to tell whether a file was changed while a run was at it.

    Raises:
        InputError: It is gone.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", "check the file") from error
    return status.st_size, status.st_mtime_ns


def inputs_apart(files: list[Path], out: Path) -> list[Path]:
    """The inputs without what a run into `out` wrote: `out` may lie in the folder of the corpus.

    Raises:
        InputError: Nothing is left.
    """
    if left := [file for file in files if not file.is_relative_to(os.path.abspath(out))]:
        return left
    raise InputError(f"{out}: every input lies in the output folder", "choose another with -o")
