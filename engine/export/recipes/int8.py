"""Products of 8-bit integers: activations with a scale for each token, or one for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export.recipes import smoothquant
from engine.export.recipes.paired_weights import SMALLEST_SCALE, round_weight
from engine.export.recipes.quantizable_layers import (
    is_transposed,
    quantizable_products,
    replace_nodes,
)

# Activations are unsigned, around 128.
ZERO_POINT = 128
LEVELS = 127.0


# The smallest value of some activations: where it is near zero, the largest value alone says how
# far the others reach, and no Abs is needed.
SMALLEST_VALUE = {"Relu": 0.0, "Gelu": -0.1701, "FastGelu": -0.1701}


def quantize_per_token(
    model: Any,
    ranges: Mapping[str, NDArray[np.float32]] | None = None,
    matrices: bool = False,
) -> int:
    """Multiply in 8 bits: weights with a scale per output channel, activations one per token.

    Every `quantizable_products` node becomes

        scale  = max|A| over the last axis / 127          one a token, so a row's answer does not
        q      = QuantizeLinear(A, scale, 128)            depend on the other rows of its batch
        output = (q - 128) @ W * weight scales * scale

    where the sums of integers are exact in 32 bits (see `paired_weights`). Products of the same A
    share q. Embeddings are looked up, not multiplied, and stay float32.

    Args:
        model: An ONNX ModelProto; changed in place.
        ranges: See `smoothquant.activation_ranges`: these activations are smoothed here,
            A / s @ s W, at the price of a Mul.
        matrices: Every product reads a matrix, (tokens, width), as in a step graph: nothing is
            reshaped around it then.

    Returns:
        How many matrix products became integer ones.
    """
    return _Quantizer(model, dict(ranges or {}), matrices=matrices).run()


def quantize_per_tensor(model: Any) -> int:
    """The same with one scale for a batch, as ONNX Runtime's quantize_dynamic makes it.

    Written here because quantize_dynamic's sorting of the nodes ignores what an If's branches read.
    """
    return _Quantizer(model, {}, per_tensor=True).run()


@dataclass
class _Quantizer:
    """One graph on its way to int8; `nodes` is the new list, in topological order."""

    model: Any
    ranges: dict[str, NDArray[np.float32]]
    per_tensor: bool = False
    matrices: bool = False
    nodes: list[Any] = field(default_factory=list)
    # By activation: the names of its integers, of their scale and of their zero point.
    activations: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    # Zero points of all tokens of a matrix, by what selects these tokens.
    zero_points: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)

    def run(self) -> int:
        graph = self.model.graph
        self.weights = {w.name: w for w in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        products = quantizable_products(graph)
        if not products:
            return 0
        self.readers: dict[str, list[Any]] = {}
        for node in products:
            self.readers.setdefault(node.input[0], []).append(node)
        self._store_constants()
        names = {node.name for node in products}
        for node in graph.node:
            if node.name in names:
                self._quantize_product(node)
            else:
                self.nodes.append(node)
        replace_nodes(self.model, self.nodes)
        return len(products)

    def _store_constants(self) -> None:
        self._store("int8.one", np.array(1.0, np.float32))
        self._store("int8.zero_point", np.array(ZERO_POINT, np.uint8))
        self._store("int8.weight_zero_point", np.array(0, np.int8))
        self._store("int8.levels", np.array(LEVELS, np.float32))
        self._store("int8.last_axis", np.array([-1], np.int64))

    def _store(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _quantize_product(self, node: Any) -> None:
        """Replace one MatMul or Gemm."""
        source, output = node.input[0], node.output[0]
        weight, weight_scales = self._quantize_weight(node)
        quantize = self._quantize_tensor if self.per_tensor else self._quantize_tokens
        q, scale, zero_point = quantize(source)
        prefix = f"{node.name}/int8"
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        scaled = f"{prefix}/scaled" if bias else output
        product = scaled if self.per_tensor else f"{prefix}/product"
        # MatMulInteger, Cast and the Mul with the weight's scales in one pass over the output.
        factor = scale if self.per_tensor else "int8.one"
        inputs = [q, weight, factor, weight_scales, zero_point, "int8.weight_zero_point"]
        self._add("MatMulIntegerToFloat", inputs, product, domain="com.microsoft")
        if not self.per_tensor:
            self._add("Mul", [product, scale], scaled)
        if bias:
            self._add("Add", [scaled, bias], output)

    def _quantize_tensor(self, source: str) -> tuple[str, str, str]:
        """Names of A in uint8, of its one scale and of its zero point."""
        from onnx import helper

        if source not in self.activations:
            name = f"{source}/int8"
            outputs = (f"{name}/q", f"{name}/scale", f"{name}/zero_point")
            self.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [source], outputs, name=name)
            )
            self.activations[source] = outputs
        return self.activations[source]

    def _quantize_tokens(self, source: str) -> tuple[str, str, str]:
        """Names of A in uint8, of its scales (..., 1) and of its zero point; once for all readers
        of A."""
        if source not in self.activations:
            scale, smooth = self._token_scales(source)
            if self.matrices:
                q, scale = self._integers_of_matrix(source, smooth, scale)
            else:
                q = self._integers(smooth, scale, f"{source}/int8")
            self.activations[source] = (q, scale, "int8.zero_point")
        return self.activations[source]

    def _token_scales(self, source: str) -> tuple[str, str]:
        """Names of A's scales, (..., 1) or of a matrix (tokens,), and of A, smoothed where its
        range is known."""
        prefix, smooth = f"{source}/int8", source
        if (factors := self._factors(source)) is not None:
            inverse = self._store(f"{prefix}/factors", 1 / factors)
            smooth = self._add("Mul", [source, inverse], f"{prefix}/smooth")
        smallest = self._smallest_value(source)
        magnitude = smooth if smallest is not None else self._add("Abs", [smooth], f"{prefix}/abs")
        least = max(SMALLEST_SCALE, (smallest or 0.0) / -LEVELS)
        bound = self._store(f"{prefix}/smallest", np.array(least, np.float32))
        axes, keepdims = [magnitude, "int8.last_axis"], int(not self.matrices)
        largest = self._add("ReduceMax", axes, f"{prefix}/max", keepdims=keepdims)
        rough = self._add("Div", [largest, "int8.levels"], f"{prefix}/rough")
        return self._add("Max", [rough, bound], f"{prefix}/scale"), smooth

    def _integers(self, source: str, scale: str, prefix: str) -> str:
        """Name of A in uint8: QuantizeLinear takes one scale an index of an axis, so of a matrix of
        all tokens."""
        from onnx import numpy_helper

        shape = self._add("Shape", [source], f"{prefix}/shape")
        vector = self._add("Reshape", [scale, "int8.last_axis"], f"{prefix}/vector")
        count = self._add("Shape", [vector], f"{prefix}/count")
        width = self._add("Shape", [source], f"{prefix}/width", start=-1)
        rows = self._add("Concat", ["int8.last_axis", width], f"{prefix}/rows", axis=0)
        flat = self._add("Reshape", [source, rows], f"{prefix}/flat")
        value = numpy_helper.from_array(np.array([ZERO_POINT], np.uint8))
        zeros = self._add("ConstantOfShape", [count], f"{prefix}/zero_points", value=value)
        tokens = self._add("QuantizeLinear", [flat, vector, zeros], f"{prefix}/tokens", axis=0)
        return self._add("Reshape", [tokens, shape], f"{prefix}/q")

    def _integers_of_matrix(self, source: str, smooth: str, scales: str) -> tuple[str, str]:
        """Names of A in uint8 and of its scales (tokens, 1), where these are (tokens,)."""
        from onnx import numpy_helper

        prefix, selected = f"{source}/int8", self._selection(source)
        if selected not in self.zero_points:
            count = self._add("Shape", [scales], f"{prefix}/count")
            value = numpy_helper.from_array(np.array([ZERO_POINT], np.uint8))
            zeros = self._add("ConstantOfShape", [count], f"{prefix}/zero_points", value=value)
            self.zero_points[selected] = zeros
        inputs = [smooth, scales, self.zero_points[selected]]
        q = self._add("QuantizeLinear", inputs, f"{prefix}/q", axis=0)
        return q, self._add("Unsqueeze", [scales, "int8.last_axis"], f"{prefix}/column")

    def _selection(self, source: str) -> str:
        """What selects the tokens of a matrix: the Gather of some of all tokens' states that it
        comes from, or "" for all."""
        while (maker := self.makers.get(source)) is not None and maker.input:
            source = maker.input[0]
            if maker.op_type == "Gather":
                return "" if source in self.weights else str(maker.name)
        return ""

    def _smallest_value(self, source: str) -> float | None:
        """The smallest value that an activation can have, where its op bounds it near zero."""
        node = self.makers.get(source)
        if node is None or node.op_type in SMALLEST_VALUE:
            return SMALLEST_VALUE[node.op_type] if node else None
        return SMALLEST_VALUE["Gelu"] if node.op_type == "Mul" and self._is_gelu(node) else None

    def _is_gelu(self, node: Any) -> bool:
        """Whether a Mul ends the product of x, 0.5 and 1 + erf(x / sqrt(2)) and nothing else."""
        for n in (0, 1):
            inner = self.makers.get(node.input[n])
            if inner is None or inner.op_type != "Mul":
                continue
            factors = [*inner.input, node.input[1 - n]]
            halved = any(self._number(name) == 0.5 for name in factors)
            if halved and any(self._erf_argument(name) in factors for name in factors):
                return True
        return False

    def _erf_argument(self, name: str) -> str:
        """The x of 1 + erf(x / sqrt(2)), "" of anything else."""
        for term in self._inputs("Add", name):
            for quotient in self._inputs("Erf", term):
                inputs = self._inputs("Div", quotient) or self._inputs("Mul", quotient)
                return next((x for x in inputs if self._number(x) is None), "")
        return ""

    def _inputs(self, op: str, name: str) -> list[str]:
        """The inputs of the op that computes a tensor; none if another op does."""
        maker = self.makers.get(name)
        return list(maker.input) if maker is not None and maker.op_type == op else []

    def _number(self, name: str) -> float | None:
        """A constant of one value; None for anything else."""
        from onnx import numpy_helper

        maker, tensor = self.makers.get(name), self.weights.get(name)
        if maker is not None and maker.op_type == "Constant":
            tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
        if tensor is None or math.prod(tensor.dims) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def _factors(self, source: str) -> NDArray[np.float32] | None:
        """What A's channels are divided by and W's multiplied with, (in,); None without a range."""
        if source not in self.ranges:
            return None
        # Layers may share their weights (ALBERT): these share their factors, too.
        weights = self._weights_read_with(source)
        sharing = [name for name in self.readers if self._weights_read_with(name) & weights]
        if any(
            name not in self.ranges or self._weights_read_with(name) != weights for name in sharing
        ):
            return None
        activation = np.max([self.ranges[name] for name in sharing], axis=0)
        arrays = [self._array(node) for node in self.readers[source]]
        weight = np.max([np.abs(array).max(axis=1) for array in arrays], axis=0)
        return smoothquant.factors(activation, weight)

    def _weights_read_with(self, source: str) -> set[str]:
        return {node.input[1] for node in self.readers[source]}

    def _array(self, node: Any) -> NDArray[np.float32]:
        """A product's weight, (in, out)."""
        from onnx import numpy_helper

        weight = np.asarray(numpy_helper.to_array(self.weights[node.input[1]]))
        return weight.T if is_transposed(node) else weight

    def _quantize_weight(self, node: Any) -> tuple[str, str]:
        """Names of W in 8 bits (in, out) and of its scales (out,); stored once for equal W."""
        name = node.input[1]
        integers, scales = f"{name}.int8", f"{name}.scales"
        if name not in self.stored:
            self.stored.add(name)
            weight = self._array(node)
            if (factors := self._factors(node.input[0])) is not None:
                weight = weight * factors[:, None]
            rounded, scale = round_weight(weight)
            self._store(integers, rounded)
            self._store(scales, scale)
        return integers, scales
