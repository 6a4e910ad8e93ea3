"""A graph's nodes by the tensors that they compute and read, and its weights by name."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from engine.export.graphs.graph_edits import reads


class UnsupportedGraph(Exception):  # noqa: N818  # no error: such a graph keeps its padding
    """The graph has something that is not known here."""


class GraphIndex:
    """An index of an ONNX GraphProto.

    Attributes:
        makers: Nodes by the tensors that they compute.
        constant: Tensors that depend on weights only.
    """

    def __init__(self, graph: Any) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in reads(node):
                self._readers.setdefault(name, []).append(node)
        self.constant = {w.name for w in graph.initializer}
        for node in graph.node:
            if self.constant.issuperset(node.input):
                self.constant.update(node.output)
        self._tensors = {w.name: w for w in graph.initializer}
        for node in graph.node:
            values = {a.name: a.t for a in node.attribute if a.name == "value"}
            if node.op_type == "Constant" and values:
                self._tensors[node.output[0]] = values["value"]

    def add(self, weight: Any) -> None:
        """A new weight, a TensorProto."""
        self.constant.add(weight.name)
        self._tensors[weight.name] = weight

    def maker(self, name: str) -> Any:
        """The node that computes a tensor.

        Raises:
            UnsupportedGraph: It is an input or a weight.
        """
        if name not in self.makers:
            raise UnsupportedGraph
        return self.makers[name]

    def readers(self, name: str) -> list[Any]:
        """The nodes that read a tensor's numbers, not only its shape."""
        return [node for node in self._readers.get(name, []) if node.op_type != "Shape"]

    def only_reader(self, name: str, op: str) -> Any:
        """The one node that reads a tensor's numbers.

        Raises:
            UnsupportedGraph: There are others, or it is another op.
        """
        readers = self.readers(name)
        if [node.op_type for node in readers] != [op]:
            raise UnsupportedGraph
        return readers[0]

    def depends_on(self, name: str, source: str) -> bool:
        """Whether a tensor's numbers, not only its shape, come from an input."""
        waiting, seen = [name], set()
        while waiting:
            tensor = waiting.pop()
            if tensor == source:
                return True
            node = self.makers.get(tensor)
            if tensor in seen or node is None or node.op_type == "Shape":
                continue
            seen.add(tensor)
            waiting += reads(node)
        return False

    def dims(self, name: str) -> tuple[int, ...] | None:
        """The shape of a weight; None of any other tensor."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(tensor.dims)

    def rank(self, name: str) -> float:
        """How many axes a weight has; infinite of any other tensor."""
        dims = self.dims(name)
        return math.inf if dims is None else len(dims)

    def array(self, name: str) -> NDArray[Any]:
        """The numbers of a weight."""
        from onnx import numpy_helper

        array: NDArray[Any] = numpy_helper.to_array(self._tensors[name])
        return array

    def axes(self, node: Any) -> list[int]:
        """The axes of a norm or a mean; none where they are not constant."""
        from onnx import helper

        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "LayerNormalization":
            return [int(values.get("axis", -1))]
        if "axes" in values or len(node.input) < 2:
            return [int(axis) for axis in values.get("axes", ())]
        axes = node.input[1]
        return [int(axis) for axis in self.array(axes).ravel()] if axes in self._tensors else []
