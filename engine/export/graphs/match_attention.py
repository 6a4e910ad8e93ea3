"""An encoder's attentions, found in its graph by what surrounds each softmax.

How heads are split, scaled and masked is written in as many ways as there are families; what the
numbers are is found out by running the graph on a few sizes, not by reading it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.export.graphs import graph_edits as graphs
from engine.export.graphs import storage

# Rows' lengths and the padded length of the sizes that are tried; of a long one, rows' shares.
_SIZES = (((3, 7, 5), 7), ((13, 2, 8, 4, 1), 13))
_SHARES = (1.0, 0.4)
_INT64 = 7
# Added to a score, nothing is left of it.
_HIDES = -1e4
# What may lie between the product of queries and keys and the softmax.
_SUMS = ("Add", "Mul", "Div", "Cast")
_SPLITS, _TURNED = (0, 2, 1, 3), (0, 2, 3, 1)


class UnsupportedGraph(Exception):  # noqa: N818  # no error: such a graph stays as it is
    """The graph has something that is not known here."""


@dataclass(frozen=True)
class Attention:
    """One of them; names are those of tensors.

    Attributes:
        queries, keys, values: As products left them, (rows, length, width).
        made: (rows, length, width), in front of the last product.
        heads: How many.
        scale: What scores are multiplied with.
        biases: What is added to them beside the mask, (rows or 1, heads, length, length).
    """

    queries: str
    keys: str
    values: str
    made: str
    heads: int
    scale: float
    biases: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """A tensor of sizes: int64 (n,), or (), where it is `single`.

    Attributes:
        values: Of each ("rows", 0), ("length", 0) or ("fixed", size).
    """

    name: str
    values: tuple[tuple[str, int], ...]
    single: bool


@dataclass(frozen=True)
class AttentionMatches:
    """What `find` gives.

    Attributes:
        attentions: In the order of the graph.
        shapes: What Shape says of tensors that are made in the graph, and what is made of it to be
            read as a shape or as an end.
    """

    attentions: tuple[Attention, ...]
    shapes: tuple[Sizes, ...]


@dataclass
class _Split:
    """An attention before it is tried: as `Attention`, with the names of numbers.

    `split` are queries, keys and values as products take them, (rows, heads, ...); of `scales`
    those with False divide.
    """

    queries: str = ""
    keys: str = ""
    values: str = ""
    split: tuple[str, ...] = ()
    made: str = ""
    scales: list[tuple[str, bool]] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)


class Index:
    """A graph's nodes by what they make and read; `fixed` are weights, and what only they make."""

    def __init__(self, graph: Any) -> None:
        self.made = {name: node for node in graph.node for name in node.output if name}
        self.used: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in graphs.reads(node):
                self.used.setdefault(name, []).append(node)
        self.fixed = {w.name for w in graph.initializer}
        for node in graph.node:
            if self.fixed.issuperset(node.input):
                self.fixed.update(node.output)

        self._tensors = {w.name: w for w in graph.initializer}
        for node in graph.node:
            values = {a.name: a.t for a in node.attribute if a.name == "value"}
            if node.op_type == "Constant" and values:
                self._tensors[node.output[0]] = values["value"]

    def add(self, weight: Any) -> None:
        """A new weight, a TensorProto."""
        self.fixed.add(weight.name)
        self._tensors[weight.name] = weight

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Of a weight, as it is stored; None of anything else."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(tensor.dims)

    def array(self, name: str) -> Any:
        """Numbers of a weight."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name])

    def rank(self, name: str) -> float:
        """Axes of a weight; of anything else too many."""
        dims = self.dims(name)
        return float("inf") if dims is None else len(dims)

    def axes(self, node: Any) -> list[int]:
        """What a norm or a mean runs along."""
        from onnx import helper, numpy_helper

        told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "LayerNormalization":
            return [int(told.get("axis", -1))]
        if "axes" in told or len(node.input) < 2:
            return [int(axis) for axis in told.get("axes", ())]
        tensor = self._tensors.get(node.input[1])
        return [] if tensor is None else numpy_helper.to_array(tensor).ravel().tolist()

    def maker(self, name: str) -> Any:
        if name not in self.made:
            raise UnsupportedGraph
        return self.made[name]

    def users(self, name: str) -> list[Any]:
        """Who reads its numbers."""
        return [node for node in self.used.get(name, []) if node.op_type != "Shape"]

    def only(self, name: str, op: str) -> Any:
        users = self.users(name)
        if [node.op_type for node in users] != [op]:
            raise UnsupportedGraph
        return users[0]

    def reads(self, name: str, source: str) -> bool:
        """Whether a tensor's numbers, not only its shape, come from an input."""
        waiting, seen = [name], set()
        while waiting:
            one = waiting.pop()
            if one == source:
                return True
            node = self.made.get(one)
            if one in seen or node is None or node.op_type == "Shape":
                continue
            seen.add(one)
            waiting += graphs.reads(node)
        return False


def find(model: Any, index: Index, longest: int) -> AttentionMatches:
    """Every attention of an encoder, each over all real tokens of its row.

    Args:
        model: An ONNX ModelProto, inputs as `packed.packed` takes them.
        longest: Tokens of a row at most: what is hidden from far away only shows there.

    Raises:
        Strange: There is none, or one of another kind.
    """
    splits = [_split(node, index) for node in model.graph.node if node.op_type == "Softmax"]
    if not splits:
        raise UnsupportedGraph
    shapes = _shapes(model, index)
    names = set(shapes)
    for one in splits:
        names |= {*one.split, *one.terms, *(name for name, _ in one.scales)}
    long = (tuple(max(1, int(share * longest)) for share in _SHARES), longest)
    sizes = [*_SIZES, *([long] if longest > _SIZES[-1][1] else [])]
    tried = [_tried(model, names, *size) for size in sizes]
    return AttentionMatches(
        tuple(_settled(one, index, tried) for one in splits),
        tuple(_sizes(name, tried) for name in shapes),
    )


# --- reading


def _shapes(model: Any, index: Index) -> list[str]:
    """Names of tensors that are sizes and not known beforehand."""
    graph, kinds = model.graph, storage.types(model)
    told = [n.output[0] for n in graph.node if n.op_type == "Shape" and n.input[0] in index.made]
    places = {"Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2)}
    read = [n.input[place] for n in graph.node for place in places.get(n.op_type, ())]
    found = {*told, *(name for name in read if kinds.get(name) == _INT64)} - index.fixed
    if any(index.reads(name, given) for name in found for given in ("input_ids", "attention_mask")):
        raise UnsupportedGraph
    return sorted(found)


def _split(softmax: Any, index: Index) -> _Split:
    one = _Split()
    product = _scores(softmax.input[0], index, one)
    mixed = _mixed(softmax.output[0], index)
    one.queries = _whole(product.input[0], index, one.scales, _SPLITS)
    one.keys = _whole(product.input[1], index, one.scales, _TURNED)
    one.values = _whole(mixed.input[1], index, [], _SPLITS)
    one.split = (product.input[0], product.input[1], mixed.input[1])
    turned = index.only(mixed.output[0], "Transpose")
    if _perm(turned) != _SPLITS:
        raise UnsupportedGraph
    one.made = index.only(turned.output[0], "Reshape").output[0]
    return one


def _scores(name: str, index: Index, one: _Split) -> Any:
    """The product of queries and keys, from what the softmax reads on; what lies between goes into
    `scales` and `terms`."""
    while (node := index.maker(name)).op_type != "MatMul":
        inner = [given for given in node.input if _leads(given, index)]
        if node.op_type not in _SUMS or len(inner) != 1:
            raise UnsupportedGraph
        if node.op_type == "Div" and inner[0] != node.input[0]:
            raise UnsupportedGraph
        for other in (given for given in node.input if given != inner[0]):
            if node.op_type != "Add":
                one.scales.append((other, node.op_type == "Mul"))
            elif one.scales:
                raise UnsupportedGraph
            else:
                one.terms += _terms(other, index)
        name = inner[0]
    return node


def _leads(name: str, index: Index) -> bool:
    """Whether a part of a sum holds the product of queries and keys."""
    node = index.made.get(name)
    if node is None:
        return False
    if node.op_type == "MatMul":
        return node.input[1] not in index.fixed
    return node.op_type in _SUMS and any(_leads(given, index) for given in node.input)


def _terms(name: str, index: Index) -> list[str]:
    node = index.made.get(name)
    if node is None or node.op_type != "Add":
        return [name]
    return [term for given in node.input for term in _terms(given, index)]


def _whole(name: str, index: Index, scales: list[tuple[str, bool]], wanted: tuple[int, ...]) -> str:
    """What was split into heads; `wanted` is the order of axes behind."""
    order: tuple[int, ...] = (0, 1, 2, 3)
    while True:
        node = index.maker(name)
        if node.op_type == "Transpose":
            order = tuple(_perm(node)[axis] for axis in order)
        elif node.op_type in ("Mul", "Div") and _is_scale(node.input[1], index):
            scales.append((node.input[1], node.op_type == "Mul"))
        elif node.op_type == "Reshape" and order == wanted:
            return str(node.input[0])
        else:
            raise UnsupportedGraph
        name = node.input[0]


def _is_scale(name: str, index: Index) -> bool:
    """Whether it may be a number: no row's state is in it. `_scale` makes sure."""
    return name in index.fixed or not index.reads(name, "input_ids")


def _mixed(shares: str, index: Index) -> Any:
    """The product of the softmax and the values."""
    users = index.users(shares)
    if {node.op_type for node in users} == {"IsNaN", "Where"}:
        # torch gives zeros to a row that attends to nothing.
        shares = next(node for node in users if node.op_type == "Where").output[0]
    return index.only(shares, "MatMul")


def _perm(node: Any) -> tuple[int, ...]:
    return tuple(next(a.ints for a in node.attribute if a.name == "perm"))


# --- trying


def _tried(model: Any, names: set[str], lengths: tuple[int, ...], width: int) -> dict[str, Any]:
    """Tensors of the graph on rows of these lengths, by name; and the rows' mask."""
    import numpy as np

    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    feeds = {"input_ids": mask, "attention_mask": mask, "token_type_ids": 0 * mask}
    probe = type(model)()
    probe.CopyFrom(model)
    kept = {w.name for w in model.graph.initializer}
    found = storage.watch(probe, feeds, sorted(names - kept))
    return {**found, **_weights(model, names & kept), "attention_mask": mask}


def _weights(model: Any, names: Iterable[str]) -> dict[str, Any]:
    from onnx import numpy_helper

    kept = {w.name: w for w in model.graph.initializer}
    return {name: numpy_helper.to_array(kept[name]) for name in names}


def _settled(one: _Split, index: Index, tried: list[dict[str, Any]]) -> Attention:
    if any(index.reads(term, "input_ids") for term in one.terms):
        raise UnsupportedGraph
    heads = int(tried[0][one.split[0]].shape[1])
    if any(seen[name].shape[1] != heads for seen in tried for name in one.split):
        raise UnsupportedGraph
    biases = tuple(term for term in one.terms if not index.reads(term, "attention_mask"))
    for seen in tried:
        mask = seen["attention_mask"]
        good = [
            _is_bias(seen[term], mask, heads) if term in biases else _hides(seen[term], mask)
            for term in one.terms
        ]
        if not all(good):
            raise UnsupportedGraph
    scale = _scale(one.scales, tried)
    return Attention(one.queries, one.keys, one.values, one.made, heads, scale, biases)


def _scale(scales: list[tuple[str, bool]], tried: list[dict[str, Any]]) -> float:
    import numpy as np

    scale = 1.0
    for name, times in scales:
        values = np.unique(np.concatenate([np.ravel(seen[name]) for seen in tried]))
        if len(values) != 1:
            raise UnsupportedGraph
        scale *= float(values[0]) ** (1 if times else -1)
    return scale


def _is_bias(term: Any, mask: Any, heads: int) -> bool:
    rows, width = mask.shape
    return term.shape in {(1, heads, width, width), (rows, heads, width, width)}


def _hides(term: Any, mask: Any) -> bool:
    """Whether a term hides the padding, for every token alike, and nothing else."""
    import numpy as np

    rows, width = mask.shape
    if term.shape not in {(rows, 1, 1, width), (rows, 1, width, width)}:
        return False
    real = np.broadcast_to((mask == 1)[:, None, None, :], term.shape)
    return bool((term[real] == 0).all() and (term[~real] <= _HIDES).all())


def _sizes(name: str, tried: list[dict[str, Any]]) -> Sizes:
    import numpy as np

    shapes = [seen["attention_mask"].shape for seen in tried]
    told = [np.ravel(seen[name]).astype(int).tolist() for seen in tried]
    sizes = []
    for values in zip(*told, strict=True):
        if values == tuple(shape[0] for shape in shapes):
            sizes.append(("rows", 0))
        elif values == tuple(shape[1] for shape in shapes):
            sizes.append(("length", 0))
        elif len(set(values)) == 1:
            sizes.append(("fixed", values[0]))
        else:
            raise UnsupportedGraph
    return Sizes(name, tuple(sizes), single=not tried[0][name].ndim)
