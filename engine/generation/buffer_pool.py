"""What a decoder leaves to the next call: memory, and the decode steps bound to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from engine.runtime.protocol import Backend, Value

Shape = tuple[int, ...]


class Allocation(NamedTuple):
    """Memory of the largest buffer so far: its bytes, its shape, and the buffer."""

    size: int
    shape: Shape
    buffer: Value


@dataclass(frozen=True)
class BoundStep:
    """A decode step bound to buffers of one shape.

    Attributes:
        buffers, allocations: The buffers, and the names of their allocations, by their names as
            inputs of the graph.
        run: Computes one step.
    """

    buffers: Mapping[str, Value]
    allocations: Mapping[str, str]
    run: Callable[[], None]


@dataclass
class BufferPool:
    """Grow-only allocations by name, and the steps bound to them by shape.

    Each allocation has the size of the largest buffer seen, and smaller buffers reuse its
    beginning. Steps that were captured as CUDA graphs stay valid then, which matters because ONNX
    Runtime 1.31.1 frees a capture only with its session.
    """

    allocations: dict[str, Allocation] = field(default_factory=dict)
    steps: dict[str, BoundStep] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(allocation.size for allocation in self.allocations.values())

    def buffer(self, backend: Backend, name: str, shape: Shape, dtype: DTypeLike) -> Value:
        """The beginning of an allocation, with what is in it. One that is too small is replaced by
        zeros, and the steps bound to it are dropped."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        old = self.allocations.get(name)
        if old and old.shape == shape:
            return old.buffer
        if old and old.size >= size:
            return backend.buffer(shape, dtype, old.buffer)
        self.steps = {k: s for k, s in self.steps.items() if name not in s.allocations.values()}
        self.allocations.pop(name, None)
        del old  # Its memory is freed before more is allocated.
        buffer = backend.buffer(shape, dtype)
        self.allocations[name] = Allocation(size, shape, buffer)
        return buffer
