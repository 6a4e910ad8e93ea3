"""A decoder's one-step graph, built from the checkpoint's weights (`blueprint`).

Every row of a step has a *slot*: a place in caches that are allocated once and written in place, a
length of its own, and no padding. GroupQueryAttention does that: with past and present bound to the
same buffer it appends one position to each row at that row's own `lengths` and attends to as many.
So a row can begin in any slot at any step, whatever its neighbours are at. Cross-attention is the
same op at a standstill: the last source position is "appended" where it already is.

q, k and v are one product, skip connections and norms one op, T5's head scale is folded into its
last norm, and the likeliest tokens are picked inside, so that no logits have to leave the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.export.blueprint import BLUEPRINTS, Blueprint, Layer, Linear, Norm

OPSET, CONTRIB, IR = 18, "com.microsoft", 9


def step_graph(model: Any) -> Any | None:
    """The step graph of a transformers model as an ONNX ModelProto; None for a family without one.

    Inputs, for S slots: tokens, int64 (S,); lengths, int32 (S,), positions already cached; total,
    int32 (), the largest of them + 1; past.N.key and .value, float32 (S, heads, room, head_dim).
    With an encoder also source_last, int32 (S,), source tokens - 1; source_total, int32 ();
    cross.N.key and .value, float32 (S, heads, source room, head_dim); and last.N.key and .value,
    float32 (S, 1, width), what these hold at source_last. picks, int64 (1,): how many tokens to
    pick; scored, bool (): whether their log-probabilities are wanted.

    Outputs: logits, float32 (S, vocabulary); best, int64 (S, picks), the likeliest tokens, the
    lower id first where equal; best_scores, float32, their log-probabilities or else logits;
    present.N.key and .value, to be bound to the buffers of past.N, and kept.N.key and .value, to be
    bound to those of cross.N.
    """
    drawn = BLUEPRINTS.get(model.config.model_type)
    blueprint = drawn(model) if drawn else None
    if blueprint and blueprint.activation not in _ACTIVATIONS:
        return None
    return _Writer(blueprint).model() if blueprint else None


def shortlist(model: Any, count: int) -> None:
    """Let a step graph score its likeliest tokens twice; the model is changed.

    The head's product, which a recipe may make less exact, names `count` tokens, and their logits
    are computed anew from weights that stay as they are. An int8 head's best token is fp32's in 81
    to 86% of flan-t5-small's steps, but fp32's is among its best 16 in all.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    at = next(i for i, node in enumerate(graph.node) if node.name == "pick")
    head = next(node for node in graph.node if node.name == "head")
    states, *weights = head.input
    head.output[0] = "rough"
    whole = {"shortlist": count, "short/last": -1}
    graph.initializer.extend(
        numpy_helper.from_array(np.array([value], np.int64), name) for name, value in whole.items()
    )
    steps: list[tuple[str, list[str], list[str], dict[str, int]]] = [
        ("Max", ["picks", "shortlist"], ["short/count"], {}),
        ("TopK", ["rough", "short/count"], ["short/rough", "short"], {"axis": -1}),
        ("Gather", [weights[0], "short"], ["short/weights"], {}),
        ("Unsqueeze", [states, "short/last"], ["short/column"], {}),
        ("MatMul", ["short/weights", "short/column"], ["short/product"], {}),
        ("Squeeze", ["short/product", "short/last"], ["short/exact"], {}),
        ("ScatterElements", ["rough", "short", "short/exact"], ["logits"], {"axis": 1}),
        ("TopK", ["short/exact", "picks"], ["best_logits", "short/rank"], {"axis": -1}),
        ("GatherElements", ["short", "short/rank"], ["best"], {"axis": 1}),
    ]
    if len(weights) > 1:
        steps[5] = ("Squeeze", ["short/product", "short/last"], ["short/plain"], {})
        steps[6:6] = [
            ("Gather", [weights[1], "short"], ["short/bias"], {}),
            ("Add", ["short/plain", "short/bias"], ["short/exact"], {}),
        ]
    nodes = [helper.make_node(op, given, made, made[-1], **own) for op, given, made, own in steps]
    following = list(graph.node)
    following[at : at + 1] = nodes
    del graph.node[:]
    graph.node.extend(following)


# A layer's name, number, itself, what it reads and the attention bias -> what it makes and the name
# of the product behind it.
_Block = Callable[[str, int, Layer, str, str], "tuple[str, str]"]


def vocabulary(graph: Any) -> int:
    """How many logits a step graph gives."""
    logits = next(output for output in graph.graph.output if output.name == "logits")
    return int(logits.type.tensor_type.shape.dim[1].dim_value)


@dataclass
class _Writer:
    """A blueprint on its way to a graph; `nodes` is in topological order."""

    plan: Blueprint
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    seen: str = ""
    packed: str = ""

    def model(self) -> Any:
        from onnx import helper

        plan = self.plan
        states = self._embedded()
        bias = self._distances() if plan.distances is not None else ""
        # With norms first, `normed` is what the next layer reads and `states` the running sum.
        normed = self._norm(states, plan.layers[0].self_norm, "first") if plan.norm_first else ""
        for n, layer in enumerate(plan.layers):
            following = plan.layers[n + 1].self_norm if n + 1 < len(plan.layers) else plan.last_norm
            states, normed = self._layer(f"layer.{n}", n, layer, following, states, normed, bias)
        self._head(normed or states)
        graph = helper.make_graph(self.nodes, "step", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR)

    def _embedded(self) -> str:
        plan = self.plan
        self._input("lengths", "INT32", ["slots"])
        self._input("total", "INT32", [])
        tokens, places, self.seen = self._steps() if plan.causal else self._one_step()
        states = self._op("Gather", [self._weight("embedding", plan.embedding), tokens], "embed")
        if plan.embedding_scale != 1:
            scale = self._number("embedding_scale", plan.embedding_scale)
            states = self._op("Mul", [states, scale], "embed/scaled")
        if plan.positions is not None:
            table = self._weight("positions", plan.positions)
            position = self._op("Gather", [table, places], "embed/position")
            states = self._op("Add", [states, position], "embed/placed")
        return self._norm(states, plan.embedding_norm, "embed") if plan.embedding_norm else states

    def _one_step(self) -> tuple[str, str, str]:
        """Of an encoder's decoder: a token, its place and the last place cached, for each slot."""
        self._input("source_last", "INT32", ["slots"])
        self._input("source_total", "INT32", [])
        width = self.plan.heads * self.plan.head_dim
        self.packed = self._axes("packed", -1, 1, 3 * width)
        return self._input("tokens", "INT64", ["slots"]), "lengths", "lengths"

    def _steps(self) -> tuple[str, str, str]:
        """Of a causal model: tokens and their places, flat, and the last place cached."""
        tokens = self._input("tokens", "INT64", ["slots", "steps"])
        flat = self._axes("axis.last", -1)
        zero, one = (self._whole(f"whole.{n}", n) for n in (0, 1))
        shape = self._op("Shape", [tokens], "shape")
        width = self._axes("width", 3 * self.plan.heads * self.plan.head_dim)
        self.packed = self._op("Concat", [shape, width], "packed", axis=0)
        steps = self._op("Cast", [self._op("Shape", [tokens], "count", start=1)], "steps", to=6)
        steps = self._op("Squeeze", [steps], "steps/one")
        own = self._op("Unsqueeze", ["lengths", self._axes("axis.1", 1)], "own")
        places = self._op("Add", [own, self._op("Range", [zero, steps, one], "order")], "places")
        before = self._op("Sub", [steps, one], "before")
        seen = self._op("Add", ["lengths", before], "seen")
        places = self._op("Reshape", [places, flat], "places/flat")
        return self._op("Reshape", [tokens, flat], "tokens/flat"), places, seen

    def _distances(self) -> str:
        """Each slot's bias for every cached position, float32 (slots, heads, 1, total)."""
        import numpy as np

        table = np.asarray(self.plan.distances)
        zero, one = (self._whole(f"whole.{n}", n) for n in (0, 1))
        places = self._op("Range", [zero, "total", one], "places")
        own = self._op("Unsqueeze", ["lengths", self._axes("axis.1", 1)], "own")
        # A place behind the slot's own is not attended to; any index will do.
        far = self._whole("farthest", table.shape[1] - 1)
        distance = self._op("Clip", [self._op("Sub", [own, places], "gap"), zero, far], "distance")
        bias = self._op("Gather", [self._weight("distances", table), distance], "bias", axis=1)
        bias = self._op("Transpose", [bias], "bias/by_slot", perm=[1, 0, 2])
        return self._op("Unsqueeze", [bias, self._axes("axis.2", 2)], "bias/whole")

    def _layer(
        self, at: str, n: int, layer: Layer, following: Norm | None, states: str, normed: str,
        bias: str,
    ) -> tuple[str, str]:  # fmt: skip
        """The sum behind a layer and, with norms first, what the following one reads."""
        blocks: list[tuple[_Block, Linear | None, Norm | None]]
        blocks = [(self._self_attention, layer.out, layer.cross_norm or layer.wide_norm)]
        if layer.cross_q:
            blocks.append((self._cross_attention, layer.cross_out, layer.wide_norm))
        blocks.append((self._feed_forward, layer.narrow, following))
        norms = (layer.self_norm, layer.cross_norm, layer.wide_norm)
        own = [norm for norm in norms if norm]
        for (block, last, after), before in zip(blocks, own, strict=True):
            made, name = block(at, n, layer, normed or states, bias)
            norm = after if self.plan.norm_first else before
            added, total = self._added(made, states, last, norm, name)
            states, normed = (total, added) if self.plan.norm_first else (added, "")
        return states, normed

    def _added(
        self, made: str, states: str, linear: Linear | None, norm: Norm | None, name: str
    ) -> tuple[str, str]:
        """The norm of a block's last product on top of the running sum, and the new sum."""
        assert linear
        made = self._op("MatMul", [made, self._weight(f"{name}.weight", linear.weight)], name)
        bias = "" if linear.bias is None else self._weight(f"{name}.bias", linear.bias)
        if norm is None:
            made = self._op("Add", [made, bias], f"{name}/biased") if bias else made
            return "", self._op("Add", [made, states], f"{name}/sum")
        gamma = self._weight(f"{name}/norm.weight", norm.weight)
        inputs = [made, states, gamma]
        kind = "SkipSimplifiedLayerNormalization"
        if norm.bias is not None:
            inputs.append(self._weight(f"{name}/norm.bias", norm.bias))
            kind = "SkipLayerNormalization"
        found = self._ops(
            kind, [*inputs, bias], f"{name}/norm", ["normed", "", "", "sum"], domain=CONTRIB,
            epsilon=self.plan.epsilon,
        )  # fmt: skip
        return found[0], found[3]

    def _self_attention(
        self, at: str, n: int, layer: Layer, given: str, bias: str
    ) -> tuple[str, str]:
        packed = self._linear(given, layer.qkv, f"{at}/qkv")
        packed = self._op("Reshape", [packed, self.packed], f"{at}/qkv/shaped")
        cache = [self._cache(f"past.{n}.{part}", "room") for part in ("key", "value")]
        made = [self._cached(f"present.{n}.{part}", "room") for part in ("key", "value")]
        inputs = [packed, "", "", *cache, self.seen, "total", *(["", "", "", bias] if bias else [])]
        return self._attention(inputs, made, f"{at}/attention"), f"{at}/out"

    def _cross_attention(
        self, at: str, n: int, layer: Layer, given: str, bias: str
    ) -> tuple[str, str]:
        plan = self.plan
        assert layer.cross_q
        width = plan.heads * plan.head_dim
        query = self._linear(given, layer.cross_q, f"{at}/cross_q")
        query = self._shaped(query, [-1, 1, width], f"{at}/cross_q")
        parts = ("key", "value")
        last = [self._input(f"last.{n}.{part}", "FLOAT", ["slots", 1, width]) for part in parts]
        cache = [self._cache(f"cross.{n}.{part}", "source_room") for part in parts]
        made = [self._cached(f"kept.{n}.{part}", "source_room") for part in parts]
        inputs = [query, *last, *cache, "source_last", "source_total"]
        return self._attention(inputs, made, f"{at}/cross"), f"{at}/cross_out"

    def _attention(self, inputs: list[str], caches: list[str], name: str) -> str:
        from onnx import helper

        plan = self.plan
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention", inputs, [f"{name}:0", *caches], name=name, domain=CONTRIB,
                num_heads=plan.heads, kv_num_heads=plan.heads, scale=plan.scale,
            )
        )  # fmt: skip
        return self._shaped(f"{name}:0", [-1, plan.heads * plan.head_dim], name)

    def _feed_forward(
        self, at: str, n: int, layer: Layer, given: str, bias: str
    ) -> tuple[str, str]:
        op, attributes = _ACTIVATIONS[self.plan.activation]
        wide = self._linear(given, layer.wide, f"{at}/wide")
        wide = self._op(op, [wide], f"{at}/active", **attributes)
        if layer.gate:
            gate = self._linear(given, layer.gate, f"{at}/gate")
            wide = self._op("Mul", [wide, gate], f"{at}/gated")
        return wide, f"{at}/narrow"

    def _head(self, states: str) -> None:
        """Logits and the likeliest of them."""
        plan = self.plan
        if plan.causal:
            asked = self._input("asked", "INT64", ["asked"])
            states = self._op("Gather", [states, asked], "asked")
        tied = plan.head is plan.embedding
        head = "embedding" if tied else self._weight("head", plan.head)
        inputs = [states, head]
        if plan.head_bias is not None:
            inputs.append(self._weight("head_bias", plan.head_bias))
        picks = self._input("picks", "INT64", [1])
        self._node("Gemm", inputs, ["logits"], "head", transB=1)
        self._node("TopK", ["logits", picks], ["best_logits", "best"], "pick", axis=-1)
        self._scores()
        self._output("logits", "FLOAT", ["slots", len(plan.head)])
        self._output("best", "INT64", ["slots", "picks"])
        self._output("best_scores", "FLOAT", ["slots", "picks"])

    def _scores(self) -> None:
        """The log-probabilities of the picked tokens, or their logits where these will do."""
        from onnx import helper

        found = _described("found", "FLOAT", ["slots", "picks"])
        yes = [
            helper.make_node("LogSoftmax", ["logits"], ["all"], name="score/all", axis=-1),
            helper.make_node("GatherElements", ["all", "best"], ["found"], name="score", axis=1),
        ]
        no = [helper.make_node("Identity", ["best_logits"], ["found"], name="score/none")]
        branches = (helper.make_graph(nodes, "score", [], [found]) for nodes in (yes, no))
        given = dict(zip(("then_branch", "else_branch"), branches, strict=True))
        scored = self._input("scored", "BOOL", [])
        self._node("If", [scored], ["best_scores"], "score/if", **given)

    def _norm(self, given: str, norm: Norm, name: str) -> str:
        name = f"{name}/norm"
        weight = self._weight(f"{name}.weight", norm.weight)
        if norm.bias is not None:
            bias = self._weight(f"{name}.bias", norm.bias)
            inputs = [given, weight, bias]
            return self._op("LayerNormalization", inputs, name, axis=-1, epsilon=self.plan.epsilon)
        square = self._op("Mul", [given, given], f"{name}/square")
        mean = self._op("ReduceMean", [square, self._axes("axis.last", -1)], f"{name}/mean")
        epsilon = self._number("epsilon", self.plan.epsilon)
        size = self._op("Sqrt", [self._op("Add", [mean, epsilon], f"{name}/some")], f"{name}/size")
        return self._op("Mul", [self._op("Div", [given, size], f"{name}/one"), weight], name)

    def _linear(self, given: str, linear: Linear, name: str) -> str:
        inputs = [given, self._weight(f"{name}.weight", linear.weight)]
        if linear.bias is None:
            return self._op("MatMul", inputs, name)
        return self._op("Gemm", [*inputs, self._weight(f"{name}.bias", linear.bias)], name)

    def _shaped(self, given: str, shape: list[int], name: str) -> str:
        label = "shape." + ".".join(map(str, shape))
        return self._op("Reshape", [given, self._axes(label, *shape)], f"{name}/shaped")

    def _cache(self, name: str, room: str) -> str:
        plan = self.plan
        return self._input(name, "FLOAT", ["slots", plan.heads, room, plan.head_dim])

    def _cached(self, name: str, room: str) -> str:
        plan = self.plan
        return self._output(name, "FLOAT", ["slots", plan.heads, room, plan.head_dim])

    def _op(self, op: str, inputs: Sequence[str], name: str, **given: Any) -> str:
        """A node with one output, which is returned."""
        return self._ops(op, inputs, name, [""], **given)[0]

    def _ops(
        self, op: str, inputs: Sequence[str], name: str, outputs: Sequence[str], **given: Any
    ) -> list[str]:
        """A node with several outputs, of which those behind the first are left out if unnamed."""
        made = [f"{name}:{label}" if label or not i else "" for i, label in enumerate(outputs)]
        self._node(op, inputs, made, name, **given)
        return made

    def _node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **given: Any
    ) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, **given))

    def _weight(self, name: str, array: Any) -> str:
        """An initializer; asked for again, the one that is there."""
        import numpy as np
        from onnx import numpy_helper

        if all(weight.name != name for weight in self.weights):
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _number(self, name: str, value: float) -> str:
        import numpy as np

        return self._weight(name, np.array(value, np.float32))

    def _whole(self, name: str, value: int) -> str:
        import numpy as np

        return self._weight(name, np.array(value, np.int32))

    def _axes(self, name: str, *values: int) -> str:
        import numpy as np

        return self._weight(name, np.array(values, np.int64))

    def _input(self, name: str, kind: str, shape: Sequence[Any]) -> str:
        self.inputs.append(_described(name, kind, shape))
        return name

    def _output(self, name: str, kind: str, shape: Sequence[Any]) -> str:
        self.outputs.append(_described(name, kind, shape))
        return name


def _described(name: str, kind: str, shape: Sequence[Any]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))


# Names in a checkpoint's configuration -> op and its attributes.
_ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("Relu", {}),
    "gelu": ("Gelu", {"domain": CONTRIB}),
    # The approximation by tanh.
    "gelu_new": ("FastGelu", {"domain": CONTRIB}),
    "gelu_pytorch_tanh": ("FastGelu", {"domain": CONTRIB}),
    # x * sigmoid(alpha * x).
    "silu": ("QuickGelu", {"domain": CONTRIB, "alpha": 1.0}),
    "swish": ("QuickGelu", {"domain": CONTRIB, "alpha": 1.0}),
}
