"""A decoder's layers as ONNX nodes.

What differs between graphs of one blueprint is a `GraphForm`: where tokens come from, where
attention gets its keys and values, and what is computed from the last states. All else is here: q,
k and v are one product, skip connections and norms are one op, and every product is named after its
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.export.graphs.blueprint import Blueprint, Layer, Linear, Norm

CONTRIB = "com.microsoft"


# Builder, layer's name, number and weights, input and attention bias -> output (slots, width).
Attention = Callable[["DecoderBuilder", str, int, Layer, str, str], str]


@dataclass(frozen=True)
class GraphForm:
    """How a decoder's graph reads tokens, attends and computes its outputs.

    Attributes:
        name: The graph's name.
        opset, ir: Versions of ONNX.
        begin: Declares the inputs; returns the embedded states, before their norm.
        bias: Returns the attention bias, or "".
        attend, cross: Self-attention and cross-attention, without their output projections.
        end: Computes the outputs from the last states, and declares them.
    """

    name: str
    opset: int
    ir: int
    begin: Callable[[DecoderBuilder], str]
    bias: Callable[[DecoderBuilder], str]
    attend: Attention
    cross: Attention
    end: Callable[[DecoderBuilder, str], None]


class _Block(NamedTuple):
    """A part of a layer that adds to the running sum.

    Attributes:
        write: Writes it but for its last product.
        name, last: Of that product.
        before: The norm that it reads; that of the sum after it in a post-norm decoder.
        after: A norm of what it adds.
    """

    write: Attention
    name: str
    last: Linear | None
    before: Norm | None
    after: Norm | None = None


@dataclass
class DecoderBuilder:
    """Writes a blueprint as a graph; `nodes` is in topological order.

    `known` holds names of tensors that the form's functions share.
    """

    plan: Blueprint
    form: GraphForm
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def model(self) -> Any:
        """The whole graph as an ONNX ModelProto."""
        plan = self.plan
        states = self.form.begin(self)
        states = self.norm(states, plan.embedding_norm, "embed") if plan.embedding_norm else states
        bias = self.form.bias(self)
        first = plan.layers[0].self_norm if plan.norm_first else None
        # If norms come first, `normed` is the next layer's input and `states` the running sum.
        normed = self.norm(states, first, "first") if first else ""
        for n, layer in enumerate(plan.layers):
            following = plan.layers[n + 1].self_norm if n + 1 < len(plan.layers) else plan.last_norm
            write = self._parallel_layer if plan.parallel else self._layer
            states, normed = write(f"layer.{n}", n, layer, following, states, normed, bias)
        self.form.end(self, normed or states)
        return self.written()

    def written(self) -> Any:
        """The nodes written so far as a ModelProto."""
        from onnx import helper

        form, weights = self.form, list(self.weights.values())
        graph = helper.make_graph(self.nodes, form.name, self.inputs, self.outputs, weights)
        opsets = [helper.make_opsetid("", form.opset), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=form.ir)

    def embedded(self, tokens: str, places: str) -> str:
        """Tokens and their positions, flat, as states before the first norm."""
        plan = self.plan
        states = self.op("Gather", [self.weight("embedding", plan.embedding), tokens], "embed")
        if plan.project_in:
            states = self.linear(states, plan.project_in, "embed/project_in")
        if plan.embedding_scale != 1:
            scale = self.number("embedding_scale", plan.embedding_scale)
            states = self.op("Mul", [states, scale], "embed/scaled")
        if plan.positions is not None:
            table = self.weight("positions", plan.positions)
            position = self.op("Gather", [table, places], "embed/position")
            states = self.op("Add", [states, position], "embed/placed")
        return states

    def head(self, states: str) -> None:
        """The logits, float32 (slots, vocabulary)."""
        plan = self.plan
        if plan.project_out:
            states = self.linear(states, plan.project_out, "project_out")
        tied = plan.head is plan.embedding
        inputs = [states, "embedding" if tied else self.weight("head", plan.head)]
        if plan.head_bias is not None:
            inputs.append(self.weight("head_bias", plan.head_bias))
        if not plan.head_softcap:
            self.node("Gemm", inputs, ["logits"], "head", transB=1)
            return
        free = self.op("Gemm", inputs, "head", transB=1)
        bound = self.number("head_softcap", plan.head_softcap)
        part = self.op("Tanh", [self.op("Div", [free, bound], "head/part")], "head/tanh")
        self.node("Mul", [part, bound], ["logits"], "head/softcap")

    def _layer(
        self, at: str, n: int, layer: Layer, following: Norm | None, states: str, normed: str,
        bias: str,
    ) -> tuple[str, str]:  # fmt: skip
        """The sum after a layer and, if norms come first, the next layer's normed input."""
        blocks = [_Block(self.form.attend, "out", layer.out, layer.self_norm, layer.out_norm)]
        if layer.cross_q:
            blocks.append(_Block(self.form.cross, "cross_out", layer.cross_out, layer.cross_norm))
        norms = layer.wide_norm, layer.narrow_norm
        blocks.append(_Block(_feed_forward, "narrow", layer.narrow, *norms))
        for i, block in enumerate(blocks):
            output = block.write(self, at, n, layer, normed or states, bias)
            after = blocks[i + 1].before if i + 1 < len(blocks) else following
            norm = after if self.plan.norm_first else block.before
            added, total = self._added(
                output, states, block.last, norm, f"{at}/{block.name}", block.after
            )
            states, normed = (total, added) if self.plan.norm_first else (added, "")
        return states, normed

    def _parallel_layer(
        self, at: str, n: int, layer: Layer, following: Norm | None, states: str, normed: str,
        bias: str,
    ) -> tuple[str, str]:  # fmt: skip
        """The same where attention and the feed-forward layer read the same sum."""
        attended = self.form.attend(self, at, n, layer, normed, bias)
        attended = self.linear(attended, layer.out, f"{at}/out")
        wide_in = self.norm(states, layer.wide_norm, f"{at}/wide") if layer.wide_norm else normed
        output = _feed_forward(self, at, n, layer, wide_in, bias)
        states = self.op("Add", [states, attended], f"{at}/out/sum")
        added, total = self._added(output, states, layer.narrow, following, f"{at}/narrow")
        return total, added

    def _added(
        self,
        output: str,
        states: str,
        linear: Linear | None,
        norm: Norm | None,
        name: str,
        after: Norm | None = None,
    ) -> tuple[str, str]:
        """The norm of the running sum plus a block's last product, and that sum.

        Args:
            after: A norm of the product itself.
        """
        assert linear
        if after:
            product, bias = self.norm(self.linear(output, linear, name), after, f"{name}/own"), ""
        else:
            product = self.op(
                "MatMul", [output, self.weight(f"{name}.weight", linear.weight)], name
            )
            bias = "" if linear.bias is None else self.weight(f"{name}.bias", linear.bias)
        if norm is None:
            product = self.op("Add", [product, bias], f"{name}/biased") if bias else product
            return "", self.op("Add", [product, states], f"{name}/sum")
        gamma = self.weight(f"{name}/norm.weight", norm.weight)
        inputs = [product, states, gamma]
        kind = "SkipSimplifiedLayerNormalization"
        if norm.bias is not None:
            inputs.append(self.weight(f"{name}/norm.bias", norm.bias))
            kind = "SkipLayerNormalization"
        outputs = self.ops(
            kind, [*inputs, bias] if bias else inputs, f"{name}/norm", ["normed", "", "", "sum"],
            domain=CONTRIB, epsilon=self.plan.epsilon,
        )  # fmt: skip
        return outputs[0], outputs[3]

    def norm(self, states: str, norm: Norm, name: str) -> str:
        name = f"{name}/norm"
        weight = self.weight(f"{name}.weight", norm.weight)
        if norm.bias is not None:
            bias = self.weight(f"{name}.bias", norm.bias)
            inputs = [states, weight, bias]
            return self.op("LayerNormalization", inputs, name, axis=-1, epsilon=self.plan.epsilon)
        # ONNX Runtime knows this pattern as one op of its own.
        square = self.op("Pow", [states, self.number("two", 2.0)], f"{name}/square")
        mean = self.op("ReduceMean", [square, self.axes("axis.last", -1)], f"{name}/mean")
        epsilon = self.number("epsilon", self.plan.epsilon)
        size = self.op("Sqrt", [self.op("Add", [mean, epsilon], f"{name}/some")], f"{name}/size")
        return self.op("Mul", [self.op("Div", [states, size], f"{name}/one"), weight], name)

    def linear(self, states: str, linear: Linear, name: str) -> str:
        inputs = [states, self.weight(f"{name}.weight", linear.weight)]
        if linear.bias is None:
            return self.op("MatMul", inputs, name)
        return self.op("Gemm", [*inputs, self.weight(f"{name}.bias", linear.bias)], name)

    def distance_bias(self, label: str, table: Any, distance: str, name: str) -> str:
        """The attention bias of positions at these distances, float32 (slots, heads, 1, positions).

        Args:
            label: The table's name as a weight.
            table: float32 (heads, distances).
            distance: Whole numbers (slots, positions), within the table.
        """
        bias = self.op("Gather", [self.weight(label, table), distance], name, axis=1)
        bias = self.op("Transpose", [bias], f"{name}/by_slot", perm=[1, 0, 2])
        return self.op("Unsqueeze", [bias, self.axes("axis.2", 2)], f"{name}/whole")

    def shaped(self, states: str, shape: Sequence[int], name: str) -> str:
        label = "shape." + ".".join(map(str, shape))
        return self.op("Reshape", [states, self.axes(label, *shape)], f"{name}/shaped")

    def op(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.ops(op, inputs, name, [""], **attributes)[0]

    def ops(
        self, op: str, inputs: Sequence[str], name: str, labels: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; of those after the first, the unnamed are left out."""
        outputs = [f"{name}:{label}" if label or not i else "" for i, label in enumerate(labels)]
        self.node(op, inputs, outputs, name, **attributes)
        return outputs

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any
    ) -> None:
        from onnx import helper

        node = helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)
        self.nodes.append(node)

    def weight(self, name: str, array: Any) -> str:
        """Add an initializer, unless there is one of this name."""
        import numpy as np
        from onnx import numpy_helper

        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def number(self, name: str, value: float) -> str:
        import numpy as np

        return self.weight(name, np.array(value, np.float32))

    def whole(self, name: str, value: int) -> str:
        import numpy as np

        return self.weight(name, np.array(value, np.int32))

    def axes(self, name: str, *values: int) -> str:
        import numpy as np

        return self.weight(name, np.array(values, np.int64))

    def input(self, name: str, kind: str, shape: Sequence[Any]) -> str:
        self.inputs.append(described(name, kind, shape))
        return name

    def output(self, name: str, kind: str, shape: Sequence[Any]) -> str:
        self.outputs.append(described(name, kind, shape))
        return name


def _feed_forward(
    writer: DecoderBuilder, at: str, n: int, layer: Layer, states: str, bias: str
) -> str:
    wide = activated(writer, at, writer.linear(states, layer.wide, f"{at}/wide"))
    if layer.gate:
        gate = writer.linear(states, layer.gate, f"{at}/gate")
        wide = writer.op("Mul", [wide, gate], f"{at}/gated")
    return wide


def activated(writer: DecoderBuilder, at: str, wide: str) -> str:
    activation = writer.plan.activation
    attributes: dict[str, Any] = {"domain": CONTRIB} if activation.contrib else {}
    if activation.alpha is not None:
        attributes["alpha"] = activation.alpha
    active = writer.op(activation.op, [wide], f"{at}/active", **attributes)
    if activation.squared:
        active = writer.op("Mul", [active, active], f"{at}/squared")
    return active


def described(name: str, kind: str, shape: Sequence[Any]) -> Any:
    """A graph's input or output; `kind` is a name of TensorProto's types."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))
