"""A decoder's one-step graph for a CPU, built from the checkpoint's weights (`blueprint`).

Every row of a step has a *slot*: its part of caches that are allocated once and written in place, a
length of its own, and no padding. GroupQueryAttention does that: with past and present bound to the
same buffer it appends one position to each row at that row's own `lengths` and attends to as many.
So a row can begin in any slot at any step, whatever the others are doing. Cross-attention uses the
same op with a fixed length: the last source position is rewritten in place, so the cache does not
grow. The beams of a row share their source: see `runtime.shared_sources`.

T5's head scale is folded into its last norm, and the likeliest tokens are picked inside the graph,
so that no logits have to leave the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.export.graphs.blueprint import Blueprint, Layer
from engine.export.graphs.decoder_builder import CONTRIB, DecoderBuilder, GraphForm, described
from engine.export.graphs.queries_and_keys import rotated, separated, tables
from engine.export.graphs.ranking import likeliest

PARTS = ("key", "value")


def step_graph(plan: Blueprint) -> Any:
    """The step graph of a decoder as an ONNX ModelProto.

    Inputs, for S slots: tokens, int64 (S,); lengths, int32 (S,), positions already cached; total,
    int32 (), the largest of them + 1; past.N.key and .value, float32 (S, kv_heads, capacity,
    head_dim). With an encoder also source_last, int32 (S,), source tokens - 1; source_total, int32
    (); cross.N.key and .value, float32 (S, heads, source capacity, head_dim); and last.N.key and
    .value, float32 (S, 1, width), what these hold at source_last. Without one logit_rows, int64
    (n,): of which tokens the logits are wanted; and where long rows are rotated otherwise
    rotary_offset, int64 (S,): where a slot's rotary table begins. picks, int64 (1,): how many
    tokens to pick; scored, bool (): whether their log-probabilities are wanted.

    Outputs: logits, float32 (S, vocabulary); best, int64 (S, picks), the likeliest tokens, the
    lower id first where equal; best_scores, float32, their log-probabilities or else logits;
    present.N.key and .value, to be bound to the buffers of past.N, and cross_present.N.key and
    .value, to be bound to those of cross.N.
    """
    return DecoderBuilder(plan, FORM).model()


def _begin(writer: DecoderBuilder) -> str:
    writer.input("lengths", "INT32", ["slots"])
    writer.input("total", "INT32", [])
    inputs = _steps if writer.plan.causal else _one_step
    return writer.embedded(*inputs(writer))


def _one_step(writer: DecoderBuilder) -> tuple[str, str]:
    """Of a decoder behind an encoder: a token and its position for each slot."""
    writer.input("source_last", "INT32", ["slots"])
    writer.input("source_total", "INT32", [])
    writer.known["packed"] = writer.axes("packed", -1, 1, sum(writer.plan.qkv_sizes))
    writer.known["seqlens"] = "lengths"
    return writer.input("tokens", "INT64", ["slots"]), "lengths"


def _steps(writer: DecoderBuilder) -> tuple[str, str]:
    """Of a causal model: tokens and their positions, flat."""
    op = writer.op
    tokens = writer.input("tokens", "INT64", ["slots", "steps"])
    flat = writer.axes("axis.last", -1)
    zero, one = (writer.whole(f"whole.{n}", n) for n in (0, 1))
    shape = op("Shape", [tokens], "shape")
    query, key, _ = sizes = writer.plan.qkv_sizes
    widths = {"packed": sum(sizes)}
    if any(_is_apart(writer.plan, layer) for layer in writer.plan.layers):
        widths |= {"query": query, "key": key}
    for name, width in widths.items():
        size = writer.axes(f"width.{width}", width)
        writer.known[name] = op("Concat", [shape, size], name, axis=0)
    steps = op("Cast", [op("Shape", [tokens], "count", start=1)], "steps", to=6)
    steps = op("Squeeze", [steps], "steps/one")
    starts = op("Unsqueeze", ["lengths", writer.axes("axis.1", 1)], "starts")
    positions = op("Add", [starts, op("Range", [zero, steps, one], "order")], "positions")
    before = op("Sub", [steps, one], "before")
    writer.known["seqlens"] = op("Add", ["lengths", before], "seqlens")
    if "query" in widths:
        writer.known["positions"] = op("Cast", [positions], "positions/long", to=7)
    if writer.plan.long_from:
        offsets = writer.input("rotary_offset", "INT64", ["slots"])
        offsets = op("Unsqueeze", [offsets, writer.axes("axis.1", 1)], "rotary_offset/column")
        both = [writer.known["positions"], offsets]
        writer.known["positions"] = op("Add", both, "positions/rotary")
    positions = op("Reshape", [positions, flat], "positions/flat")
    return op("Reshape", [tokens, flat], "tokens/flat"), positions


def _distances(writer: DecoderBuilder) -> str:
    """Each slot's bias for every cached position, float32 (slots, heads, 1, total), or the
    distances of these positions where layers have biases of their own; "" for none."""
    import numpy as np

    if writer.plan.distances is None:
        return ""
    op, table = writer.op, np.asarray(writer.plan.distances)
    zero, one = (writer.whole(f"whole.{n}", n) for n in (0, 1))
    cached = op("Range", [zero, "total", one], "cached")
    at = op("Unsqueeze", ["lengths", writer.axes("axis.1", 1)], "at")
    # A position behind the slot's own is not attended to; any index will do.
    far = writer.whole("farthest", table.shape[-1] - 1)
    distance = op("Clip", [op("Sub", [at, cached], "gap"), zero, far], "distance")
    if writer.plan.distances_by_layer:
        return distance
    return writer.distance_bias("distances", table, distance, "bias")


def _attend(writer: DecoderBuilder, at: str, n: int, layer: Layer, given: str, bias: str) -> str:
    plan = writer.plan
    packed = writer.linear(given, layer.qkv, f"{at}/qkv")
    if _is_apart(plan, layer):
        shapes = (writer.known["query"], writer.known["key"])
        parts = separated(writer, at, layer, packed, shapes)
        if layer.rotary >= 0 and not _rotates_inside(plan, layer):
            parts = rotated(writer, at, layer, parts, writer.known["positions"])
    else:
        parts = [writer.op("Reshape", [packed, writer.known["packed"]], f"{at}/qkv/shaped"), "", ""]
    caches = [_cache_input(writer, f"past.{n}.{part}", "capacity") for part in PARTS]
    presents = [_cache_output(writer, f"present.{n}.{part}", "capacity") for part in PARTS]
    inputs = [*parts, *caches, writer.known["seqlens"], "total"]
    attributes: dict[str, Any] = {"kv_num_heads": plan.kv_heads}
    if layer.rotary >= 0 and _rotates_inside(plan, layer):
        inputs += tables(writer, layer.rotary)
        interleaved = plan.rotaries[layer.rotary].interleaved
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(interleaved)}
    if plan.distances_by_layer:
        bias = writer.distance_bias(f"distances.{n}", plan.distances[n], bias, f"{at}/bias")
    if bias:
        inputs += [*[""] * (10 - len(inputs)), bias]
    if layer.window:
        attributes["local_window_size"] = layer.window
    if plan.softcap:
        attributes["softcap"] = plan.softcap
    return _attention(writer, inputs, presents, f"{at}/attention", **attributes)


def _is_apart(plan: Blueprint, layer: Layer) -> bool:
    """Whether something comes between the product of q, k and v and the attention."""
    return layer.q_norm is not None or (layer.rotary >= 0 and not _rotates_inside(plan, layer))


def _rotates_inside(plan: Blueprint, layer: Layer) -> bool:
    """Whether GroupQueryAttention takes this head and these pairs, from one table for all rows."""
    rotary = plan.rotaries[layer.rotary]
    sizes = plan.head_dim % 16 == 0 and rotary.cosines.shape[1] % 8 == 0
    return bool(sizes and not rotary.long_from)


def _cross(writer: DecoderBuilder, at: str, n: int, layer: Layer, given: str, bias: str) -> str:
    plan = writer.plan
    assert layer.cross_q
    width = plan.heads * plan.head_dim
    query = writer.linear(given, layer.cross_q, f"{at}/cross_q")
    query = writer.shaped(query, [-1, 1, width], f"{at}/cross_q")
    last = [writer.input(f"last.{n}.{part}", "FLOAT", ["slots", 1, width]) for part in PARTS]
    caches = [_cache_input(writer, f"cross.{n}.{part}", "source_capacity") for part in PARTS]
    names = [f"cross_present.{n}.{part}" for part in PARTS]
    presents = [_cache_output(writer, name, "source_capacity") for name in names]
    inputs = [query, *last, *caches, "source_last", "source_total"]
    return _attention(writer, inputs, presents, f"{at}/cross", kv_num_heads=plan.heads)


def _attention(
    writer: DecoderBuilder, inputs: Sequence[str], caches: Sequence[str], name: str, **more: Any
) -> str:
    plan = writer.plan
    writer.node(
        "GroupQueryAttention", inputs, [f"{name}:0", *caches], name, domain=CONTRIB,
        num_heads=plan.heads, scale=plan.scale, **more,
    )  # fmt: skip
    return writer.shaped(f"{name}:0", [-1, plan.heads * plan.head_dim], name)


def _end(writer: DecoderBuilder, states: str) -> None:
    """Logits and the likeliest of them."""
    if writer.plan.causal:
        wanted = writer.input("logit_rows", "INT64", ["logit_rows"])
        states = writer.op("Gather", [states, wanted], "logit_states")
    writer.head(states)
    picks = writer.input("picks", "INT64", [1])
    vocabulary = len(writer.plan.head)
    nodes, weights = likeliest("logits", picks, "best_logits", "best", "pick", vocabulary)
    writer.nodes += nodes
    writer.weights |= {weight.name: weight for weight in weights}
    _scores(writer)
    writer.output("logits", "FLOAT", ["slots", vocabulary])
    writer.output("best", "INT64", ["slots", "picks"])
    writer.output("best_scores", "FLOAT", ["slots", "picks"])


def _scores(writer: DecoderBuilder) -> None:
    """The log-probabilities of the picked tokens, or their logits where these will do."""
    from onnx import helper

    scores = described("scores", "FLOAT", ["slots", "picks"])
    yes = [
        helper.make_node("LogSoftmax", ["logits"], ["all"], name="score/all", axis=-1),
        helper.make_node("GatherElements", ["all", "best"], ["scores"], name="score", axis=1),
    ]
    no = [helper.make_node("Identity", ["best_logits"], ["scores"], name="score/none")]
    branches = (helper.make_graph(nodes, "score", [], [scores]) for nodes in (yes, no))
    attributes = dict(zip(("then_branch", "else_branch"), branches, strict=True))
    scored = writer.input("scored", "BOOL", [])
    writer.node("If", [scored], ["best_scores"], "score/if", **attributes)


def _cache_input(writer: DecoderBuilder, name: str, positions: str) -> str:
    return writer.input(name, "FLOAT", _cache_shape(writer.plan, positions))


def _cache_output(writer: DecoderBuilder, name: str, positions: str) -> str:
    return writer.output(name, "FLOAT", _cache_shape(writer.plan, positions))


def _cache_shape(plan: Blueprint, positions: str) -> list[Any]:
    return ["slots", plan.kv_heads, positions, plan.head_dim]


FORM = GraphForm("step", 18, 9, _begin, _distances, _attend, _cross, _end)
