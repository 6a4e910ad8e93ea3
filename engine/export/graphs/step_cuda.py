"""A decoder's graphs for a GPU, where everything that a step reads and writes stays on the device.

    device_step one step: token to token, nothing from the host and nothing to it
    admit       an encoder's keys and values into the slots of rows that begin
    move        slots in another order, some of them twice (beams), or fewer
    grow        caches get more positions
    pick        the likeliest of the latest logits, and their log-probabilities

A slot's state is a row of four integers (`bundle.format.STATE_WIDTH`): the token it reads next, the
positions it has cached, its budget (tokens it may still emit), and its source's length. A step
appends the token's key and value at the slot's own length (TensorScatter, which writes in place
where past and present are one buffer), attends to as many positions, emits the likeliest token and
makes the next state of it, or ends the row where the token is an end or the last one allowed. The
tokens of the last `SYNC_EVERY` steps are kept, so that the host need look only then. The new state
is one tensor that depends on everything else, since it goes into the buffer that the step has read.

All shapes are those of the inputs, no op computes one (`Shape` and its kin run on a CPU), and each
has a kernel for CUDA in float32 and float16: so a step can be captured as a CUDA graph, and is one
launch. GroupQueryAttention, which the CPU's step is made of, has none for float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.bundle.format import STATE_WIDTH, SYNC_EVERY
from engine.export.graphs.blueprint import Blueprint, Layer
from engine.export.graphs.decoder_builder import CONTRIB, DecoderBuilder, GraphForm
from engine.export.graphs.queries_and_keys import rotated, separated

OPSET, IR = 24, 11
PARTS = ("key", "value")
# What is added to the score of a hidden position: nothing is left of it behind the softmax, and
# float16 holds it.
_HIDDEN = -3e4


def graphs(plan: Blueprint) -> dict[str, Any]:
    """All of them by file name, ONNX ModelProtos.

    resident.onnx, for S slots: state, int64 (S, STATE_WIDTH); emitted, int64 (S, SYNC_EVERY), the
    tokens of the latest steps, the last one last, -1 where a slot emitted none; cache_positions
    and source_positions, int64 (capacity,) and (source,), from 0; eos_ids, int64 (n,); past.N.key
    and .value, float (S, kv_heads, capacity, head_dim); with an encoder cross.N.key and .value, (S,
    heads, source, head_dim); without one forced_tokens, int64 (S, capacity): the token that
    follows each position, -1 where the model chooses it. Outputs: next_state, next_emitted and
    present.N, to be bound to the buffers of state, emitted and past.N; logits, float (S,
    vocabulary).

    admit.onnx: slots, int64 (n, 1, 1, 1); rows, int64 (n,), of encoded; positions, int64 (1, 1,
    encoded, 1), from 0; encoded.N, as the encoder gives cross.N; cross.N. Outputs: filled.N, to be
    bound to cross.N. Positions behind the encoded ones keep their content, and are hidden.

    move.onnx: sources, int64 (n,); past.N. Outputs: moved.N, of the slots that sources names.

    grow.onnx: pads, int64 (8,); past.N. Outputs: grown.N.

    pick.onnx: logits; picks, int64 (1,). Outputs: best, int64 (S, picks); best_logits and
    best_scores, their log-probabilities, float.
    """
    models = {
        "resident.onnx": DecoderBuilder(plan, FORM).model(),
        "move.onnx": _move(plan),
        "grow.onnx": _grow(plan),
        "pick.onnx": _pick(plan),
    }
    return models if plan.causal else {**models, "admit.onnx": _admit(plan)}


def _begin(writer: DecoderBuilder) -> str:
    op, known = writer.op, writer.known
    state = writer.input("state", "INT64", ["slots", STATE_WIDTH])
    positions = writer.input("cache_positions", "INT64", ["capacity"])
    writer.input("emitted", "INT64", ["slots", SYNC_EVERY])
    writer.input("eos_ids", "INT64", ["eos"])
    # Columns (S, 1).
    names = ["token", "length", "budget", "source"]
    columns = writer.ops("Split", [state], "state/parts", names, axis=1, num_outputs=STATE_WIDTH)
    known.update(zip(names, columns, strict=True))
    flat = writer.axes("shape.-1", -1)
    known["at"] = op("Reshape", [known["length"], flat], "at")
    known["ahead"] = op("Greater", [positions, known["length"]], "ahead")
    tokens = op("Reshape", [known["token"], flat], "tokens")
    return writer.embedded(tokens, known["at"])


def _bias(writer: DecoderBuilder) -> str:
    """For every cached position, float (S, heads or 1, 1, capacity): T5's bias, and what hides the
    rest; and the same of the source, which is `known["beyond"]`. Where layers have biases of their
    own, the distances of these positions, and `known["hidden"]`."""
    import numpy as np

    op, known = writer.op, writer.known
    middle = writer.axes("axes.1.2", 1, 2)
    if not writer.plan.causal:
        source_positions = writer.input("source_positions", "INT64", ["source"])
        beyond = op("GreaterOrEqual", [source_positions, known["source"]], "beyond")
        known["beyond"] = op("Unsqueeze", [_hiding(writer, beyond, "beyond"), middle], "beyond/all")
    hidden = op("Unsqueeze", [_hiding(writer, known["ahead"], "ahead"), middle], "ahead/all")
    for window in {layer.window for layer in writer.plan.layers if layer.window}:
        name = f"window.{window}"
        first = op("Sub", [known["length"], writer.axes(name, window - 1)], f"{name}/first")
        outside = op("Less", ["cache_positions", first], f"{name}/before")
        outside = op("Or", [outside, known["ahead"]], f"{name}/outside")
        known[name] = op("Unsqueeze", [_hiding(writer, outside, name), middle], f"{name}/all")
    if writer.plan.distances is None:
        return hidden
    table = np.asarray(writer.plan.distances)
    zero = writer.weight("zero", np.array(0, np.int64))
    far = writer.weight("farthest", np.array(table.shape[-1] - 1, np.int64))
    gap = op("Sub", [known["length"], "cache_positions"], "gap")
    distance = op("Min", [op("Max", [gap, zero], "gap/behind"), far], "distance")
    known["hidden"] = hidden
    if writer.plan.distances_by_layer:
        return distance
    bias = writer.distance_bias("distances", table, distance, "bias")
    return op("Add", [bias, hidden], "bias/hidden")


def _hiding(writer: DecoderBuilder, where: str, name: str) -> str:
    none, much = writer.number("none", 0.0), writer.number("hidden", _HIDDEN)
    return writer.op("Where", [where, much, none], f"{name}/hiding")


def _attend(writer: DecoderBuilder, at: str, n: int, layer: Layer, given: str, bias: str) -> str:
    plan = writer.plan
    packed = _finite(writer, writer.linear(given, layer.qkv, f"{at}/qkv"), f"{at}/qkv/finite")
    widths = (writer.axes(f"width.{width}", -1, 1, width) for width in plan.qkv_sizes[:2])
    parts = separated(writer, at, layer, packed, (next(widths), next(widths)))
    if layer.rotary >= 0:
        parts = rotated(writer, at, layer, parts, writer.known["length"])
    # Queries that read the same keys are rows of one product.
    shared = plan.heads // plan.kv_heads
    query, *news = (
        writer.shaped(part, [0, plan.kv_heads, rows, plan.head_dim], part)
        for part, rows in zip(parts, (shared, 1, 1), strict=True)
    )
    present = []
    for part, new in zip(PARTS, news, strict=True):
        past = _cache_input(writer, f"past.{n}.{part}", "capacity")
        output = _cache_output(writer, f"present.{n}.{part}", "capacity")
        writer.node("TensorScatter", [past, new, writer.known["at"]], [output], output, axis=2)
        present.append(output)
    bias = writer.known[f"window.{layer.window}"] if layer.window else bias
    if plan.distances_by_layer:
        bias = writer.distance_bias(f"distances.{n}", plan.distances[n], bias, f"{at}/bias")
        bias = writer.op("Add", [bias, writer.known["hidden"]], f"{at}/bias/hidden")
    return _attention(writer, query, present, bias, f"{at}/attention", plan.softcap)


def _finite(writer: DecoderBuilder, numbers: str, name: str) -> str:
    """Zeros instead of NaN and of what the type cannot hold. What a row leaves in its slot is
    hidden from the next one by a sum and a product, which such numbers would survive."""
    largest, none = writer.number("largest", 3e38), writer.number("none", 0.0)
    fits = writer.op("Less", [writer.op("Abs", [numbers], f"{name}/size"), largest], f"{name}/fits")
    return writer.op("Where", [fits, numbers, none], name)


def _cross(writer: DecoderBuilder, at: str, n: int, layer: Layer, given: str, bias: str) -> str:
    plan = writer.plan
    assert layer.cross_q
    query = writer.linear(given, layer.cross_q, f"{at}/cross_q")
    query = writer.shaped(query, [0, plan.heads, 1, plan.head_dim], f"{at}/cross_q")
    caches = [_cache_input(writer, f"cross.{n}.{part}", "source") for part in PARTS]
    return _attention(writer, query, caches, writer.known["beyond"], f"{at}/cross")


def _attention(
    writer: DecoderBuilder, query: str, caches: list[str], bias: str, name: str, softcap: float = 0
) -> str:
    plan, op = writer.plan, writer.op
    key, value = caches
    scores = op(
        "FusedMatMul", [query, key], f"{name}/scores", domain=CONTRIB, transB=1, alpha=plan.scale
    )
    if softcap:
        bound = writer.number("softcap", softcap)
        part = op("Tanh", [op("Div", [scores, bound], f"{name}/part")], f"{name}/tanh")
        scores = op("Mul", [part, bound], f"{name}/softcap")
    scores = op("Add", [scores, bias], f"{name}/biased")
    shares = op("Softmax", [scores], f"{name}/shares", axis=-1)
    states = op("MatMul", [shares, value], name)
    return writer.shaped(states, [0, plan.heads * plan.head_dim], name)


def _end(writer: DecoderBuilder, states: str) -> None:
    """Logits; and the token that is emitted, with the next state that follows from it."""
    writer.head(states)
    one = writer.axes("one", 1)
    best = writer.ops("TopK", ["logits", one], "best", ["score", "token"], axis=-1)[1]
    _next(writer, best)
    writer.output("logits", "FLOAT", ["slots", len(writer.plan.head)])
    writer.output("next_state", "INT64", ["slots", STATE_WIDTH])
    writer.output("next_emitted", "INT64", ["slots", SYNC_EVERY])


def _next(writer: DecoderBuilder, best: str) -> None:
    """The next state of the likeliest tokens (S, 1)."""
    import numpy as np

    op, known = writer.op, writer.known
    none, one, minus = (writer.axes(f"is.{n}", n) for n in (0, 1, -1))
    active = op("Greater", [known["budget"], none], "active")
    chosen, emits = _chosen(writer, best, active)
    fewer = op("Sub", [known["budget"], one], "fewer")
    ended = op("And", [_is_eos(writer, chosen), emits], "ended")
    budget = op("Where", [emits, fewer, known["budget"]], "budget/emitted")
    budget = op("Where", [ended, none, budget], "budget/next")
    going = op("Greater", [budget, none], "going")
    longer = op("Add", [known["length"], one], "longer")
    length = op("Where", [going, longer, known["length"]], "length/next")
    token = op("Where", [going, chosen, known["token"]], "token/next")
    writer.node(
        "Concat", [token, length, budget, known["source"]], ["next_state"], "next_state", axis=1
    )
    newest = op("Where", [emits, chosen, minus], "newest")
    # A Concat of unequal parts takes their sizes from the host at each launch, captured or not.
    columns = writer.axes("emitted/columns", *range(1, SYNC_EVERY), SYNC_EVERY - 1)
    last = writer.weight("emitted/last", np.arange(SYNC_EVERY)[None] == SYNC_EVERY - 1)
    earlier = op("Gather", ["emitted", columns], "emitted/earlier", axis=1)
    writer.node("Where", [last, newest, earlier], ["next_emitted"], "next_emitted")


def _chosen(writer: DecoderBuilder, best: str, active: str) -> tuple[str, str]:
    """The next token of each slot, and whether it is emitted: a causal model's may be forced, which
    is how a prompt is read."""
    if not writer.plan.causal:
        return best, active
    op, known = writer.op, writer.known
    tokens = writer.input("forced_tokens", "INT64", ["slots", "capacity"])
    forced = op("GatherElements", [tokens, known["length"]], "forced", axis=1)
    free = op("Less", [forced, writer.axes("is.0", 0)], "free")
    return op("Where", [free, best, forced], "chosen"), op("And", [free, active], "emits")


def _is_eos(writer: DecoderBuilder, tokens: str) -> str:
    """Which tokens (S, 1) are end tokens, bool (S, 1)."""
    op = writer.op
    same = op("Cast", [op("Equal", [tokens, "eos_ids"], "same")], "same/counted", to=1)
    count = op("ReduceSum", [same, writer.axes("axis.1", 1)], "eos/count", keepdims=1)
    return op("Greater", [count, writer.number("none", 0.0)], "is_eos")


FORM = GraphForm("device_step", OPSET, IR, _begin, _bias, _attend, _cross, _end)


def _admit(plan: Blueprint) -> Any:
    def write(writer: DecoderBuilder, layer: str) -> None:
        encoded = _cache_input(writer, f"encoded.{layer}", "encoded")
        rows = writer.op("Gather", [encoded, "rows"], f"{layer}/rows", axis=0)
        rows = _finite(writer, rows, f"{layer}/finite")
        cross = _cache_input(writer, f"cross.{layer}", "source")
        filled = _cache_output(writer, f"filled.{layer}", "source")
        writer.node("ScatterND", [cross, writer.known["index"], rows], [filled], filled)

    return _for_all_caches(plan, "admit", ("slots", "rows", "positions"), write)


def _move(plan: Blueprint) -> Any:
    def write(writer: DecoderBuilder, layer: str) -> None:
        past = _cache_input(writer, f"past.{layer}", "capacity")
        shape = ["moved", plan.kv_heads, "capacity", plan.head_dim]
        moved = writer.output(f"moved.{layer}", "FLOAT", shape)
        writer.node("Gather", [past, "sources"], [moved], layer, axis=0)

    return _for_all_caches(plan, "move", ("sources",), write)


def _grow(plan: Blueprint) -> Any:
    def write(writer: DecoderBuilder, layer: str) -> None:
        past = _cache_input(writer, f"past.{layer}", "capacity")
        grown = _cache_output(writer, f"grown.{layer}", "grown")
        writer.node("Pad", [past, "pads"], [grown], layer)

    return _for_all_caches(plan, "grow", ("pads",), write)


_SHAPES: dict[str, list[Any]] = {
    "slots": ["n", 1, 1, 1],
    "rows": ["n"],
    "sources": ["moved"],
    "positions": [1, 1, "encoded", 1],
    "pads": [8],
}


def _for_all_caches(
    plan: Blueprint,
    name: str,
    inputs: tuple[str, ...],
    write: Callable[[DecoderBuilder, str], None],
) -> Any:
    """A graph that does the same to the caches of every layer."""
    writer = DecoderBuilder(plan, replace(FORM, name=name))
    for each in inputs:
        writer.input(each, "INT64", _SHAPES[each])
    if "positions" in inputs:
        _index(writer)
    for n in range(len(plan.layers)):
        for part in PARTS:
            write(writer, f"{n}.{part}")
    return writer.written()


def _index(writer: DecoderBuilder) -> None:
    """Slot, head and position of every vector, int64 (n, heads, encoded, 3), as `known["index"]`.

    A thread copies what one index names: for a whole slot that takes 22 ms for 512 on an H200.
    """
    import numpy as np

    op = writer.op
    heads = np.arange(writer.plan.kv_heads).reshape(1, -1, 1, 1)
    parts = {"slots": "slots", "heads": writer.weight("heads", heads), "positions": "positions"}
    zeros = {name: op("Sub", [part, part], f"zero/{name}") for name, part in parts.items()}
    columns = []
    for name, part in parts.items():
        first, second = (zeros[other] for other in parts if other != name)
        columns.append(op("Add", [op("Add", [part, first], f"{name}/some"), second], f"{name}/all"))
    writer.known["index"] = op("Concat", columns, "index", axis=-1)


def _pick(plan: Blueprint) -> Any:
    writer = DecoderBuilder(plan, replace(FORM, name="pick"))
    writer.input("logits", "FLOAT", ["slots", len(plan.head)])
    writer.input("picks", "INT64", [1])
    writer.node("TopK", ["logits", "picks"], ["best_logits", "best"], "pick", axis=-1)
    shares = writer.op("LogSoftmax", ["logits"], "shares", axis=-1)
    writer.node("GatherElements", [shares, "best"], ["best_scores"], "score", axis=1)
    writer.output("best", "INT64", ["slots", "picks"])
    writer.output("best_logits", "FLOAT", ["slots", "picks"])
    writer.output("best_scores", "FLOAT", ["slots", "picks"])
    return writer.written()


def _cache_input(writer: DecoderBuilder, name: str, positions: str) -> str:
    plan = writer.plan
    return writer.input(name, "FLOAT", ["slots", plan.kv_heads, positions, plan.head_dim])


def _cache_output(writer: DecoderBuilder, name: str, positions: str) -> str:
    plan = writer.plan
    return writer.output(name, "FLOAT", ["slots", plan.kv_heads, positions, plan.head_dim])
