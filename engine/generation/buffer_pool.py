"""What a resident decoder leaves to the next call: memory, and the launches bound to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.runtime.protocol import Backend, Value


@dataclass(frozen=True)
class BoundStep:
    """Buffers of one shape and the pieces that they lie in, by their names as inputs of the
    resident graph; and the call that is bound to them."""

    buffers: Mapping[str, Value]
    pieces: Mapping[str, str]
    step: Callable[[], None]


@dataclass
class BufferPool:
    """Pieces of memory, their bytes, shapes and values; and what is bound to them, by its shape.

    A cache of whatever shape takes the beginning of its piece, which is as large as the largest
    was: all pieces together, what the largest keys and values of an encoder need and the largest of
    rows themselves. What is captured stays then, which matters, since ONNX Runtime 1.31.1 gives up
    a capture only with its session.
    """

    pieces: dict[str, tuple[int, tuple[int, ...], Value]] = field(default_factory=dict)
    held: dict[str, BoundStep] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(size for size, *_ in self.pieces.values())

    def buffer(self, backend: Backend, piece: str, shape: tuple[int, ...], dtype: Any) -> Value:
        """The beginning of a piece; what is bound to one that is too small is given up with it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        largest, shaped, value = self.pieces.get(piece, (-1, None, None))
        if shape == shaped:
            return value
        if size <= largest:
            return backend.buffer(shape, dtype, value)
        self.held = {k: held for k, held in self.held.items() if piece not in held.pieces.values()}
        self.pieces.pop(piece, None)
        del value  # It is given up before there is more.
        made = backend.buffer(shape, dtype)
        self.pieces[piece] = size, shape, made
        return made
