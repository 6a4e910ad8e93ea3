"""float32 graphs -> float16, but for what float16 cannot hold.

A tensor has a float32 name, a float16 name or both, with a Cast between them where both are asked
for. Three things stay in float32: what is told (`kept`); *whole* numbers, made of token ids and
masks without a weight, such as distances, whose rounding would move a token into another bucket;
and, of a network with root mean square norms (T5), the running sum from the embedding on, with its
norms and the products that are added to it: it grows beyond 65,504 there (transformers#4586,
CTranslate2#1074). Of these products the weights get 11 bits, float16's precision with float32's
range: the tensor cores' TF32 holds them as it holds the float16 that they are multiplied with, so a
GPU computes them at its own speed and as exactly (`bundle.BundleFolder.tensor_cores`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.export.graphs import graph_edits as graphs
from engine.export.graphs import storage

FLOAT, HALF = 1, 10
MOST = 65504.0
# T5's feed-forward output, in an encoder and in a step graph.
_OVERFLOWS = re.compile(r"(.*/)?DenseReluDense/wo/MatMul|layer\.\d+/narrow")
_RMS = "SkipSimplifiedLayerNormalization"
_SQUARES = {"Pow", "ReduceMean", "Sqrt", _RMS}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul"}
# Without a form for float16.
_NO_HALF = {"Range", "ConstantOfShape", "RandomNormal", "If", "Loop", "Scan"}
# Through these ids are still ids.
_SAME = {"Reshape", "Split", "Cast", "Unsqueeze", "Squeeze", "Identity"}


def half(model: Any, kept: Collection[str] = (), there: Collection[str] = ()) -> None:
    """Turn a graph into float16; the model is changed.

    Args:
        kept: Names of nodes that stay in float32.
        there: Patterns of inputs and outputs that become float16 themselves; others stay as they
            are.

    Raises:
        ExportError: ONNX Runtime does not load it.
    """
    _store_constants(model.graph)
    _Halving(model.graph, storage.types(model), set(kept), tuple(there)).run()


def _store_constants(graph: Any) -> None:
    """Constant nodes as initializers."""
    from onnx import helper

    left = []
    for node in graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and "value" in values:
            graph.initializer.add().CopyFrom(values["value"])
            graph.initializer[-1].name = node.output[0]
        else:
            left.append(node)
    del graph.node[:]
    graph.node.extend(left)


@dataclass
class _Halving:
    graph: Any
    types: dict[str, int]
    kept: set[str]
    there: tuple[str, ...]
    nodes: list[Any] = field(default_factory=list)
    # Names under which a tensor is there.
    full: dict[str, str] = field(default_factory=dict)
    halves: dict[str, str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)

    def run(self) -> None:
        from onnx import numpy_helper

        graph = self.graph
        self.constants = {w.name: w for w in graph.initializer if w.data_type == FLOAT}
        self.sizes = {name: len(numpy_helper.to_array(w).ravel()) for name, w in
                      self.constants.items()}  # fmt: skip
        self.squares = any(
            node.op_type == _RMS or "DenseReluDense" in node.name for node in graph.node
        )
        self.leaving = {v.name for v in (*graph.input, *graph.output) if self._is_there(v.name)}
        borders = {v.name for v in (*graph.input, *graph.output)}
        self.staying = (borders - self.leaving) | self.constants.keys()
        for value in graph.input:
            self._input(value)
        for node in graph.node:
            self._node(node)
        for value in graph.output:
            self._output(value)
        del graph.node[:]
        graph.node.extend(self.nodes)
        self._weights()

    def _input(self, value: Any) -> None:
        kind = value.type.tensor_type
        if kind.elem_type != FLOAT:
            self.ids.add(value.name)
        elif self._is_there(value.name):
            kind.elem_type = HALF
            self.halves[value.name] = value.name
        else:
            self.full[value.name] = value.name

    def _output(self, value: Any) -> None:
        kind = value.type.tensor_type
        if kind.elem_type != FLOAT:
            return
        if self._is_there(value.name):
            kind.elem_type = HALF
        else:
            self._as(value.name, FLOAT)

    def _is_there(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.there)

    def _node(self, node: Any) -> None:
        floats = [n for n in graphs.reads(node) if self.types.get(n) == FLOAT]
        made = [n for n in node.output if self.types.get(n) == FLOAT]
        if node.op_type in _SAME and self.ids & set(node.input):
            self.ids.update(n for n in node.output if self.types.get(n) != FLOAT)
        whole = all(n in self.whole or self.sizes.get(n) == 1 for n in floats)
        if whole:
            self.whole.update(made)
        full = bool(floats or made) and (whole or self._stays(node, floats))
        kind = FLOAT if full else HALF
        if full and self.squares and node.op_type in _PRODUCTS:
            self.short |= self.constants.keys() & set(floats)
        inside = {n for a in node.attribute if a.HasField("g") for n in self._inner(a.g)}
        for name in inside & set(floats):
            self._as(name, FLOAT)
        node.input[:] = [self._as(n, kind) if self.types.get(n) == FLOAT else n for n in node.input]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = kind
        names = self.full if full else self.halves
        node.output[:] = [self._named(n, names) if n in made else n for n in node.output]
        self.nodes.append(node)

    def _inner(self, graph: Any) -> Iterable[str]:
        return (name for node in graph.node for name in graphs.reads(node))

    def _named(self, name: str, names: dict[str, str]) -> str:
        """The name that a tensor is made under: its own, unless it is there already or, where it
        comes from elsewhere or leaves, of another type."""
        full = names is self.full
        others = self.halves if full else self.full
        fits = name not in self.leaving if full else name not in self.staying
        own = fits and others.get(name) != name
        names[name] = name if own else f"{name}/{'full' if full else 'half'}"
        return names[name]

    def _stays(self, node: Any, floats: list[str]) -> bool:
        if node.name in self.kept or node.op_type in _NO_HALF:
            return True
        if not self.squares:
            return False
        if node.op_type in _PRODUCTS:
            return bool(_OVERFLOWS.fullmatch(node.name))
        if node.op_type in _SQUARES:
            return True
        if node.op_type == "Gather" and node.input[1] in self.ids:
            return True
        # The running sum, and what is made of it up to the next product.
        return any(n not in self.halves and n not in self.whole | self.constants.keys()
                   for n in floats)  # fmt: skip

    def _as(self, name: str, kind: int) -> str:
        """A tensor in float32 or float16, cast if it is not there so."""
        from onnx import helper

        names, others = (self.full, self.halves) if kind == FLOAT else (self.halves, self.full)
        if name not in names:
            made = self._named(name, names)
            if name not in self.constants:
                cast = helper.make_node("Cast", [others[name]], [made], f"{made}/cast", to=kind)
                self.nodes.append(cast)
        return names[name]

    def _weights(self) -> None:
        import numpy as np
        from onnx import numpy_helper

        left = [w for w in self.graph.initializer if w.data_type != FLOAT]
        for name, weight in self.constants.items():
            if name in self.full:
                array = numpy_helper.to_array(weight)
                array = shortened(array) if name in self.short else array
                left.append(numpy_helper.from_array(array, name))
            if name in self.halves:
                array = np.clip(numpy_helper.to_array(weight), -MOST, MOST).astype(np.float16)
                left.append(numpy_helper.from_array(array, self.halves[name]))
        del self.graph.initializer[:]
        self.graph.initializer.extend(left)


def shortened(array: Any) -> Any:
    """float32 numbers with 10 bits behind the point, not 23: the nearest, of two the even one."""
    import numpy as np

    bits = array.astype(np.float32).view(np.uint32)
    nearest = bits + 0xFFF + (bits >> 13 & 1)
    return (nearest & ~np.uint32(0x1FFF)).view(np.float32)
