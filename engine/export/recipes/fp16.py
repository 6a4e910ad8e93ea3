"""float32 graphs -> float16, except for what float16 cannot hold.

A tensor has a float32 name, a float16 name or both, with a Cast between them where both are read.
Three things stay in float32: the nodes that the caller names; *exact* numbers, computed from token
ids and masks without a weight, such as distances, whose rounding would move a token into another
bucket; and, of a network with root mean square norms (T5), the running sum from the embedding on,
with its norms and the products that are added to it, because it grows beyond 65,504 there
(transformers#4586, CTranslate2#1074). Weights of these products are rounded to 11 bits, float16's
precision with float32's range: the tensor cores' TF32 holds them exactly, as it holds the float16
that they are multiplied with, so a GPU computes these products in TF32 without loss
(`GraphRecord.tf32`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export.graphs import graph_edits as graphs
from engine.export.graphs import storage

FLOAT, HALF = 1, 10
LARGEST = 65504.0
# T5's feed-forward output, in an encoder and in a step graph.
_OVERFLOWS = re.compile(r"(.*/)?DenseReluDense/wo/MatMul|layer\.\d+/narrow")
_RMS = "SkipSimplifiedLayerNormalization"
_SQUARES = {"Pow", "ReduceMean", "Sqrt", _RMS}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul"}
# Without a form for float16.
_FLOAT_ONLY = {"Range", "ConstantOfShape", "RandomNormal", "If", "Loop", "Scan"}
# Ids stay ids through these.
_KEEPS_IDS = {"Reshape", "Split", "Cast", "Unsqueeze", "Squeeze", "Identity"}


def convert(model: Any, full: Collection[str] = (), narrow: Collection[str] = ()) -> None:
    """Turn a graph into float16.

    Args:
        model: An ONNX ModelProto; changed in place.
        full: Names of nodes that stay in float32.
        narrow: Patterns of inputs and outputs that become float16 themselves; the others keep their
            types.

    Raises:
        ExportError: ONNX Runtime does not load it.
    """
    _store_constants(model.graph)
    _Conversion(model.graph, storage.types(model), set(full), tuple(narrow)).run()


def _store_constants(graph: Any) -> None:
    """Constant nodes as initializers."""
    from onnx import helper

    nodes = []
    for node in graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and "value" in values:
            graph.initializer.add().CopyFrom(values["value"])
            graph.initializer[-1].name = node.output[0]
        else:
            nodes.append(node)
    graphs.set_items(graph.node, nodes)


@dataclass
class _Conversion:
    """One graph on its way to float16; `nodes` is the new list, in topological order.

    `in_float` and `in_half` have the names that a tensor has in each type. Of tensors, `exact` are
    computed without a weight, `ids` are integers, and `shortened` are weights to be rounded to 11
    bits.
    """

    graph: Any
    types: dict[str, int]
    full: set[str]
    narrow: tuple[str, ...]
    nodes: list[Any] = field(default_factory=list)
    in_float: dict[str, str] = field(default_factory=dict)
    in_half: dict[str, str] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    shortened: set[str] = field(default_factory=set)

    def run(self) -> None:
        graph = self.graph
        self.constants = {w.name: w for w in graph.initializer if w.data_type == FLOAT}
        self.scalars = {n for n, w in self.constants.items() if np.prod(w.dims, initial=1) == 1}
        self.has_rms_norms = any(
            node.op_type == _RMS or "DenseReluDense" in node.name for node in graph.node
        )
        borders = {v.name for v in (*graph.input, *graph.output)}
        self.narrow_borders = {name for name in borders if self._is_narrow(name)}
        # In float32 these keep their names.
        self.named_in_float = (borders - self.narrow_borders) | self.constants.keys()
        for value in graph.input:
            self._convert_input(value)
        for node in graph.node:
            self._convert_node(node)
        for value in graph.output:
            self._convert_output(value)
        graphs.set_items(graph.node, self.nodes)
        self._convert_weights()

    def _convert_input(self, value: Any) -> None:
        kind = value.type.tensor_type
        if kind.elem_type != FLOAT:
            self.ids.add(value.name)
        elif self._is_narrow(value.name):
            kind.elem_type = HALF
            self.in_half[value.name] = value.name
        else:
            self.in_float[value.name] = value.name

    def _convert_output(self, value: Any) -> None:
        kind = value.type.tensor_type
        if kind.elem_type != FLOAT:
            return
        if self._is_narrow(value.name):
            kind.elem_type = HALF
        else:
            self._as(value.name, FLOAT)

    def _is_narrow(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.narrow)

    def _convert_node(self, node: Any) -> None:
        floats = [n for n in graphs.reads(node) if self.types.get(n) == FLOAT]
        computed = [n for n in node.output if self.types.get(n) == FLOAT]
        kind = self._type_of(node, floats, computed)
        if kind == FLOAT and self.has_rms_norms and node.op_type in _PRODUCTS:
            self.shortened |= self.constants.keys() & set(floats)
        branches = {n for a in node.attribute if a.HasField("g") for n in _reads_within(a.g)}
        for name in sorted(branches & set(floats)):
            self._as(name, FLOAT)
        node.input[:] = [self._as(n, kind) if self.types.get(n) == FLOAT else n for n in node.input]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = kind
        node.output[:] = [self._name(n, kind) if n in computed else n for n in node.output]
        self.nodes.append(node)

    def _type_of(self, node: Any, floats: list[str], computed: list[str]) -> int:
        """FLOAT or HALF: what a node computes in; records what is exact and what are ids."""
        if node.op_type in _KEEPS_IDS and self.ids & set(node.input):
            self.ids.update(n for n in node.output if self.types.get(n) != FLOAT)
        exact = all(n in self.exact or n in self.scalars for n in floats)
        if exact:
            self.exact.update(computed)
        in_float = bool(floats or computed) and (exact or self._stays_float(node, floats))
        return FLOAT if in_float else HALF

    def _stays_float(self, node: Any, floats: list[str]) -> bool:
        if node.name in self.full or node.op_type in _FLOAT_ONLY:
            return True
        if not self.has_rms_norms:
            return False
        if node.op_type in _PRODUCTS:
            return bool(_OVERFLOWS.fullmatch(node.name))
        if node.op_type in _SQUARES:
            return True
        if node.op_type == "Gather" and node.input[1] in self.ids:
            return True
        # The running sum, and what is computed from it up to the next product.
        return any(n not in self.in_half and n not in self.exact | self.constants.keys()
                   for n in floats)  # fmt: skip

    def _name(self, name: str, kind: int) -> str:
        """Name a tensor in a type: its own name, unless the other type has it or must have it."""
        if kind == FLOAT:
            names, others, own = self.in_float, self.in_half, name not in self.narrow_borders
        else:
            names, others, own = self.in_half, self.in_float, name not in self.named_in_float
        own = own and others.get(name) != name
        names[name] = name if own else f"{name}/{'full' if kind == FLOAT else 'half'}"
        return names[name]

    def _as(self, name: str, kind: int) -> str:
        """A tensor's name in a type; it is cast if it has none."""
        from onnx import helper

        names, others = self.in_float, self.in_half
        if kind == HALF:
            names, others = others, names
        if name not in names:
            cast = self._name(name, kind)
            if name not in self.constants:
                node = helper.make_node("Cast", [others[name]], [cast], f"{cast}/cast", to=kind)
                self.nodes.append(node)
        return names[name]

    def _convert_weights(self) -> None:
        from onnx import numpy_helper

        weights = [w for w in self.graph.initializer if w.data_type != FLOAT]
        for name, weight in self.constants.items():
            array = numpy_helper.to_array(weight)
            if name in self.in_float:
                stored = shorten(array) if name in self.shortened else array
                weights.append(numpy_helper.from_array(stored, name))
            if name in self.in_half:
                stored = np.clip(array, -LARGEST, LARGEST).astype(np.float16)
                weights.append(numpy_helper.from_array(stored, self.in_half[name]))
        graphs.set_items(self.graph.initializer, weights)


def _reads_within(graph: Any) -> Iterable[str]:
    return (name for node in graph.node for name in graphs.reads(node))


def shorten(array: NDArray[Any]) -> NDArray[np.float32]:
    """Round to float32 numbers with 10 bits behind the point, not 23; ties to even."""
    bits = array.astype(np.float32).view(np.uint32)
    nearest = bits + 0xFFF + (bits >> 13 & 1)
    return (nearest & ~np.uint32(0x1FFF)).view(np.float32)
