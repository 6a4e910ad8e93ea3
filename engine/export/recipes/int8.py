"""Products of 8-bit integers: with a scale for each row of activations, or one for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.export.recipes import smoothquant
from engine.export.recipes.quantizable_layers import add_domain, drop_unused, is_turned, products

# Activations are unsigned, around 128.
ZERO_POINT = 128
LEVELS = 127.0


@dataclass(frozen=True)
class Integers:
    """What weights become: `levels` to either side of `zero_point`."""

    levels: int
    zero_point: int
    dtype: str


# The usual pairing, unsigned activations and signed weights of 8 bits, is not exact on a CPU
# without VNNI: ONNX Runtime's AVX2 kernel adds pairs of products in saturating 16 bits
# (vpmaddubsw), and 2 * 255 * 127 does not fit. Its kernel for unsigned weights widens to 16 bits
# before it multiplies (vpmaddwd); with VNNI one kernel serves both pairings. Signed weights of 7
# bits do fit, 2 * 255 * 63, and are 1.2 times as fast without VNNI. So the sums are exact on every
# machine with either, whatever stands beside a row in the batch.
UNSIGNED = Integers(127, 128, "uint8")
# For smoothed weights: flan-t5-small's error rises from 4.1% to 4.9% with the bit that is missing
# (4.2% unsmoothed with it), and it gives fp32's whole answer more often than it did unsmoothed.
SIGNED = Integers(63, 0, "int8")
# Where an activation's values lie above a bound, the largest of them says how far they reach.
LOWEST = {"Relu": 0.0, "Gelu": -0.1701, "FastGelu": -0.1701}
# A row of zeros has no scale of its own; any will do.
SMALLEST_SCALE = 1e-12


def int8(model: Any, smoothed: bool = False, largest: Mapping[str, Any] | None = None) -> int:
    """Multiply in 8 bits: weights with a scale per output channel, activations one per token.

    Every MatMul and Gemm with a constant 2-D float32 weight that `products.KEPT` does not name
    becomes

        scale  = max|A| over the last axis / 127          one a token, so a row's answer does not
        q      = QuantizeLinear(A, scale, 128)            depend on its neighbours in the batch
        output = (q - 128) @ (W - zero) * weight scales * scale

    where the sums of integers are exact in 32 bits. Products of the same A share q. Embeddings are
    looked up, not multiplied, and stay float32.

    Args:
        model: An ONNX ModelProto; changed in place.
        smoothed: Whether its weights were (see `smooth`); they are `SIGNED` then, else `UNSIGNED`.
        largest: Of activations by name, the largest magnitude of each channel, float32 (width,):
            these are smoothed here, A / s @ s W, at the price of a Mul, and all weights `SIGNED`.

    Returns:
        How many matrix products became integer ones.
    """
    weight = SIGNED if smoothed or largest else UNSIGNED
    return _Int8(model, weight, dict(largest or {})).run()


def int8_tensor(model: Any) -> int:
    """The same with one scale for all rows of a batch: what ONNX Runtime's quantize_dynamic makes.

    Written here because its sorting of the nodes loses sight of what an If's branches read.
    """
    return _Int8(model, UNSIGNED, {}, whole=True).run()


@dataclass
class _Int8:
    """One graph on its way to int8; `nodes` is the new list, in topological order."""

    model: Any
    weight: Integers
    largest: dict[str, Any]
    whole: bool = False
    nodes: list[Any] = field(default_factory=list)
    quantized: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)

    def run(self) -> int:
        graph = self.model.graph
        self.weights = {w.name: w for w in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        chosen = products(graph)
        if not chosen:
            return 0
        self.readers: dict[str, list[Any]] = {}
        for node in chosen:
            self.readers.setdefault(node.input[0], []).append(node)
        self._constants()
        names = {node.name for node in chosen}
        for node in graph.node:
            if node.name in names:
                self._product(node)
            else:
                self.nodes.append(node)
        del graph.node[:]
        graph.node.extend(self.nodes)
        drop_unused(graph)
        add_domain(self.model)
        return len(chosen)

    def _constants(self) -> None:
        import numpy as np

        self._store("int8.one", np.array(1.0, np.float32))
        self._store("int8.zero_point", np.array(ZERO_POINT, np.uint8))
        zero_point = np.array(self.weight.zero_point, self.weight.dtype)
        self._store("int8.weight_zero_point", zero_point)
        self._store("int8.levels", np.array(LEVELS, np.float32))
        self._store("int8.last_axis", np.array([-1], np.int64))

    def _store(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _product(self, node: Any) -> None:
        """Replace one MatMul or Gemm."""
        source = node.input[0]
        integers, scales = self._weight(node)
        q, scale, zero = self._whole(source) if self.whole else self._rows(source)
        at = f"{node.name}/int8"
        # MatMulInteger, Cast and the Mul with the weight's scales in one pass over the output.
        own = scale if self.whole else "int8.one"
        inputs = [q, integers, own, scales, zero, "int8.weight_zero_point"]
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        last = f"{at}/scaled" if bias else node.output[0]
        made = last if self.whole else f"{at}/product"
        self._add("MatMulIntegerToFloat", inputs, made, domain="com.microsoft")
        if not self.whole:
            self._add("Mul", [made, scale], last)
        if bias:
            self._add("Add", [last, bias], node.output[0])

    def _whole(self, source: str) -> tuple[str, str, str]:
        """Names of A in uint8, of its one scale and of its zero point."""
        from onnx import helper

        at = f"{source}/int8"
        made = (f"{at}/q", f"{at}/scale", f"{at}/zero_point")
        if source not in self.quantized:
            self.quantized[source] = made
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], made, name=at))
        return made

    def _rows(self, source: str) -> tuple[str, str, str]:
        """Names of A in uint8, of its scales (..., 1) and of its zero point; made once for all that
        read A."""
        if source in self.quantized:
            return self.quantized[source]
        import numpy as np
        from onnx import numpy_helper

        at = f"{source}/int8"
        given = source
        if (factors := self._factors(source)) is not None:
            inverse = self._store(f"{at}/factors", 1 / factors)
            source = self._add("Mul", [source, inverse], f"{at}/smooth")
        lowest = self._lowest(given)
        magnitude = source if lowest is not None else self._add("Abs", [source], f"{at}/abs")
        least = max(SMALLEST_SCALE, (lowest or 0.0) / -LEVELS)
        smallest = self._store(f"{at}/smallest", np.array(least, np.float32))
        largest = self._add("ReduceMax", [magnitude, "int8.last_axis"], f"{at}/max", keepdims=1)
        rough = self._add("Div", [largest, "int8.levels"], f"{at}/rough")
        scale = self._add("Max", [rough, smallest], f"{at}/scale")
        shape = self._add("Shape", [source], f"{at}/shape")
        vector = self._add("Reshape", [scale, "int8.last_axis"], f"{at}/vector")
        count = self._add("Shape", [vector], f"{at}/count")
        width = self._add("Shape", [source], f"{at}/width", start=-1)
        rows = self._add("Concat", ["int8.last_axis", width], f"{at}/rows", axis=0)
        flat = self._add("Reshape", [source, rows], f"{at}/flat")
        value = numpy_helper.from_array(np.array([ZERO_POINT], np.uint8))
        zeros = self._add("ConstantOfShape", [count], f"{at}/zero_points", value=value)
        tokens = self._add("QuantizeLinear", [flat, vector, zeros], f"{at}/tokens", axis=0)
        q = self._add("Reshape", [tokens, shape], f"{at}/q")
        self.quantized[given] = (q, scale, "int8.zero_point")
        return self.quantized[given]

    def _lowest(self, source: str) -> float | None:
        """The least value that an activation can have, where its op says so."""
        node = self.makers.get(source)
        if node is None or node.op_type in LOWEST:
            return LOWEST[node.op_type] if node else None
        return LOWEST["Gelu"] if node.op_type == "Mul" and self._is_gelu(node) else None

    def _is_gelu(self, node: Any) -> bool:
        """Whether a Mul ends the product of x, 0.5 and 1 + erf(x / sqrt(2)) and nothing else."""
        for n in (0, 1):
            inner = self.makers.get(node.input[n])
            if inner is None or inner.op_type != "Mul":
                continue
            factors = [*inner.input, node.input[1 - n]]
            halved = any(self._number(name) == 0.5 for name in factors)
            if halved and any(self._erf_of(name) in factors for name in factors):
                return True
        return False

    def _erf_of(self, name: str) -> str:
        """The x of a 1 + erf(x / sqrt(2)), "" of anything else."""
        for given in self._inputs("Add", name):
            for turned in self._inputs("Erf", given):
                inputs = self._inputs("Div", turned) or self._inputs("Mul", turned)
                return next((one for one in inputs if self._number(one) is None), "")
        return ""

    def _inputs(self, op: str, name: str) -> list[str]:
        """What the op that makes an activation reads; nothing if another op does."""
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

    def _factors(self, source: str) -> Any | None:
        """What each channel of A is divided by and of W multiplied with, float32 (in,)."""
        import numpy as np

        if source not in self.largest:
            return None
        # Layers may share their weights (ALBERT): these share their factors, too.
        read = self._read_by(source)
        alike = [name for name in self.readers if self._read_by(name) & read]
        if any(name not in self.largest or self._read_by(name) != read for name in alike):
            return None
        activation = np.max([self.largest[name] for name in alike], axis=0)
        weights = [self._array(node) for node in self.readers[source]]
        weight = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        return smoothquant.factors(activation, weight)

    def _read_by(self, source: str) -> set[str]:
        return {node.input[1] for node in self.readers[source]}

    def _array(self, node: Any) -> Any:
        """A product's weight, float32 (in, out)."""
        from onnx import numpy_helper

        weight = numpy_helper.to_array(self.weights[node.input[1]])
        return weight.T if is_turned(node) else weight

    def _weight(self, node: Any) -> tuple[str, str]:
        """Names of W in 8 bits (in, out) and of its scales (out,); stored once for equal W."""
        import numpy as np

        name = node.input[1]
        integers, scales = f"{name}.int8", f"{name}.scales"
        if name not in self.stored:
            self.stored.add(name)
            weight, made = self._array(node), self.weight
            if (factors := self._factors(node.input[0])) is not None:
                weight = weight * factors[:, None]
            scale = np.maximum(np.abs(weight).max(axis=0) / made.levels, SMALLEST_SCALE)
            rounded = np.clip(np.rint(weight / scale), -made.levels, made.levels)
            whole = (rounded + made.zero_point).astype(made.dtype)
            self._store(integers, np.ascontiguousarray(whole))
            self._store(scales, scale.astype(np.float32))
        return integers, scales
