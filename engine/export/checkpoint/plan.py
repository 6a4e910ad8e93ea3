"""What an export is going to do, in a few lines, before any weight is fetched or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.core import json_text
from engine.export.checkpoint import conversion, embedding_modules, labels, reranker, task_head
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.task_inference import ExportTask, architectures

_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_NAMED = 6
# The longest header that safetensors itself reads.
_HEADER_BYTES = 100_000_000


def describe(
    checkpoint: Checkpoint, task: ExportTask, requested: str | None, recipe: str
) -> tuple[str, ...]:
    """Task, family, head, pooling or labels, dtype of the weights and recipe.

    Args:
        requested: The task as the user named it, None where it was inferred.

    Raises:
        ExportError: The labels, or an embedder's modules, cannot be exported.
    """
    family = str(checkpoint.config["model_type"])
    parts = [
        f"plan: {requested or task.name}, family {family}",
        f"head {_head(checkpoint, task, family)}",
        *([f"weights in {dtype}"] if (dtype := _dtype(checkpoint)) else []),
        f"recipe {recipe}",
    ]
    return (", ".join(parts), *_of_task(checkpoint, task))


def _head(checkpoint: Checkpoint, task: ExportTask, family: str) -> str:
    loaded = task_head.loaded_class(task, family)
    named = architectures(checkpoint.config)
    others = "" if loaded in named or not named else f" (config.json: {', '.join(named)})"
    return f"{loaded or 'none'}{others}"


def _of_task(checkpoint: Checkpoint, task: ExportTask) -> tuple[str, ...]:
    if task.auto_class in labels.LABELLED:
        labels.check(checkpoint)
        fields = labels.read(checkpoint, conversion.read_config(checkpoint), task, _silent)
        if task.name == "rerank":
            fields |= reranker.read(checkpoint, fields["labels"], _silent)
        return (f"plan: {_of_labels(fields)}",)
    if task.name == "feature-extraction":
        return (f"plan: {_of_embedder(checkpoint)}",)
    return ()


def _silent(message: str) -> None:
    """Notes are told when the bundle is described."""


def _of_labels(fields: Mapping[str, Any]) -> str:
    names = fields["labels"]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    counted = "1 label" if len(names) == 1 else f"{len(names)} labels"
    line = f"{counted}: {', '.join(names[:_NAMED])}{more}"
    if fields["problem_type"]:
        line += f"; {fields['problem_type']}"
    if "entailment" in fields:
        line += f"; entailment is logit {fields['entailment']}"
    if "activation" in fields:
        line += f"; activation {fields['activation']}"
    return line


def _of_embedder(checkpoint: Checkpoint) -> str:
    embedder = embedding_modules.read(checkpoint)
    prompts = [name for name, text in embedding_modules.read_prompts(checkpoint)[0].items() if text]
    layers = [module.kind for module in embedder.layers]
    parts = [
        f"pooling {embedder.pooling}",
        *([f"layers {', '.join(layers)}"] if layers else []),
        "normalized" if embedder.normalize else "not normalized",
        f"prompts {', '.join(prompts[:_NAMED])}" if prompts else "no prompts",
    ]
    return ", ".join(parts)


def _dtype(checkpoint: Checkpoint) -> str:
    """The weights' dtype by their files, else by config.json; "" where neither says."""
    kinds: set[str] = set()
    for file in sorted(checkpoint.folder.glob("model*.safetensors")):
        kinds |= _dtypes(file)
    if kinds:
        return " and ".join(sorted(kinds))
    config = checkpoint.config
    return str(config.get("dtype") or config.get("torch_dtype") or "")


def _dtypes(file: Any) -> set[str]:
    """The dtypes of floating-point tensors by a safetensors file's header: 8 bytes of its length,
    little-endian, then JSON."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json_text.parse(stream.read(length)) if length < _HEADER_BYTES else {}
        kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Loading says what is wrong with the file.
        return set()
    return {_SAFETENSORS_DTYPES[kind] for kind in kinds if kind in _SAFETENSORS_DTYPES}
