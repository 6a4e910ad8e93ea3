"""What a graph of a bundle is for, as a value; a file's name does not tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.core.device import Device, Kind

Role = Literal[
    "model",  # an encoder with its head
    "dense",  # the layers behind an embedder's pooling
    "pooling",  # weighted sums of an embedder's token states, on a GPU
    "mask_logits",  # the logits of masked positions, on a GPU
    "encoder",  # an encoder with every decoder layer's cross-attention keys and values
    "step",  # one decoder step, whose tokens the host chooses
    "device_step",  # one that chooses its tokens itself: its state stays on the GPU
    "admit",  # puts encoded rows into the slots of a device_step's caches
    "move",  # moves slots of these caches
    "grow",  # makes them longer
    "pick",  # the likeliest tokens out of a device_step's logits
]


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """One graph of a bundle.

    Attributes:
        file: Its ONNX file.
        role: What it computes.
        device: The kind of device that loads it.
        packed: It computes no padding, and takes the positions of real tokens as inputs, too.
        captured: A GPU launches it again and again over the same buffers, as one CUDA graph.
        tf32: A GPU multiplies its float32 numbers in TF32, which holds them.
    """

    file: str
    role: Role
    device: Kind | Literal["any"] = "any"
    packed: bool = False
    captured: bool = False
    tf32: bool = False

    def loads_on(self, device: Device) -> bool:
        return self.device in ("any", device.kind)
