"""What a bundle records of the graphs that an export wrote."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from engine.core.device import Kind
from engine.core.graphs import GraphRecord, Role

# File and role; an encoder of either kind has a second file where its padding could be removed, for
# a GPU a packed one, and for the CPU one whose products are flat.
ROLES: Mapping[str, Role] = {
    "model.onnx": "model",
    "model.packed.onnx": "model",
    "model.flat.onnx": "model",
    "encoder.onnx": "encoder",
    "encoder.packed.onnx": "encoder",
    "encoder.flat.onnx": "encoder",
    "dense.onnx": "dense",
    "pool.onnx": "pooling",
    "at.onnx": "mask_logits",
    "step.onnx": "step",
    "resident.onnx": "device_step",
    "admit.onnx": "admit",
    "move.onnx": "move",
    "grow.onnx": "grow",
    "pick.onnx": "pick",
}
PACKED: Mapping[str, str] = {
    "model.onnx": "model.packed.onnx",
    "encoder.onnx": "encoder.packed.onnx",
}
FLAT: Mapping[str, str] = {
    "model.onnx": "model.flat.onnx",
    "encoder.onnx": "encoder.flat.onnx",
}
# Decoding on a GPU, instead of `step`; and what is read back there instead of an encoder's output.
DEVICE_DECODING: frozenset[Role] = frozenset({"device_step", "admit", "move", "grow", "pick"})
OUTPUT_HEADS: frozenset[Role] = frozenset({"pooling", "mask_logits"})
# Graphs of fp16 whose products of float32 multiply numbers that TF32 holds (`recipes.fp16`).
_TF32: frozenset[Role] = frozenset({"encoder", "device_step"})


def records(files: Collection[str], recipe: str) -> tuple[GraphRecord, ...]:
    """One for each file of `ROLES` that a bundle of this recipe has."""
    return tuple(
        GraphRecord(
            file,
            role := ROLES[file],
            device=_device(file, files),
            packed=file in PACKED.values(),
            captured=role == "device_step",
            tf32=recipe == "fp16" and role in _TF32,
        )
        for file in sorted(files)
    )


def _device(file: str, files: Collection[str]) -> Kind | Literal["any"]:
    """A graph that is one of two is for its own kind of device; alone it is for both."""
    roles = {ROLES[name] for name in files}
    role = ROLES[file]
    if role in OUTPUT_HEADS or file in PACKED.values():
        return "cuda"
    if file in FLAT.values() or FLAT.get(file) in files:
        return "cpu" if file in FLAT.values() else "cuda"
    if role in DEVICE_DECODING:
        return "cuda" if "step" in roles else "any"
    other = "device_step" in roles if role == "step" else PACKED.get(file) in files
    return "cpu" if other else "any"
