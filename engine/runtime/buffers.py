"""Memory at a fixed address, which graphs read and write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runtime.device import runtime
from engine.runtime.protocol import Value


class OrtBuffer:
    """Memory at a fixed address. On the host an array and a value of the runtime share it; on a GPU
    it is the runtime's value, or its first bytes, viewed in another shape and dtype."""

    def __init__(
        self,
        memory: NDArray[np.uint8] | None,
        array: NDArray[Any] | None,
        value: Any = None,
        view: tuple[Sequence[int], Any] | None = None,
    ) -> None:
        self.memory, self.array, self.view = memory, array, view
        self.value = runtime().OrtValue.ortvalue_from_numpy(array) if value is None else value

    def address(self, gpu: int | None) -> tuple[Any, ...]:
        """The view, as arguments of a binding."""
        assert self.view
        shape, dtype = self.view
        return "cuda", gpu, dtype, list(shape), self.value.data_ptr()


def ort_value(value: Value) -> Any:
    """An array or a buffer as a value of the runtime; a view has none of its own."""
    if isinstance(value, OrtBuffer):
        return value.value
    return runtime().OrtValue.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value
