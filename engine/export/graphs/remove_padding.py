"""An encoder that computes no padding, for a GPU.

Behind the embedding the rows' real tokens stand in one flat matrix (tokens, width), gathered from
the places that `flow.places` names, and where something reads rows again they are gathered back.
Between, PackedMultiHeadAttention takes the place of each scores, mask, softmax and sum, and is told
where rows begin (contrib_ops/cuda/bert; ONNX Runtime has it for CUDA only, and `standin` says on a
CPU what it says). Its RemovePadding and RestorePadding do what the gathering does, but compute the
places on the GPU, with one thread, and wait for how many there are.

Queries, keys and values come as three matrices without a bias: so the kernel is flash attention
whatever the length (packed as one they would take another up to 512 tokens), and with a bias of
positions, as T5 has it, the memory-efficient one at lengths that 8 divides. Sums with their norms,
and biases with their activation, become one pass over memory each: by ONNX Runtime's own fusions.
Keys lose their bias, which adds the same to all scores of a query and so nothing to its shares; the
values', of which each token takes shares that add up to one, goes into the bias behind the product
that follows.
"""

from __future__ import annotations

from typing import Any

from engine.export.graphs import graph_edits as graphs
from engine.export.graphs.match_attention import (
    Attention,
    AttentionMatches,
    Index,
    Sizes,
    UnsupportedGraph,
    find,
)
from engine.export.graphs.packed_attention_reference import ATTENTION

CONTRIB = "com.microsoft"
# Inputs beside those of the graph with padding, int32: see `flow.places`.
_PACKING = {"token_indices": ["tokens"], "inverse_indices": ["rows", "length"],
            "token_offset": ["rows", "length"], "cu_seqlens": ["edges"]}  # fmt: skip
# What may lie between an attention and the sum that it is added to.
_TO_SUM = ("MatMul", "Add", "Mul", "Cast", "SkipLayerNormalization")
# Along an axis, which has to be the last one.
_ON_AXIS = ("LayerNormalization", "ReduceMean")
# What is done to each token by itself; the other inputs are weights, or tokens as well.
_BY_TOKEN = {
    "Add", "BiasGelu", "Cast", "Div", "Erf", "FastGelu", "Gelu", "Identity", "LayerNormalization",
    "MatMul", "Mul", "Neg", "Pow", "ReduceMean", "Relu", "Sigmoid", "SkipLayerNormalization",
    "Sqrt", "Sub", "Tanh",
}  # fmt: skip


def remove_padding(model: Any, longest: int) -> bool:
    """Rewrite an encoder's float32 graph in place; False, and nothing done, where it has attention
    of another kind (DeBERTa's, or a decoder's behind it).

    Args:
        model: An ONNX ModelProto whose inputs are input_ids, attention_mask and, if it has them,
            token_type_ids, int64 (rows, length), rows padded on the right.
        longest: Tokens of a row at most.
    """
    copy = type(model)()
    copy.CopyFrom(model)
    _name_once(copy.graph)
    _fuse(copy)
    index = Index(copy.graph)
    try:
        _Packing(copy.graph, index).run(find(copy, index, longest))
    except UnsupportedGraph:
        return False
    if not any(opset.domain == CONTRIB for opset in copy.opset_import):
        copy.opset_import.add(domain=CONTRIB, version=1)
    model.CopyFrom(copy)
    return True


def _name_once(graph: Any) -> None:
    """Weights by their own names: torch's exporter gives equal ones another through an Identity,
    which fusions do not see through."""
    names = {w.name: w.name for w in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
        else:
            node.input[:] = [names.get(name, name) for name in node.input]
    left = [node for node in graph.node if node.output[0] not in names]
    graphs.set_items(graph.node, left)


def _fuse(model: Any) -> None:
    from onnxruntime.transformers import fusion_skiplayernorm
    from onnxruntime.transformers.fusion_biasgelu import FusionBiasGelu
    from onnxruntime.transformers.fusion_fastgelu import FusionFastGelu
    from onnxruntime.transformers.fusion_gelu import FusionGelu
    from onnxruntime.transformers.onnx_model import OnnxModel

    held = OnnxModel(model)
    FusionGelu(held).apply()
    FusionFastGelu(held).apply()
    fusion_skiplayernorm.FusionSkipLayerNormalization(held).apply()
    fusion_skiplayernorm.FusionBiasSkipLayerNormalization(held).apply()
    for fast in (False, True):
        FusionBiasGelu(held, is_fastgelu=fast).apply()


class _Packing:
    """A graph on its way; `flat` are the tensors whose first axis are tokens."""

    def __init__(self, graph: Any, index: Index) -> None:
        self.graph, self.index = graph, index
        self.ends = {output.name for output in graph.output}
        self.flat: set[str] = set()

    def run(self, found: AttentionMatches) -> None:
        entries = self._entries(found.attentions[0])
        self._free_shapes(found.shapes)
        self._attend(found.attentions)
        self._remove_padding(entries)
        graphs.sort(self.graph)
        self._drop_unused()
        begun = frozenset(self.flat)
        left = self._spread(begun)
        last = self._early(left) or self._common(begun, left)
        self._restore(self._spread(begun, last))

    def _entries(self, first: Attention) -> list[str]:
        """Where rows come from the embedding: what the first attention is added to and, where the
        same node makes that and its norm, what the attention reads."""
        made, fixed = self.index.made, self.index.fixed
        residual, read = self._residual(first.made), first.queries
        while (node := self.index.maker(read)).op_type != "MatMul":
            read = next((name for name in node.input if name not in fixed), "")
        read = node.input[0]
        both = read != residual and made.get(read) is made.get(residual)
        return [residual, read] if both else [residual]

    def _residual(self, name: str) -> str:
        """What an attention's outcome is added to."""
        while True:
            users = self.index.users(name)
            if len(users) != 1 or users[0].op_type not in _TO_SUM:
                raise UnsupportedGraph
            others = [given for given in users[0].input if given != name]
            if users[0].op_type == "SkipLayerNormalization":
                return str(others[0])
            if not self.index.fixed.issuperset(others):
                if users[0].op_type != "Add":
                    raise UnsupportedGraph
                return str(others[0])
            name = users[0].output[0]

    def _free_shapes(self, shapes: tuple[Sizes, ...]) -> None:
        """Sizes out of the shape of the mask, on the host: in the place of what they are told of
        there will be a flat matrix, and some were computed on the GPU and waited for."""
        import numpy as np

        if shapes:
            self._new("Shape", ["attention_mask"], ["packed/shape"])
        for one in shapes:
            fixed = [size for kind, size in one.values if kind == "fixed"]
            places = iter(range(2, 2 + len(fixed)))
            known = {"rows": 0, "length": 1}
            order = [known[kind] if kind in known else next(places) for kind, _ in one.values]
            index = np.array(order[0] if one.single else order, np.int64)
            inputs = [
                self._weight(f"{one.name}/{what}", np.array(numbers, np.int64))
                for what, numbers in (("fixed", fixed), ("order", index))
            ]
            self._new("Concat", ["packed/shape", inputs[0]], [f"{one.name}/all"], axis=0)
            self._new("Gather", [f"{one.name}/all", inputs[1]], [f"{one.name}/own"], axis=0)
            self._rename_inputs(one.name, f"{one.name}/own")

    def _attend(self, attentions: tuple[Attention, ...]) -> None:
        read = [[one.queries, self._keys(one), self._values(one)] for one in attentions]
        replaced = {one.made for one in attentions}
        left = [node for node in self.graph.node if node.output[0] not in replaced]
        graphs.set_items(self.graph.node, left)
        for one, matrices in zip(attentions, read, strict=True):
            inputs = [*matrices, "", "token_offset", "cu_seqlens"]
            if one.biases:
                inputs.append(self._sum(one.biases, one.made))
            more = {"num_heads": one.heads, "scale": one.scale, "domain": CONTRIB}
            self._new(ATTENTION, inputs, [one.made], **more)

    def _unbiased(self, name: str) -> tuple[str, str]:
        """What a bias, (width,), is added to, and the bias; the tensor and "" without one."""
        node = self.index.maker(name)
        biases = [one for one in node.input if self.index.rank(one) == 1]
        if node.op_type != "Add" or len(biases) != 1:
            return name, ""
        return next(one for one in node.input if one != biases[0]), biases[0]

    def _keys(self, one: Attention) -> str:
        return self._unbiased(one.keys)[0]

    def _values(self, one: Attention) -> str:
        """The values without their bias, where another behind the next product takes it."""
        values, bias = self._unbiased(one.values)
        users = self.index.users(one.made)
        if not bias or [node.op_type for node in users] != ["MatMul"]:
            return one.values
        product, following = users[0], self.index.users(users[0].output[0])
        if self.index.rank(product.input[1]) != 2 or len(following) != 1:
            return one.values
        inputs, place = following[0].input, self._bias_place(following[0])
        width = (self.index.dims(product.input[1]) or ())[:1]
        if place < 0 or self.index.dims(bias) != width:
            return one.values
        weight, first, second = map(self.index.array, (product.input[1], bias, inputs[place]))
        total = (second + first.astype("float64") @ weight).astype(second.dtype)
        # Its place, not its name: equal weights have one.
        inputs[place] = self._weight(f"{one.made}/bias", total)
        return values

    def _bias_place(self, node: Any) -> int:
        """Where a node takes the bias of a product that it reads; -1 where it takes none."""
        if node.op_type == "SkipLayerNormalization":
            return 4 if len(node.input) == 5 else -1
        places = [n for n, name in enumerate(node.input) if self.index.rank(name) == 1]
        return places[0] if node.op_type == "Add" and len(places) == 1 else -1

    def _sum(self, terms: tuple[str, ...], name: str) -> str:
        total = terms[0]
        for n, other in enumerate(terms[1:]):
            self._new("Add", [total, other], [f"{name}/bias{n}"])
            total = f"{name}/bias{n}"
        return total

    def _remove_padding(self, entries: list[str]) -> None:
        from onnx import helper

        for name, shape in _PACKING.items():
            self.graph.input.append(helper.make_tensor_value_info(name, 6, shape))
        for n, name in enumerate(entries):
            rows = f"packed/rows{n}"
            self.flat.add(rows)
            self._rename_inputs(name, rows)
            self._new("Flatten", [name], [f"{rows}/all"], axis=2)
            self._new("Gather", [f"{rows}/all", "token_indices"], [rows], axis=0)

    def _spread(self, begun: frozenset[str], last: str = "") -> set[str]:
        """Find out what is flat, behind `last` nothing; and what of it is asked for as rows."""
        self.flat, left = set(begun), set()
        for node in self.graph.node:
            flat = self.flat & set(node.input)
            by_token = bool(flat) and last not in flat and self._by_token(node)
            if node.op_type == ATTENTION and not by_token:
                raise UnsupportedGraph
            if by_token:
                self.flat.update(filter(None, node.output))
            else:
                left |= flat
        return left | (self.ends & self.flat)

    def _by_token(self, node: Any) -> bool:
        flat = [name in self.flat for name in node.input]
        if node.op_type == ATTENTION:
            return all(flat[:3])
        if node.op_type not in _BY_TOKEN or (node.op_type == "MatMul" and not flat[0]):
            return False
        if node.op_type in _ON_AXIS and self.index.axes(node) != [-1]:
            return False
        others = [name for name, own in zip(node.input, flat, strict=True) if not own and name]
        most = 2 if node.op_type == "MatMul" else 1
        return all(self.index.rank(name) <= most for name in others)

    def _early(self, left: set[str]) -> str:
        """What a last product is made of that is wider than it, such as a vocabulary's logits:
        they would be there twice. "" where there is none."""
        name = next(iter(left)) if len(left) == 1 else ""
        made, fixed = self.index.made, self.index.fixed
        if name in made and made[name].op_type == "Add":
            name = next((given for given in made[name].input if given not in fixed), "")
        if name not in made or made[name].op_type != "MatMul":
            return ""
        narrow, wide = self.index.dims(made[name].input[1]) or (0, 0)
        return str(made[name].input[0]) if wide > narrow > 0 else ""

    def _common(self, begun: frozenset[str], left: set[str]) -> str:
        """The last flat tensor that all of `left`, if they are several, are made of: less is
        gathered back. "" where there is none, or some attention comes behind it."""
        if len(left) < 2:
            return ""
        behind: dict[str, set[str]] = {name: {name} for name in begun}
        for node in self.graph.node:
            own = {one for name in node.input for one in behind.get(name, ())}
            behind |= {name: own | {name} for name in self.flat & set(node.output)}
        shared = set.intersection(*(behind[name] for name in left))
        last = next((name for name in reversed(behind) if name in shared), "")
        attended = [n.output[0] for n in self.graph.node if n.op_type == ATTENTION]
        return "" if any(last in behind[name] - {name} for name in attended) else last

    def _restore(self, left: set[str]) -> None:
        """Give rows to whatever asks for them; an output of the graph keeps its name."""
        rows = {name: f"{name}/rows" for name in left}
        flat = {name: f"{name}/flat" for name in left & self.ends}
        for node in self.graph.node:
            if not self.flat & set(node.output):
                node.input[:] = [rows.get(name, name) for name in node.input]
            node.input[:] = [flat.get(name, name) for name in node.input]
            node.output[:] = [flat.get(name, name) for name in node.output]
        for name in sorted(left):
            made = name if name in flat else rows[name]
            if name in flat:
                self._rename_inputs(rows[name], name)
            self._new("Gather", [flat.get(name, name), "inverse_indices"], [made], axis=0)
        graphs.sort(self.graph)

    def _drop_unused(self) -> None:
        graph, needed, left = self.graph, set(self.ends), []
        for node in reversed(graph.node):
            if needed & set(node.output):
                needed.update(graphs.reads(node))
                left.append(node)
        graphs.set_items(graph.node, left[::-1])
        graphs.set_items(graph.initializer, [w for w in graph.initializer if w.name in needed])

    def _new(self, op: str, inputs: list[str], made: list[str], **more: Any) -> None:
        from onnx import helper

        self.graph.node.append(helper.make_node(op, inputs, made, made[0], **more))

    def _weight(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(array, name))
        self.index.add(self.graph.initializer[-1])
        return name

    def _rename_inputs(self, name: str, new: str) -> None:
        for node in self.graph.node:
            node.input[:] = [new if given == name else given for given in node.input]
