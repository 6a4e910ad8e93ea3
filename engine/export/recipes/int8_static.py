"""Products of 8-bit integers whose activations have scales that are fixed when a model is exported.

A scale for each token is a pass over the activation for its magnitude and one over the output, to
multiply with it. A scale that is known before needs neither, and the bias is added where the sums
become floating-point numbers:

    output = (QuantizeLinear(A, scale, zero) - zero) @ W * (scale * weight scales) + bias

The scales are of the activations on `sentences.SENTENCES`, whose channels are smoothed first where
that helps. After a norm all tokens have about the same range; what follows a GELU is now and then
ten times what it mostly is. Where a product's error on the sentences exceeds `_MAX_ERROR`, tokens
keep a scale each (`int8.quantize_per_token`): MiniLM's embeddings of news have a mean cosine to
fp32's of 0.9947 with fixed scales everywhere, and of 0.9974 with this exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.export.graphs import storage
from engine.export.graphs.graph_edits import reads
from engine.export.recipes import int8, smoothquant
from engine.export.recipes.paired_weights import SMALLEST_SCALE, round_weight
from engine.export.recipes.quantizable_layers import (
    is_transposed,
    quantizable_products,
    replace_nodes,
)

# Levels of an activation.
_LEVELS = 255
# A fixed scale's error of a product, with the weights as they are, in the mean of the tokens: at
# most this share of the token's output, or as many times the error of a scale for each token.
_MAX_ERROR = 0.03
_MAX_RATIO = 1.2
# Channels are smoothed, which takes a Mul, if the error without is so many times as large.
_WORTH_SMOOTHING = 1.2


@dataclass(frozen=True)
class FixedScale:
    """How an activation becomes integers.

    Attributes:
        factors: What its channels are divided by before, (width,); None for nothing.
        scale, zero_point: Of the integers.
    """

    factors: NDArray[np.float32] | None
    scale: float
    zero_point: int

    def round(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens, (tokens, width), as the integers hold them."""
        smooth = tokens if self.factors is None else tokens / self.factors
        integers = np.rint(smooth / self.scale) + self.zero_point
        rounded = (np.clip(integers, 0, _LEVELS) - self.zero_point) * self.scale
        return np.asarray(rounded if self.factors is None else rounded * self.factors)


def quantize(model: Any, feeds: Mapping[str, Ints]) -> int:
    """Multiply in 8 bits, with fixed scales where an activation's tokens allow it.

    Args:
        model: An encoder's ONNX ModelProto; changed in place.
        feeds: Its inputs on the sentences, int64 (rows, length).

    Returns:
        How many matrix products have fixed scales; the others have a scale for each token.
    """
    quantizer = _StaticQuantizer(model)
    inputs = {value.name for value in model.graph.input}
    names = sorted(set(quantizer.products) - inputs)
    count = quantizer.run(_observe(model, feeds, names))
    int8.quantize_per_token(model)
    return count


def _observe(
    model: Any, feeds: Mapping[str, Ints], names: list[str]
) -> dict[str, NDArray[np.float32]]:
    """Named activations without padding, (tokens, width)."""
    copy = type(model)()
    copy.CopyFrom(model)
    real = feeds["attention_mask"] == 1
    watched = storage.watch(copy, feeds, names)
    return {name: _tokens(values, real) for name, values in watched.items()}


def _tokens(values: NDArray[np.float32], real: NDArray[np.bool_]) -> NDArray[np.float32]:
    padded = values.shape[:2] == real.shape
    return values[real] if padded else values.reshape(-1, values.shape[-1])


def fixed_scale(tokens: NDArray[np.float32], weight: NDArray[np.float32]) -> FixedScale | None:
    """One scale for all tokens of an activation; None where a scale for each is much better.

    Args:
        tokens: (tokens, in).
        weight: What they are multiplied with, (in, out).
    """
    factors = smoothquant.factors(np.abs(tokens).max(axis=0), np.abs(weight).max(axis=1))
    plain, smooth = _scale_of(tokens, None), _scale_of(tokens, factors)
    errors = [_error(tokens, scale.round(tokens), weight) for scale in (plain, smooth)]
    chosen = 1 if errors[0] > _WORTH_SMOOTHING * errors[1] else 0
    own = np.maximum(np.abs(tokens).max(axis=1, keepdims=True) / int8.LEVELS, SMALLEST_SCALE)
    limit = max(_MAX_ERROR, _MAX_RATIO * _error(tokens, np.rint(tokens / own) * own, weight))
    return (plain, smooth)[chosen] if errors[chosen] <= limit else None


def _scale_of(tokens: NDArray[np.float32], factors: NDArray[np.float32] | None) -> FixedScale:
    """The scale that holds all of these tokens, zero among its values."""
    smooth = tokens if factors is None else tokens / factors
    low, high = min(0.0, float(smooth.min())), max(0.0, float(smooth.max()))
    scale = max((high - low) / _LEVELS, SMALLEST_SCALE)
    return FixedScale(factors, scale, int(np.clip(np.rint(-low / scale), 0, _LEVELS)))


def _error(
    tokens: NDArray[np.float32], rounded: NDArray[np.float32], weight: NDArray[np.float32]
) -> float:
    """The mean over the tokens of a product's relative error."""
    difference = np.linalg.norm((rounded - tokens) @ weight, axis=1)
    size = np.linalg.norm(tokens @ weight, axis=1)
    return float(np.mean(difference / np.maximum(size, SMALLEST_SCALE)))


class _StaticQuantizer:
    """One graph on its way to fixed scales; `nodes` is the new list, in topological order."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self.weights = {w.name: w for w in model.graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}
        # By activation: the products that read it, their scale, and names of its integers, of their
        # scale and of their zero point.
        self.products: dict[str, list[Any]] = {}
        for node in quantizable_products(model.graph):
            if not self._is_shared(node):
                self.products.setdefault(node.input[0], []).append(node)
        self.scales: dict[str, FixedScale] = {}
        self.integers: dict[str, list[str]] = {}

    def run(self, activations: Mapping[str, NDArray[np.float32]]) -> int:
        """Replace the products of these activations, (tokens, width), whose tokens can have one
        scale; returns how many there are."""
        for name, tokens in activations.items():
            weight = np.concatenate([self._array(node) for node in self.products[name]], axis=1)
            if (scale := fixed_scale(tokens, weight)) is not None:
                self.scales[name] = scale
        products = [node for name in self.scales for node in self.products[name]]
        chosen = {node.output[0] for node in products}
        sums = (self._sum(node) for node in products)
        added = {add.output[0] for add in sums if add is not None}
        self._store("static.weight_zero_point", np.array(0, np.int8))
        for node in self.model.graph.node:
            if node.output[0] in chosen:
                self._quantize_product(node)
            elif node.output[0] not in added:
                self.nodes.append(node)
        replace_nodes(self.model, self.nodes)
        return len(products)

    def _is_shared(self, node: Any) -> bool:
        """Whether layers share a product's weight (ALBERT's): it would be stored once for each
        activation that it is multiplied with."""
        return len({other.input[0] for other in self.readers[node.input[1]]}) > 1

    def _sum(self, node: Any) -> Any:
        """The node that adds a bias to a product; None where there is none, or others read it."""
        if node.op_type == "Gemm":
            return None
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in self.outputs:
            return None
        return readers[0] if self._bias(readers[0], node) else None

    def _bias(self, add: Any, product: Any) -> str:
        """The weight (out,) that an Add adds to a product; "" if it adds anything else."""
        width = self.weights[product.input[1]].dims[0 if is_transposed(product) else 1]
        biases = [n for n in add.input if n in self.weights and n != product.output[0]]
        return next((n for n in biases if list(self.weights[n].dims) == [width]), "")

    def _quantize_product(self, node: Any) -> None:
        """Replace one MatMul or Gemm, and the Add of its bias."""
        q, scale, zero_point = self._quantize_activation(node.input[0])
        weight, weight_scales = self._quantize_weight(node)
        inputs = [q, weight, scale, weight_scales, zero_point, "static.weight_zero_point"]
        add, output = self._sum(node), node.output[0]
        if node.op_type == "Gemm" and len(node.input) > 2:
            inputs.append(node.input[2])
        elif add is not None:
            inputs.append(self._bias(add, node))
            output = add.output[0]
        self._add("MatMulIntegerToFloat", inputs, output, domain="com.microsoft")

    def _quantize_activation(self, source: str) -> list[str]:
        """Names of an activation's integers, of their scale and of their zero point; once for all
        readers."""
        if source not in self.integers:
            fixed, prefix, smooth = self.scales[source], f"{source}/static", source
            names = [
                self._store(f"{prefix}/scale", np.array(fixed.scale, np.float32)),
                self._store(f"{prefix}/zero_point", np.array(fixed.zero_point, np.uint8)),
            ]
            if fixed.factors is not None:
                inverse = self._store(f"{prefix}/factors", 1 / fixed.factors)
                smooth = self._add("Mul", [source, inverse], f"{prefix}/smooth")
            q = self._add("QuantizeLinear", [smooth, *names], f"{prefix}/q")
            self.integers[source] = [q, *names]
        return self.integers[source]

    def _quantize_weight(self, node: Any) -> tuple[str, str]:
        """Names of W in 8 bits (in, out) and of its scales (out,)."""
        weight = self._array(node)
        if (factors := self.scales[node.input[0]].factors) is not None:
            weight = weight * factors[:, None]
        integers, scales = round_weight(weight)
        prefix = f"{node.output[0]}/static"
        return self._store(f"{prefix}/weight", integers), self._store(f"{prefix}/scales", scales)

    def _array(self, node: Any) -> NDArray[np.float32]:
        """A product's weight, (in, out)."""
        from onnx import numpy_helper

        weight = np.asarray(numpy_helper.to_array(self.weights[node.input[1]]))
        return weight.T if is_transposed(node) else weight

    def _store(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output
