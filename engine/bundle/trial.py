"""A bundle that has not been opened here before is tried in a process with limits.

Its hashes say that its files are those of its description, which a stranger may have written. So
the tokenizer and the graphs are opened once where they can do no harm; that they were is remembered
in the user's cache, by the hash of the description, which holds those of all files:

    CACHE/tried/DIGEST        an empty file
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from engine.bundle.format import TOKENIZER, BundleFolder
from engine.core import cache_folder
from engine.core.confined_process import FailedStepError, Step, run
from engine.core.device import CPU
from engine.errors import BundleError
from engine.version import __version__

# What a graph may take: as many bytes as its weights several times over, which are read, packed and
# folded, and a second of CPU time for some of them.
_GRAPH_BYTES, _GRAPH_COPIES, _GRAPH_SECONDS, _GRAPH_SPEED = 384 << 20, 4, 3, 2 << 20
# The same for tokenizers, which take about 20 times the bytes of their file.
_TOKENIZER_BYTES, _TOKENIZER_COPIES, _TOKENIZER_SECONDS, _TOKENIZER_SPEED = (
    256 << 20,
    60,
    3,
    1 << 20,
)
_LIBRARIES = ("tokenizers", "onnxruntime", "onnxruntime-gpu")


def check(folder: BundleFolder, opener: str) -> None:
    """Try a bundle whose files have the right hashes, unless it was tried before.

    Args:
        opener: The module whose `attempt` opens a graph, as `runtime.graph_trial` does.

    Raises:
        BundleError: A file cannot be opened within its limits; it is named.
        BackendError: The process cannot be started.
    """
    if (mark := _mark(folder.fingerprint)).exists():
        return
    names, steps = _steps(folder, opener)
    try:
        run(steps)
    except FailedStepError as failure:
        raise BundleError(
            f"{folder.path / names[failure.number]}: {_escaped(failure.reason)}",
            "export the model again; a bundle from elsewhere may be damaged, or made to do harm",
        ) from failure
    _remember(mark)


def remember(folder: BundleFolder) -> None:
    """Take a bundle that was exported here for a tried one."""
    _remember(_mark(folder.fingerprint))


def _steps(folder: BundleFolder, opener: str) -> tuple[list[str], list[Step]]:
    """What is tried: names of files, and the steps that open them."""
    files = folder.description.files
    sizes = {name: int(record["bytes"]) for name, record in files.items()}
    names = [TOKENIZER, *(graph.file for graph in folder.description.graphs)]
    steps = [
        Step(
            "engine.bundle.tokenizer_trial",
            {"file": str(folder.path / TOKENIZER)},
            _TOKENIZER_BYTES + _TOKENIZER_COPIES * sizes[TOKENIZER],
            _TOKENIZER_SECONDS + sizes[TOKENIZER] // _TOKENIZER_SPEED,
        )
    ]
    graphs = {graph.file for graph in folder.description.graphs}
    weights = sorted(files.keys() - graphs - {TOKENIZER})
    for graph in folder.description.graphs:
        size = sum(sizes[name] for name in (graph.file, *weights))
        steps.append(
            Step(
                opener,
                {
                    "file": str(folder.path / graph.file),
                    "names": weights,
                    "opens": graph.loads_on(CPU),
                },
                _GRAPH_BYTES + _GRAPH_COPIES * size,
                _GRAPH_SECONDS + size // _GRAPH_SPEED,
            )
        )
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
