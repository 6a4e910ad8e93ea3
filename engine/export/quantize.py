"""Recipes: what is done to a graph's weights, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import SettingsError


@dataclass(frozen=True)
class Kept:
    """One row of `KEPT`: matrix products that int8 leaves in float32.

    Attributes:
        node: Pattern of the node's name.
        reason: Why.
        beside: Name of another node that must be there, made from the match's groups; "" for none.
    """

    node: str
    reason: str
    beside: str = ""


KEPT = (
    Kept(
        r"/lm_head/MatMul",
        "the head is what int8 hurts: flan-t5-small keeps fp32's top token in 95-96% of the steps "
        "with a float32 head, 81-86% without",
    ),
    Kept(
        r"(.*)/DenseReluDense/wo/MatMul",
        "the input of a gated feed-forward layer's output is a product with outliers: "
        "96.5-97.2% of the top tokens with it in float32, 95-96% without, beside a float32 head",
        beside=r"\1/DenseReluDense/wi_1/MatMul",
    ),
    Kept(
        r"layer\.(\d+)/narrow",
        "the same in a step graph, whose head is scored twice instead",
        beside=r"layer.\1/gate",
    ),
    Kept(
        r"/(.*/)?(classifier|pre_classifier|score|pooler)(/.*)?/(Gemm|MatMul)",
        "a classification head sees one token of a row: nothing to win, and it makes the answer",
    ),
)

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
# A row of zeros has no scale of its own; any will do.
SMALLEST_SCALE = 1e-12


def fp32(model: Any, smoothed: bool = False) -> int:
    """Leave a graph as it is."""
    return 0


def int8(model: Any, smoothed: bool = False) -> int:
    """Multiply in 8 bits: weights with a scale per output channel, activations one per token.

    Every MatMul and Gemm with a constant 2-D float32 weight that `KEPT` does not name becomes

        scale  = max|A| over the last axis / 127          one a token, so a row's answer does not
        q      = QuantizeLinear(A, scale, 128)            depend on its neighbours in the batch
        output = (q - 128) @ (W - zero) * weight scales * scale

    where the sums of integers are exact in 32 bits. Products of the same A share q. Embeddings are
    looked up, not multiplied, and stay float32.

    Args:
        model: An ONNX ModelProto; changed in place.
        smoothed: Whether its weights were (see `smooth`); they are `SIGNED` then, else `UNSIGNED`.

    Returns:
        How many matrix products became integer ones.
    """
    return _Int8(model, SIGNED if smoothed else UNSIGNED).run()


RECIPES: Mapping[str, Callable[[Any, bool], int]] = {"fp32": fp32, "int8": int8}
# Recipes before which outliers are moved from activations into weights.
SMOOTHED = ("int8",)
# Tokens whose logits a step graph computes in float32 behind a head that is not.
SHORTLIST: Mapping[str, int] = {"fp32": 0, "int8": 16}


def recipe(name: str) -> Callable[[Any, bool], int]:
    """A recipe by its name.

    Raises:
        SettingsError: There is none of that name.
    """
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise SettingsError(f"recipe: {name!r} is not a recipe", f"use one of: {known}")
    return RECIPES[name]


@dataclass
class _Int8:
    """One graph on its way to int8; `nodes` is the new list, in topological order."""

    model: Any
    weight: Integers
    nodes: list[Any] = field(default_factory=list)
    quantized: dict[str, tuple[str, str]] = field(default_factory=dict)

    def run(self) -> int:
        from onnx import helper

        graph = self.model.graph
        self.weights = {w.name: w for w in graph.initializer}
        self.names = {node.name for node in graph.node}
        self._constants()
        count = 0
        for node in graph.node:
            if self._is_product(node):
                self._product(node)
                count += 1
            else:
                self.nodes.append(node)
        if count:
            del graph.node[:]
            graph.node.extend(self.nodes)
            self._drop_unused()
            if all(o.domain != "com.microsoft" for o in self.model.opset_import):
                self.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return count

    def _is_product(self, node: Any) -> bool:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.weights:
            return False
        weight = self.weights[node.input[1]]
        attributes = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
        plain = all(value == 1.0 for value in attributes.values())
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return (
            len(weight.dims) == 2
            and weight.data_type == 1
            and plain
            and not turned
            and not self._is_kept(node.name)
        )

    def _is_kept(self, name: str) -> bool:
        for kept in KEPT:
            found = re.fullmatch(kept.node, name)
            if found and (not kept.beside or found.expand(kept.beside) in self.names):
                return True
        return False

    def _constants(self) -> None:
        import numpy as np

        self._store("int8.one", np.array(1.0, np.float32))
        self._store("int8.zero_point", np.array(ZERO_POINT, np.uint8))
        zero_point = np.array(self.weight.zero_point, self.weight.dtype)
        self._store("int8.weight_zero_point", zero_point)
        self._store("int8.levels", np.array(LEVELS, np.float32))
        self._store("int8.smallest", np.array(SMALLEST_SCALE, np.float32))
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
        source, weight = node.input[0], node.input[1]
        turn = any(a.name == "transB" and a.i for a in node.attribute)
        integers, scales = self._weight(weight, turn)
        q, scale = self._activation(source)
        at = f"{node.name}/int8"
        # MatMulInteger, Cast and the Mul with the weight's scales in one pass over the output.
        product = self._add(
            "MatMulIntegerToFloat",
            [q, integers, "int8.one", scales, "int8.zero_point", "int8.weight_zero_point"],
            f"{at}/product",
            domain="com.microsoft",
        )
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        result = self._add("Mul", [product, scale], f"{at}/scaled" if bias else node.output[0])
        if bias:
            self._add("Add", [result, bias], node.output[0])

    def _activation(self, source: str) -> tuple[str, str]:
        """Names of A in uint8 and of its scales (..., 1); one quantization for all that read A."""
        if source in self.quantized:
            return self.quantized[source]
        import numpy as np
        from onnx import numpy_helper

        at = f"{source}/int8"
        magnitude = self._add("Abs", [source], f"{at}/abs")
        largest = self._add("ReduceMax", [magnitude, "int8.last_axis"], f"{at}/max", keepdims=1)
        rough = self._add("Div", [largest, "int8.levels"], f"{at}/rough")
        scale = self._add("Max", [rough, "int8.smallest"], f"{at}/scale")
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
        self.quantized[source] = (q, scale)
        return q, scale

    def _weight(self, name: str, turn: bool) -> tuple[str, str]:
        """Names of W in 8 bits (in, out) and of its scales (out,); stored once for equal W."""
        import numpy as np
        from onnx import numpy_helper

        integers, scales = f"{name}.int8", f"{name}.scales"
        if integers not in {w.name for w in self.model.graph.initializer}:
            weight = numpy_helper.to_array(self.weights[name])
            weight = weight.T if turn else weight
            made = self.weight
            scale = np.maximum(np.abs(weight).max(axis=0) / made.levels, SMALLEST_SCALE)
            rounded = np.clip(np.rint(weight / scale), -made.levels, made.levels)
            stored = (rounded + made.zero_point).astype(made.dtype)
            self._store(integers, np.ascontiguousarray(stored))
            self._store(scales, scale.astype(np.float32))
        return integers, scales

    def _drop_unused(self) -> None:
        """Take out the float32 weights that nothing reads any more."""
        graph = self.model.graph
        used = {name for node in graph.node for name in node.input}
        left = [w for w in graph.initializer if w.name in used]
        del graph.initializer[:]
        graph.initializer.extend(left)
