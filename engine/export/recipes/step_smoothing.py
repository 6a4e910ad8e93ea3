"""SmoothQuant within the step graph of a causal decoder, when a recipe rewrites it.

`smoothquant` explains why. Here the checkpoint is no longer at hand, but its graph is: it reads the
prompts of `SENTENCES` in one pass, which shows the activations that its products read, and what
computes these is a norm, whose weight takes the division, or the product of an active and a linear
side, of which the linear one takes it. No op is added, and the graph computes what it did, except
for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import ModelConfig
from engine.export.graphs import storage
from engine.export.recipes.quantizable_layers import is_transposed, quantizable_products
from engine.export.recipes.smoothquant import factors
from engine.export.sentences import encode

# Of an op that norms: which inputs are its weight and, if any, its bias.
_NORMS: Mapping[str, tuple[int, ...]] = {
    "LayerNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}


def activation_ranges(
    folder: Path, name: str, model_config: ModelConfig
) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel that a product reads, (width,), by the activation.

    Args:
        folder: The bundle's.
        name: The step graph's file.
        model_config: The bundle's, of a causal model.
    """
    model = storage.load(folder, (name,))[name]
    feeds, real = _prompts(folder, model_config, model)
    watched = dict.fromkeys(node.input[0] for node in quantizable_products(model.graph))
    values = storage.watch(model, feeds, list(watched))
    # The head reads the logits' rows alone.
    return {
        name: np.abs(array[real]).max(axis=0)
        for name, array in values.items()
        if array.ndim == 2 and len(array) == len(real)
    }


def _prompts(
    folder: Path, model_config: ModelConfig, model: Any
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Inputs of the step graph for all prompts from the beginning, and which of its tokens are
    real, bool (rows * tokens,)."""
    batch, decoder = encode(folder, model_config), model_config.decoder
    assert decoder
    left = batch["attention_mask"] == 1
    count, width = left.shape
    real = np.arange(width) < left.sum(axis=1)[:, None]
    tokens = np.full((count, width), decoder.pad_id, np.int64)
    tokens[real] = batch["input_ids"][left]
    feeds: dict[str, NDArray[Any]] = {
        "tokens": tokens,
        "lengths": np.zeros(count, np.int32),
        "total": np.array(width, np.int32),
        "logit_rows": np.zeros(1, np.int64),
        "picks": np.ones(1, np.int64),
        "scored": np.array(False),
    }
    for given in model.graph.input:
        if given.name.startswith("past."):
            _, heads, _, size = given.type.tensor_type.shape.dim
            shape = (count, heads.dim_value, 0, size.dim_value)
            feeds[given.name] = np.zeros(shape, np.float32)
    return feeds, real.ravel()


def smooth(model: Any, ranges: Mapping[str, NDArray[np.float32]]) -> int:
    """Move the scales of activations into the weights that read them; the model is changed.

    Args:
        model: An ONNX ModelProto.
        ranges: Of the activations, by name.

    Returns:
        How many activations are smoothed now.
    """
    weights = _Weights(model.graph)
    read: dict[str, list[Any]] = {}
    for node in quantizable_products(model.graph):
        read.setdefault(node.input[0], []).append(node)
    # A gate's linear side is scaled before it is read itself.
    order = sorted(read.keys() & ranges.keys(), key=lambda name: weights.op(name) != "Mul")
    return sum(_smooth(weights, name, read[name], ranges[name]) for name in order)


def _smooth(
    weights: _Weights, name: str, products: list[Any], largest: NDArray[np.float32]
) -> bool:
    makers = weights.makers_of(name)
    own = all(weights.readers[node.input[1]] == 1 for node in products)
    if not makers or not own or weights.readers[name] != len(products):
        return False
    matrices = {node.input[1]: 1 if is_transposed(node) else 0 for node in products}
    across = [np.abs(weights.array(n)).max(axis=1 - axis) for n, axis in matrices.items()]
    scale = factors(largest, np.max(across, axis=0))
    for maker in makers:
        weights.replace(maker, weights.array(maker) / scale)
    for matrix, axis in matrices.items():
        weights.replace(matrix, weights.array(matrix) * (scale if axis else scale[:, None]))
    return True


class _Weights:
    """A graph's weights, and who computes and reads what."""

    def __init__(self, graph: Any) -> None:
        self.tensors = {w.name: w for w in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1

    def op(self, name: str) -> str:
        return str(self.makers[name].op_type) if name in self.makers else ""

    def makers_of(self, name: str) -> list[str]:
        """The weights whose last axis is the channels of a tensor, and scales them; none where
        something else does, or where others read these weights too."""
        node = self.makers.get(name)
        if node is None:
            return []
        names: list[str] = []
        if node.op_type in _NORMS and node.output[0] == name:
            names = [node.input[i] for i in _NORMS[node.op_type] if i < len(node.input)]
        elif node.op_type == "Mul":
            names = self._of_product(node)
        names = [n for n in names if n]
        alone = all(n in self.tensors and self.readers[n] == 1 for n in names)
        return names if alone else []

    def _of_product(self, node: Any) -> list[str]:
        """Of a Mul: the weight of a norm that is written out, or those of its linear side."""
        for name in node.input:
            if name in self.tensors and len(self.tensors[name].dims) == 1:
                return [name]
        for name in node.input:
            product = self.makers.get(name)
            if product is None or product.op_type not in ("MatMul", "Gemm"):
                continue
            if not is_transposed(product) and self.readers[name] == 1:
                return list(product.input[1:])
        return []

    def array(self, name: str) -> NDArray[np.float32]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.tensors[name]))

    def replace(self, name: str, array: NDArray[np.float32]) -> None:
        from onnx import numpy_helper

        self.tensors[name].CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        )
