"""The exported-model folder: the only contract between export and run.

    BUNDLE/bundle.json       what it is, where it came from, how it was proven, what each graph is
                             for (`GraphRecord`), and hashes of the other files
    BUNDLE/tokenizer.json    the `tokenizers` library's own format
    BUNDLE/*.onnx            the graphs
    BUNDLE/weights.bin       their weights; equal ones of all graphs once

Inputs and outputs of graphs are listed in `GRAPHS` below. Nothing in a bundle is executable and
nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bundle import closed_folder, description_checks, tuned, typed_json
from engine.bundle.description import (
    FORMAT,
    DecoderConfig,
    Description,
    GenerationConfig,
    Languages,
    ModelConfig,
)
from engine.core.device import Device
from engine.core.graphs import GraphRecord, Role
from engine.core.suggestions import path_meant
from engine.errors import BundleError
from engine.printable import is_text

__all__ = [
    "FORMAT",
    "BundleFolder",
    "DecoderConfig",
    "Description",
    "GenerationConfig",
    "Languages",
    "ModelConfig",
    "load",
    "save",
    "sha256",
]

# A field that an older format lacks has its default.
READABLE = (3, FORMAT)
DESCRIPTION = "bundle.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
# Names of a bundle's folder that are no exported files.
RESERVED = (DESCRIPTION, *tuned.FILES.values())
# Of `device_step`: columns of a slot's state (next token, positions cached, tokens it may still
# emit, source tokens), and of how many steps it keeps the emitted tokens.
STATE_WIDTH, SYNC_EVERY = 4, 8
# The hint where a bundle is not what was exported.
_OF_A_CORPUS = (".parquet", ".jsonl", ".csv", ".arrow")
AGAIN = "export the model again, or copy the whole bundle once more"

# Input names, then output names, by role. N runs over the decoder's layers. A graph without padding
# takes `PACKING`, too, and gives anything at the padding.
PACKING = ("token_indices", "inverse_indices", "token_offset", "cu_seqlens")
GRAPHS: Mapping[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (
        ("input_ids", "attention_mask", "token_type_ids (if the model has them)"),
        ("last_hidden_state | logits | start_logits, end_logits",),
    ),
    "dense": (("embedding",), ("projected",)),
    "pooling": (("last_hidden_state", "weights"), ("pooled",)),
    "mask_logits": (("logits", "positions"), ("masked_logits",)),
    "encoder": (
        ("input_ids", "attention_mask"),
        ("cross.N.key", "cross.N.value"),
    ),
    "step": (
        (
            "tokens",
            "lengths",
            "total",
            "rotary_offset (if long rows are rotated otherwise)",
            "source_last, source_total (with an encoder)",
            "logit_rows (without one)",
            "past.N.key",
            "past.N.value",
            "cross.N.key",
            "cross.N.value",
            "last.N.key",
            "last.N.value",
            "picks",
            "scored",
            "whole_logits (if a shortlist is scored)",
        ),
        (
            "logits",
            "best",
            "best_scores",
            "present.N.key",
            "present.N.value",
            "cross_present.N.key",
            "cross_present.N.value",
        ),
    ),
    "device_step": (
        (
            "state",
            "emitted",
            "cache_positions",
            "source_positions (with an encoder)",
            "eos_ids",
            "forced_tokens (without one)",
            "past.N.key",
            "past.N.value",
            "cross.N.key (with an encoder)",
            "cross.N.value (with an encoder)",
        ),
        ("logits", "next_state", "next_emitted", "present.N.key", "present.N.value"),
    ),
    "admit": (
        (
            "slots",
            "rows",
            "positions",
            "encoded.N.key",
            "encoded.N.value",
            "cross.N.key",
            "cross.N.value",
        ),
        ("filled.N.key", "filled.N.value"),
    ),
    "move": (
        ("sources", "past.N.key", "past.N.value"),
        ("moved.N.key", "moved.N.value"),
    ),
    "grow": (("pads", "past.N.key", "past.N.value"), ("grown.N.key", "grown.N.value")),
    "pick": (("logits", "picks"), ("best", "best_logits", "best_scores")),
}


@dataclass(frozen=True)
class BundleFolder:
    """A bundle on disk whose description has been read. `check` reads the rest."""

    path: Path
    description: Description
    fingerprint: str

    def graphs_for(self, device: Device) -> tuple[GraphRecord, ...]:
        """The graphs that a device loads, one of each role."""
        return tuple(graph for graph in self.description.graphs if graph.loads_on(device))

    def digest(self, name: str) -> str:
        """The sha256 that a file must have, "" for one that is not listed."""
        return str(self.description.files.get(name, {}).get("sha256", ""))

    def states(self) -> dict[str, closed_folder.State | None]:
        """What tells that the files are still the same, by name."""
        return closed_folder.states(self.path, (DESCRIPTION, *self.description.files))

    @contextmanager
    def unchanged(self, before: Mapping[str, closed_folder.State | None] = {}) -> Iterator[None]:
        """Notice that a file is replaced or changed while the body opens them.

        Args:
            before: The `states` since which none may have been changed; those of now if empty.

        Raises:
            BundleError: One was; it is named.
        """
        before = before or self.states()
        yield
        after = self.states()
        changed = [name for name in after if before[name] != after[name]]
        if not changed and sha256(self.path / DESCRIPTION) != self.fingerprint:
            changed = [DESCRIPTION]
        if changed:
            raise BundleError(
                f"{self.path / changed[0]}: has been changed while the bundle was loaded",
                "wait until nobody writes there, then run again",
            )

    def check(self) -> None:
        """Compare every file with its recorded size and sha256.

        Raises:
            BundleError: A file is missing or has other bytes; it is named.
        """
        for name, recorded in self.description.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{self.path}: {name} is missing", AGAIN)
            if file.stat().st_size != recorded["bytes"] or sha256(file) != recorded["sha256"]:
                raise BundleError(f"{file}: its bytes are not the ones that were exported", AGAIN)


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(folder: Path, description: Description) -> Description:
    """Hash the files in `folder`, then write bundle.json.

    The caller gives a temporary folder and renames it afterwards.
    """
    names = sorted(p.name for p in folder.iterdir() if p.name != DESCRIPTION)
    files = {n: {"sha256": sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    whole = dataclasses.replace(description, files=files)
    (folder / DESCRIPTION).write_text(whole.to_json(), encoding="utf-8")
    return whole


def load(path: Path | str) -> BundleFolder:
    """Read a bundle's description.

    Raises:
        BundleError: The folder is missing, is not a bundle, or is of another format version.
    """
    folder = Path(path)
    file = folder / DESCRIPTION
    if not folder.exists():
        raise BundleError(
            f"{folder}: no such bundle",
            f"{path_meant(folder)}make one with: engine export MODEL -o FOLDER",
        )
    if not file.is_file():
        raise BundleError(f"{folder}: not a bundle (it has no {DESCRIPTION})", _what_it_is(folder))
    if not is_text(str(folder)):
        raise BundleError(
            f"{folder}: its name is not valid UTF-8, and ONNX Runtime opens no file there",
            "rename the folder",
        )
    closed_folder.check_file(file)
    try:
        raw = typed_json.read_bytes(file)
    except typed_json.MismatchError as error:
        raise BundleError(f"{file}: not a bundle description: {error}", AGAIN) from error
    if (description := _read_before.get(raw)) is None:
        description = _read_description(folder, file, raw)
        _read_before.clear()
        _read_before[raw] = description
    closed_folder.check(folder, {*RESERVED, *description.files})
    return BundleFolder(folder, description, hashlib.sha256(raw).hexdigest())


_read_before: dict[bytes, Description] = {}
"""The last description by its bytes: a command reads one several times, at 3 ms each."""


def _read_description(folder: Path, file: Path, raw: bytes) -> Description:
    try:
        content = typed_json.parse(raw)
    except typed_json.MismatchError as error:
        raise BundleError(f"{file}: not a bundle description: {error}", AGAIN) from error
    if not isinstance(content, dict) or "format" not in content:
        raise BundleError(f"{file}: not a bundle description", AGAIN)
    version = content["format"]
    if type(version) is not int or version not in READABLE:
        raise BundleError(
            f"{file}: bundle format {typed_json.shown(version)}; this engine reads "
            f"{' and '.join(map(str, READABLE))}",
            _export_again(folder, content),
        )
    return _description(file, content)


def _export_again(folder: Path, content: Mapping[str, Any]) -> str:
    """What to run instead of reading a bundle of another format, by its own description."""
    try:
        source, recipe = content["source"], content["recipe"]
        words = ["engine", "export", source["model"], "--task", content["task"]]
        words += ["--revision", source["revision"]] if source["revision"] else []
        words += ["--subfolder", source["subfolder"]] if source.get("subfolder") else []
        words += ["--recipe", recipe] if recipe != "fp32" else []
        command = shlex.join([*words, "-o", str(folder)])
    except (KeyError, TypeError):
        command = f"engine export MODEL --task TASK -o {folder}"
    return f"remove the folder, then: {command}"


def _what_it_is(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"this is a checkpoint: engine export {folder} --task TASK -o BUNDLE makes a bundle"
    if (folder / "_manifest").is_dir():
        return "this is a run's output folder; give the bundle that made it"
    if any(next(folder.glob(f"*{ending}"), None) for ending in _OF_A_CORPUS):
        return "this looks like a corpus; the bundle comes first, then the inputs"
    return "give the folder that `engine export` wrote"


def _description(file: Path, content: object) -> Description:
    try:
        description = typed_json.read(Description, content, description_checks.BOUNDS)
        description_checks.check(description, RESERVED, TOKENIZER)
    except typed_json.MismatchError as error:
        raise BundleError(f"{file}: the description is damaged: {error}", AGAIN) from error
    return description
