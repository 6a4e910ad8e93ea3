"""A bundle that has not been opened here before is tried in a process with limits.

Its hashes say that its files are those of its description, which a stranger may have written. So
the tokenizer and the graphs are opened once where they can do no harm; that they were is remembered
in the user's cache, by the hash of the description, which holds those of all files:

    CACHE/tried/DIGEST        an empty file
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.bundle import format as bundle_format
from engine.bundle.description import Description
from engine.bundle.format import TOKENIZER, BundleFolder
from engine.core import cache_folder
from engine.core.confined_process import FailedStepError, Step, run
from engine.core.device import CPU
from engine.errors import BundleError
from engine.version import __version__

# The module that opens graphs there: this room does not import that one.
_OPENER = "engine.runtime.graph_trial"
_LIBRARIES = ("tokenizers", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class _Allowance:
    """What it may take to open files: so much, and more for each of their bytes.

    Attributes:
        memory: Bytes.
        copies: Bytes for each of the files'.
        seconds: Of CPU time.
        speed: Bytes of the files for each second more.
    """

    memory: int
    copies: int
    seconds: int
    speed: int

    def step(self, module: str, arguments: Mapping[str, Any], size: int) -> Step:
        memory = self.memory + self.copies * size
        return Step(module, arguments, memory, self.seconds + size // self.speed)


# A runtime reads weights, packs them and folds them; a tokenizer takes some 20 bytes for each.
_GRAPH = _Allowance(memory=384 << 20, copies=4, seconds=1, speed=2 << 20)
_TOKENIZER = _Allowance(memory=256 << 20, copies=60, seconds=1, speed=1 << 20)


def check(folder: BundleFolder) -> None:
    """Try a bundle whose files have the right hashes, unless it was tried before.

    Raises:
        BundleError: A file cannot be opened within its limits; it is named.
        BackendError: The process cannot be started.
    """
    if (mark := _mark(folder.fingerprint)).exists():
        return
    names, steps = _steps(folder)
    try:
        run(steps)
    except FailedStepError as failure:
        raise BundleError(
            f"{folder.path / names[failure.number]}: {_escaped(failure.reason)}",
            "export the model again; a bundle from elsewhere may be damaged, or made to do harm",
        ) from failure
    _remember(mark)


def save(folder: Path, description: Description) -> Description:
    """As `format.save`, of a bundle that is made here and need not be tried."""
    whole = bundle_format.save(folder, description)
    _remember(_mark(bundle_format.sha256(folder / bundle_format.DESCRIPTION)))
    return whole


def _steps(folder: BundleFolder) -> tuple[list[str], list[Step]]:
    """What is tried: names of files, and the steps that open them."""
    files = folder.description.files
    sizes = {name: int(record["bytes"]) for name, record in files.items()}
    names = [TOKENIZER, *(graph.file for graph in folder.description.graphs)]
    tokenizer = {"file": str(folder.path / TOKENIZER)}
    steps = [_TOKENIZER.step("engine.bundle.tokenizer_trial", tokenizer, sizes[TOKENIZER])]
    weights = sorted(files.keys() - set(names))
    for graph in folder.description.graphs:
        arguments = {
            "file": str(folder.path / graph.file),
            "names": weights,
            "opens": graph.loads_on(CPU),
        }
        size = sum(sizes[name] for name in (graph.file, *weights))
        steps.append(_GRAPH.step(_OPENER, arguments, size))
    return names, steps


def _mark(fingerprint: str) -> Path:
    """The file that says that a bundle was tried with these versions of the libraries."""
    versions = [_version(name) for name in _LIBRARIES]
    key = json.dumps([fingerprint, __version__, versions])
    return cache_folder.folder() / "tried" / hashlib.sha256(key.encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _remember(mark: Path) -> None:
    # Without a cache a bundle is tried each time.
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _escaped(text: str) -> str:
    """In printable characters, and cut."""
    return json.dumps(text[:300])[1:-1]
