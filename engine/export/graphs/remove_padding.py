"""Rewrites an encoder for a GPU so that it computes no padding.

After the embedding, the rows' real tokens are gathered into one matrix (tokens, width), and where
something reads rows again they are gathered back (see `runtime.packing`). In between,
PackedMultiHeadAttention replaces each scores, mask, softmax and sum, and is given where rows begin
(contrib_ops/cuda/bert; ONNX Runtime has it for CUDA only, `packed_attention_reference` for a CPU).
ONNX Runtime's RemovePadding and RestorePadding gather the same, but compute the positions on the
GPU with one thread, and the host waits for their number.

Queries, keys and values are three matrices without a bias: so the kernel is flash attention at any
length (one matrix of all three takes another kernel up to 512 tokens), and with a bias of
positions, as in T5, the memory-efficient one at multiples of 8. ONNX Runtime's own fusions make one
pass over memory of a sum with its norm, and of a bias with its activation. The key bias is dropped
(softmax is invariant to a per-query constant) and the value bias is folded into the output
projection's bias (attention weights sum to 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export.graphs import graph_edits as graphs
from engine.export.graphs.attention_probe import Attention, ShapeTensor
from engine.export.graphs.graph_index import GraphIndex, UnsupportedGraph
from engine.export.graphs.match_attention import AttentionMatches, find_attentions
from engine.export.graphs.packed_attention_reference import ATTENTION
from engine.export.graphs.packed_region import packed_region

CONTRIB = "com.microsoft"
# What the real tokens of a tensor are called where its own name stays that of its rows.
TOKENS = "/packed"
# The inputs that are added, int32: see `runtime.packing.packing_inputs`.
_PACKING = {
    "token_indices": ["tokens"],
    "inverse_indices": ["rows", "length"],
    "token_offset": ["rows", "length"],
    "cu_seqlens": ["edges"],
}
# What may lie between an attention and the sum that it is added to.
_TO_SUM = ("MatMul", "Add", "Mul", "Cast", "SkipLayerNormalization")


def remove_padding(model: Any, max_length: int, *, fused: bool = True) -> bool:
    """Rewrite an encoder's float32 graph in place.

    Args:
        model: An ONNX ModelProto whose inputs are input_ids, attention_mask and, if it has them,
            token_type_ids, int64 (rows, length), rows padded on the right.
        max_length: Tokens of a row at most.
        fused: Make one node of a sum with its norm, and of a bias with its activation.

    Returns:
        False, with the graph unchanged, where its attention is of another kind (DeBERTa's, or that
        of a decoder after the encoder).
    """
    copy = type(model)()
    copy.CopyFrom(model)
    graphs.bypass_identities(copy.graph)
    if fused:
        _fuse(copy)
    index = GraphIndex(copy.graph)
    try:
        _PaddingRemover(copy.graph, index).run(find_attentions(copy, index, max_length))
    except UnsupportedGraph:
        return False
    if not any(opset.domain == CONTRIB for opset in copy.opset_import):
        copy.opset_import.add(domain=CONTRIB, version=1)
    model.CopyFrom(copy)
    return True


def _fuse(model: Any) -> None:
    from onnxruntime.transformers import fusion_skiplayernorm
    from onnxruntime.transformers.fusion_biasgelu import FusionBiasGelu
    from onnxruntime.transformers.fusion_fastgelu import FusionFastGelu
    from onnxruntime.transformers.fusion_gelu import FusionGelu
    from onnxruntime.transformers.onnx_model import OnnxModel

    wrapped = OnnxModel(model)
    FusionGelu(wrapped).apply()
    FusionFastGelu(wrapped).apply()
    fusion_skiplayernorm.FusionSkipLayerNormalization(wrapped).apply()
    fusion_skiplayernorm.FusionBiasSkipLayerNormalization(wrapped).apply()
    for is_fastgelu in (False, True):
        FusionBiasGelu(wrapped, is_fastgelu=is_fastgelu).apply()


class _PaddingRemover:
    """The edits of one graph; the `index` is of the graph before them."""

    def __init__(self, graph: Any, index: GraphIndex) -> None:
        self.graph, self.index = graph, index
        self.outputs = {output.name for output in graph.output}

    def run(self, matches: AttentionMatches) -> None:
        entries = self._entries(matches.attentions[0])
        self._replace_shapes(matches.shapes)
        self._replace_attentions(matches.attentions)
        packed = self._pack(entries)
        graphs.sort(self.graph)
        self._drop_unused()
        region = packed_region(self.graph, self.index, packed)
        self._unpack(region.tensors, region.read_as_rows)

    def _entries(self, first: Attention) -> list[str]:
        """Where rows come from the embedding: what the first attention is added to and, where one
        node computes that and its norm, what the attention reads."""
        makers, constant = self.index.makers, self.index.constant
        residual, read = self._residual(first.output), first.queries
        while (node := self.index.maker(read)).op_type != "MatMul":
            read = next((name for name in node.input if name not in constant), "")
        read = node.input[0]
        both = read != residual and makers.get(read) is makers.get(residual)
        return [residual, read] if both else [residual]

    def _residual(self, name: str) -> str:
        """What an attention's output is added to."""
        while True:
            readers = self.index.readers(name)
            if len(readers) != 1 or readers[0].op_type not in _TO_SUM:
                raise UnsupportedGraph
            others = [source for source in readers[0].input if source != name]
            if readers[0].op_type == "SkipLayerNormalization":
                return str(others[0])
            if not self.index.constant.issuperset(others):
                if readers[0].op_type != "Add":
                    raise UnsupportedGraph
                return str(others[0])
            name = readers[0].output[0]

    def _replace_shapes(self, shapes: tuple[ShapeTensor, ...]) -> None:
        """Compute sizes from the shape of the mask, on the host: the tensors whose shapes they are
        become packed, and some were computed on the GPU and waited for."""
        if shapes:
            self._add("Shape", ["attention_mask"], "packed/shape")
        for tensor in shapes:
            fixed = [size for kind, size in tensor.sizes if kind == "fixed"]
            # Positions within the mask's shape, followed by the fixed sizes.
            positions = iter(range(2, 2 + len(fixed)))
            known = {"rows": 0, "length": 1}
            order = [known[kind] if kind in known else next(positions) for kind, _ in tensor.sizes]
            name = tensor.name
            sizes = self._weight(f"{name}/fixed", np.array(fixed, np.int64))
            chosen = np.array(order[0] if tensor.scalar else order, np.int64)
            self._add("Concat", ["packed/shape", sizes], f"{name}/all", axis=0)
            index = self._weight(f"{name}/order", chosen)
            self._add("Gather", [f"{name}/all", index], f"{name}/own", axis=0)
            self._rename_inputs(name, f"{name}/own")

    def _replace_attentions(self, attentions: tuple[Attention, ...]) -> None:
        inputs = [[one.queries, self._keys(one), self._values(one)] for one in attentions]
        replaced = {one.output for one in attentions}
        others = [node for node in self.graph.node if node.output[0] not in replaced]
        graphs.set_items(self.graph.node, others)
        for one, matrices in zip(attentions, inputs, strict=True):
            bias = [self._sum(one.biases, one.output)] if one.biases else []
            self._add(
                ATTENTION, [*matrices, "", "token_offset", "cu_seqlens", *bias], one.output,
                num_heads=one.heads, scale=one.scale, domain=CONTRIB,
            )  # fmt: skip

    def _split_bias(self, name: str) -> tuple[str, str]:
        """What a bias, (width,), is added to, and the bias; the tensor and "" without one."""
        node = self.index.maker(name)
        biases = [source for source in node.input if self.index.rank(source) == 1]
        if node.op_type != "Add" or len(biases) != 1:
            return name, ""
        return next(source for source in node.input if source != biases[0]), biases[0]

    def _keys(self, attention: Attention) -> str:
        return self._split_bias(attention.keys)[0]

    def _values(self, attention: Attention) -> str:
        """The values without their bias, where the bias after the next product takes it."""
        values, bias = self._split_bias(attention.values)
        readers = self.index.readers(attention.output)
        if not bias or [node.op_type for node in readers] != ["MatMul"]:
            return attention.values
        product, following = readers[0], self.index.readers(readers[0].output[0])
        if self.index.rank(product.input[1]) != 2 or len(following) != 1:
            return attention.values
        inputs, position = following[0].input, self._bias_position(following[0])
        width = (self.index.dims(product.input[1]) or ())[:1]
        if position < 0 or self.index.dims(bias) != width:
            return attention.values
        arrays = map(self.index.array, (product.input[1], bias, inputs[position]))
        weight, first, second = arrays
        total = (second + first.astype("float64") @ weight).astype(second.dtype)
        # By its position, not its name: equal weights share a name.
        inputs[position] = self._weight(f"{attention.output}/bias", total)
        return values

    def _bias_position(self, node: Any) -> int:
        """Which input of a node is the bias of a product that it reads; -1 where none is."""
        if node.op_type == "SkipLayerNormalization":
            return 4 if len(node.input) == 5 else -1
        positions = [n for n, name in enumerate(node.input) if self.index.rank(name) == 1]
        return positions[0] if node.op_type == "Add" and len(positions) == 1 else -1

    def _sum(self, terms: Sequence[str], name: str) -> str:
        total = terms[0]
        for n, other in enumerate(terms[1:]):
            total = self._add("Add", [total, other], f"{name}/bias{n}")
        return total

    def _pack(self, entries: Sequence[str]) -> list[str]:
        """Gather the real tokens of the entries; returns the packed tensors."""
        from onnx import helper

        for name, shape in _PACKING.items():
            self.graph.input.append(helper.make_tensor_value_info(name, 6, shape))
        packed = [f"{name}{TOKENS}" for name in entries]
        for name, tokens in zip(entries, packed, strict=True):
            self._rename_inputs(name, tokens)
            self._add("Flatten", [name], f"{tokens}/all", axis=2)
            self._add("Gather", [f"{tokens}/all", "token_indices"], tokens, axis=0)
        return packed

    def _unpack(self, packed: frozenset[str], read_as_rows: frozenset[str]) -> None:
        """Give rows to whatever reads them; an output of the graph keeps its name."""
        rows = {name: f"{name}/rows" for name in read_as_rows}
        tokens = {name: f"{name}{TOKENS}" for name in read_as_rows & self.outputs}
        for node in self.graph.node:
            if not packed & set(node.output):
                node.input[:] = [rows.get(name, name) for name in node.input]
            node.input[:] = [tokens.get(name, name) for name in node.input]
            node.output[:] = [tokens.get(name, name) for name in node.output]
        for name in sorted(read_as_rows):
            if name in tokens:
                self._rename_inputs(rows[name], name)
            output = name if name in tokens else rows[name]
            self._add("Gather", [tokens.get(name, name), "inverse_indices"], output, axis=0)
        graphs.sort(self.graph)

    def _drop_unused(self) -> None:
        needed, nodes = set(self.outputs), []
        for node in reversed(self.graph.node):
            if needed & set(node.output):
                needed.update(graphs.reads(node))
                nodes.append(node)
        weights = [w for w in self.graph.initializer if w.name in needed]
        graphs.set_items(self.graph.node, nodes[::-1])
        graphs.set_items(self.graph.initializer, weights)

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.graph.node.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def _weight(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(array, name))
        self.index.add(self.graph.initializer[-1])
        return name

    def _rename_inputs(self, name: str, new: str) -> None:
        for node in self.graph.node:
            node.input[:] = [new if source == name else source for source in node.input]
