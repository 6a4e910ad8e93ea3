"""The exported-model folder: the only contract between export and run.

    BUNDLE/bundle.json       what it is, where it came from, how it was proven, hashes of the rest
    BUNDLE/tokenizer.json    the `tokenizers` library's own format
    BUNDLE/model.onnx        an encoder                         (feature-extraction, classification)
    BUNDLE/encoder.onnx      or: the encoder, with every layer's cross-attention keys and values
    BUNDLE/decoder.onnx          and one decoder step over a growing cache       (translation)

Graph inputs and outputs, by name, are listed in `GRAPHS` below. Nothing in a bundle is executable
and nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import BundleError

FORMAT = 1
DESCRIPTION = "bundle.json"
TOKENIZER = "tokenizer.json"

# Input names, then output names. N runs over the decoder's layers.
GRAPHS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model.onnx": (
        ("input_ids", "attention_mask", "token_type_ids (if the model has them)"),
        ("last_hidden_state | logits",),
    ),
    "encoder.onnx": (
        ("input_ids", "attention_mask"),
        ("cross.N.key", "cross.N.value"),
    ),
    "decoder.onnx": (
        (
            "input_ids",
            "encoder_attention_mask",
            "past.N.key",
            "past.N.value",
            "cross.N.key",
            "cross.N.value",
        ),
        ("logits", "present.N.key", "present.N.value"),
    ),
}


@dataclass(frozen=True)
class Generation:
    """How a decoder starts, ends and is cached.

    `heads` and `head_dim` are those of the key/value cache: (rows, heads, length, head_dim).
    `max_new_tokens` counts what is generated, the end token included, the start token not.
    """

    start_id: int
    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int
    layers: int
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Facts:
    """What the run has to know of a model beyond its graphs.

    Attributes:
        max_length: Tokens of one encoded row at most, special tokens included; longer rows are cut.
        position_limit: Positions the weights have, 0 where positions are relative: `max_length`
            may be raised up to here.
        pad_id: Filler of padded positions.
        labels: Class names in the order of the logits (classification).
        problem_type: single_label_classification, multi_label_classification or regression; ""
            where the checkpoint does not say.
        pooling: mean, cls or last (feature-extraction).
        normalize: Scale embeddings to length 1 (feature-extraction).
        dimensions: Width of an embedding (feature-extraction).
        prefix: Put before every text (T5's task prefix, an embedder's default prompt).
        generation: Decoder settings (translation).
    """

    max_length: int
    position_limit: int = 0
    pad_id: int = 0
    labels: tuple[str, ...] = ()
    problem_type: str = ""
    pooling: str = ""
    normalize: bool = False
    dimensions: int = 0
    prefix: str = ""
    generation: Generation | None = None


@dataclass(frozen=True)
class Description:
    """The content of bundle.json.

    Attributes:
        task: A name of `engine.tasks.TASKS`.
        architecture: The checkpoint's model_type, such as "t5" or "bert".
        recipe: Name of the quantization recipe, such as "fp32".
        source: model (hub id or folder name), revision (40-hex commit or "" for a folder),
            requested_revision, weights_sha256.
        tools: Versions of what made it, by distribution name.
        proof: sentences, largest_difference, tolerance, and what was compared.
        files: sha256 (hex) and bytes of every other file in the folder, by name.
        notes: What the person should know, such as a checkpoint default that is not followed.
    """

    task: str
    architecture: str
    recipe: str
    facts: Facts
    source: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class BundleFolder:
    """A bundle on disk whose description has been read. `check` reads the rest."""

    path: Path
    description: Description
    fingerprint: str

    @property
    def graphs(self) -> tuple[str, ...]:
        """File names of the ONNX graphs."""
        return tuple(n for n in sorted(self.description.files) if n.endswith(".onnx"))

    def check(self) -> None:
        """Compare every file with its recorded size and sha256.

        Raises:
            BundleError: A file is missing or has other bytes; it is named.
        """
        for name, recorded in self.description.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{self.path}: {name} is missing", _AGAIN)
            if file.stat().st_size != recorded["bytes"] or sha256(file) != recorded["sha256"]:
                raise BundleError(f"{file}: its bytes are not the ones that were exported", _AGAIN)


_AGAIN = "export the model again, or copy the whole bundle once more"


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(folder: Path, description: Description) -> None:
    """Hash the files that lie in `folder` and write bundle.json beside them, last.

    The caller gives a temporary folder and renames it afterwards.
    """
    names = sorted(p.name for p in folder.iterdir() if p.name != DESCRIPTION)
    files = {n: {"sha256": sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    whole = dataclasses.replace(description, files=files)
    (folder / DESCRIPTION).write_text(whole.to_json(), encoding="utf-8")


def load(path: Path | str) -> BundleFolder:
    """Read a bundle's description.

    Raises:
        BundleError: The folder is missing, is not a bundle, or is of another format version.
    """
    folder = Path(path)
    file = folder / DESCRIPTION
    if not folder.exists():
        raise BundleError(
            f"{folder}: no such bundle", "make one with: engine export MODEL -o FOLDER"
        )
    if not file.is_file():
        raise BundleError(f"{folder}: not a bundle (it has no {DESCRIPTION})", _what_it_is(folder))
    raw = file.read_bytes()
    try:
        content = json.loads(raw)
        found = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file}: not a bundle description", _AGAIN) from error
    if found != FORMAT:
        raise BundleError(
            f"{file}: bundle format {found!r}; this engine reads {FORMAT}",
            "export the model again with this version of corpus-engine",
        )
    return BundleFolder(folder, _description(file, content), hashlib.sha256(raw).hexdigest())


def _what_it_is(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"this is a checkpoint: engine export {folder} --task TASK -o BUNDLE makes a bundle"
    if (folder / "_manifest").is_dir():
        return "this is a run's output folder; give the bundle that made it"
    return "give the folder that `engine export` wrote"


def _description(file: Path, content: dict[str, Any]) -> Description:
    try:
        facts = dict(content["facts"])
        generation = facts.pop("generation", None)
        facts["labels"] = tuple(facts.get("labels", ()))
        if generation:
            generation = Generation(**{**generation, "end_ids": tuple(generation["end_ids"])})
        content = {**content, "facts": Facts(**facts, generation=generation)}
        return Description(**{**content, "notes": tuple(content.get("notes", ()))})
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError(f"{file}: the description is damaged: {error}", _AGAIN) from error
