"""A decoder's graphs for a device of its own, where everything that a step reads and writes stays.

    resident    one step: token to token, nothing from the host and nothing to it
    admit       an encoder's keys and values into the slots of rows that begin
    move        slots in another order, some of them twice (beams), or fewer
    grow        caches get more room
    pick        the likeliest of the latest logits, and their log-probabilities

A slot's state is a row of four whole numbers (`bundle.STATE_WIDTH`): the token it reads next, the
positions it has cached, the tokens it may still say, and its source's length. A step appends the
token's key and value at the slot's own length (TensorScatter, which writes in place where past and
present are one buffer), attends to as many, says the likeliest token and makes the next state of
it, or none where the token is an end or the last one allowed. What was said is kept for the last
`SYNC_EVERY` steps, so that the host need look only then. The new state is one tensor that hangs on
everything else, since it goes into the buffer that the step has read.

All shapes are those of the inputs, no op computes one (`Shape` and its kin run on a CPU), and each
has a kernel for CUDA in float32 and float16: so a step can be captured as a CUDA graph, and is one
launch. GroupQueryAttention, which the CPU's step is made of, has none for float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.bundle.format import STATE_WIDTH, SYNC_EVERY
from engine.export.graphs.architectures import Blueprint, Layer
from engine.export.graphs.decoder_builder import CONTRIB, DecoderBuilder, GraphForm

OPSET, IR = 24, 11
PARTS = ("key", "value")
# What is added to the score of a place that is not attended to: nothing is left of it behind the
# softmax, and float16 holds it.
_HIDDEN = -3e4


def graphs(plan: Blueprint) -> dict[str, Any]:
    """All of them by file name, ONNX ModelProtos.

    resident.onnx, for S slots: state, int64 (S, STATE); said, int64 (S, LATE), the tokens of the
    latest steps, the last one last, -1 where a slot said none; places and source_places, int64
    (room,) and (source,), from 0; ends, int64 (n,); past.N.key and .value, float (S, heads, room,
    head_dim); with an encoder cross.N.key and .value, (S, heads, source, head_dim); without one
    forced, int64 (S, room): the token that follows each place, -1 where it is to be said.
    Outputs: next_state, next_said and present.N, to be bound to the buffers of state, said and
    past.N; logits, float (S, vocabulary).

    admit.onnx: slots, int64 (n, 1, 1, 1); taken, int64 (n,), rows of given; places, int64
    (1, 1, given, 1), from 0; given.N, as the encoder makes cross.N; cross.N. Outputs: held.N, to be
    bound to cross.N. Places behind the given ones keep what they have, and are hidden.

    move.onnx: sources, int64 (n,); past.N. Outputs: moved.N, of the slots that sources names.

    grow.onnx: pads, int64 (8,); past.N. Outputs: grown.N.

    pick.onnx: logits; picks, int64 (1,). Outputs: best, int64 (S, picks); best_logits and
    best_scores, their log-probabilities, float.
    """
    found = {
        "resident.onnx": DecoderBuilder(plan, FORM).model(),
        "move.onnx": _moved(plan),
        "grow.onnx": _grown(plan),
        "pick.onnx": _picked(plan),
    }
    return found if plan.causal else {**found, "admit.onnx": _admitted(plan)}


def _begin(writer: DecoderBuilder) -> str:
    op, known = writer.op, writer.known
    state = writer.input("state", "INT64", ["slots", STATE_WIDTH])
    places = writer.input("places", "INT64", ["room"])
    writer.input("said", "INT64", ["slots", SYNC_EVERY])
    writer.input("ends", "INT64", ["ends"])
    # Columns (S, 1).
    names = ["token", "length", "left", "source"]
    columns = writer.ops("Split", [state], "state/parts", names, axis=1, num_outputs=STATE_WIDTH)
    known.update(zip(names, columns, strict=True))
    flat = writer.axes("shape.-1", -1)
    known["at"] = op("Reshape", [known["length"], flat], "at")
    known["ahead"] = op("Greater", [places, known["length"]], "ahead")
    tokens = op("Reshape", [known["token"], flat], "tokens")
    return writer.embedded(tokens, known["at"])


def _bias(writer: DecoderBuilder) -> str:
    """For every cached place, float (S, heads or 1, 1, room): T5's bias, and what hides the rest;
    and the same of the source, which is `known["beyond"]`."""
    import numpy as np

    op, known = writer.op, writer.known
    middle = writer.axes("axes.1.2", 1, 2)
    if not writer.plan.causal:
        source_places = writer.input("source_places", "INT64", ["source"])
        beyond = op("GreaterOrEqual", [source_places, known["source"]], "beyond")
        known["beyond"] = op("Unsqueeze", [_hiding(writer, beyond, "beyond"), middle], "beyond/all")
    hidden = op("Unsqueeze", [_hiding(writer, known["ahead"], "ahead"), middle], "ahead/all")
    if writer.plan.distances is None:
        return hidden
    table = np.asarray(writer.plan.distances)
    zero = writer.weight("zero", np.array(0, np.int64))
    far = writer.weight("farthest", np.array(table.shape[1] - 1, np.int64))
    gap = op("Sub", [known["length"], "places"], "gap")
    distance = op("Min", [op("Max", [gap, zero], "gap/behind"), far], "distance")
    bias = op("Gather", [writer.weight("distances", table), distance], "bias", axis=1)
    bias = op("Transpose", [bias], "bias/by_slot", perm=[1, 0, 2])
    bias = op("Unsqueeze", [bias, writer.axes("axes.2", 2)], "bias/whole")
    return op("Add", [bias, hidden], "bias/hidden")


def _hiding(writer: DecoderBuilder, where: str, name: str) -> str:
    none, much = writer.number("none", 0.0), writer.number("hidden", _HIDDEN)
    return writer.op("Where", [where, much, none], f"{name}/hiding")


def _attend(writer: DecoderBuilder, at: str, n: int, layer: Layer, given: str, bias: str) -> str:
    plan = writer.plan
    packed = _finite(writer, writer.linear(given, layer.qkv, f"{at}/qkv"), f"{at}/qkv/finite")
    parts = writer.ops("Split", [packed], f"{at}/parts", ["q", "k", "v"], axis=1, num_outputs=3)
    q, *made = (writer.shaped(p, [0, plan.heads, 1, plan.head_dim], p) for p in parts)
    present = []
    for part, new in zip(PARTS, made, strict=True):
        past = _cache(writer, f"past.{n}.{part}", "room")
        kept = _cached(writer, f"present.{n}.{part}", "room")
        writer.node("TensorScatter", [past, new, writer.known["at"]], [kept], kept, axis=2)
        present.append(kept)
    return _attention(writer, q, present, bias, f"{at}/attention")


def _finite(writer: DecoderBuilder, numbers: str, name: str) -> str:
    """Zeros in the place of NaN and what the type does not hold. What a row leaves in its slot is
    hidden from the next one by a sum and a product, through which such numbers would get."""
    largest, none = writer.number("largest", 3e38), writer.number("none", 0.0)
    fits = writer.op("Less", [writer.op("Abs", [numbers], f"{name}/size"), largest], f"{name}/fits")
    return writer.op("Where", [fits, numbers, none], name)


def _cross(writer: DecoderBuilder, at: str, n: int, layer: Layer, given: str, bias: str) -> str:
    plan = writer.plan
    assert layer.cross_q
    query = writer.linear(given, layer.cross_q, f"{at}/cross_q")
    query = writer.shaped(query, [0, plan.heads, 1, plan.head_dim], f"{at}/cross_q")
    caches = [_cache(writer, f"cross.{n}.{part}", "source") for part in PARTS]
    return _attention(writer, query, caches, writer.known["beyond"], f"{at}/cross")


def _attention(writer: DecoderBuilder, query: str, caches: list[str], bias: str, name: str) -> str:
    plan, op = writer.plan, writer.op
    key, value = caches
    scores = op(
        "FusedMatMul", [query, key], f"{name}/scores", domain=CONTRIB, transB=1, alpha=plan.scale
    )
    scores = op("Add", [scores, bias], f"{name}/biased")
    shares = op("Softmax", [scores], f"{name}/shares", axis=-1)
    made = op("MatMul", [shares, value], name)
    return writer.shaped(made, [0, plan.heads * plan.head_dim], name)


def _end(writer: DecoderBuilder, states: str) -> None:
    """Logits; and the token that is said, with the next state that follows from it."""
    writer.head(states)
    one = writer.axes("one", 1)
    best = writer.ops("TopK", ["logits", one], "best", ["score", "token"], axis=-1)[1]
    _next(writer, best)
    writer.output("logits", "FLOAT", ["slots", len(writer.plan.head)])
    writer.output("next_state", "INT64", ["slots", STATE_WIDTH])
    writer.output("next_said", "INT64", ["slots", SYNC_EVERY])


def _next(writer: DecoderBuilder, best: str) -> None:
    """The next state of the likeliest tokens (S, 1)."""
    import numpy as np

    op, known = writer.op, writer.known
    none, one, minus = (writer.axes(f"is.{n}", n) for n in (0, 1, -1))
    alive = op("Greater", [known["left"], none], "alive")
    chosen, says = _chosen(writer, best, alive)
    fewer = op("Sub", [known["left"], one], "fewer")
    ended = op("And", [_ended(writer, chosen), says], "ended")
    left = op("Where", [says, fewer, known["left"]], "left/said")
    left = op("Where", [ended, none, left], "left/going")
    going = op("Greater", [left, none], "going")
    longer = op("Add", [known["length"], one], "longer")
    length = op("Where", [going, longer, known["length"]], "length/next")
    token = op("Where", [going, chosen, known["token"]], "token/next")
    writer.node(
        "Concat", [token, length, left, known["source"]], ["next_state"], "next_state", axis=1
    )
    told = op("Where", [says, chosen, minus], "told")
    # A Concat of unequal parts takes their sizes from the host at each launch, captured or not.
    columns = writer.axes("said/columns", *range(1, SYNC_EVERY), SYNC_EVERY - 1)
    newest = writer.weight("said/newest", np.arange(SYNC_EVERY)[None] == SYNC_EVERY - 1)
    earlier = op("Gather", ["said", columns], "said/earlier", axis=1)
    writer.node("Where", [newest, told, earlier], ["next_said"], "next_said")


def _chosen(writer: DecoderBuilder, best: str, alive: str) -> tuple[str, str]:
    """The next token of each slot, and whether it is said: of a causal model it may be given, which
    is how a prompt is read."""
    if not writer.plan.causal:
        return best, alive
    op, known = writer.op, writer.known
    forced = writer.input("forced", "INT64", ["slots", "room"])
    given = op("GatherElements", [forced, known["length"]], "given", axis=1)
    free = op("Less", [given, writer.axes("is.0", 0)], "free")
    return op("Where", [free, best, given], "chosen"), op("And", [free, alive], "says")


def _ended(writer: DecoderBuilder, tokens: str) -> str:
    """Which tokens (S, 1) are ends, bool (S, 1)."""
    op = writer.op
    same = op("Cast", [op("Equal", [tokens, "ends"], "same")], "same/counted", to=1)
    count = op("ReduceSum", [same, writer.axes("axis.1", 1)], "ends/count", keepdims=1)
    return op("Greater", [count, writer.number("none", 0.0)], "is_end")


FORM = GraphForm("resident", OPSET, IR, _begin, _bias, _attend, _cross, _end)


def _admitted(plan: Blueprint) -> Any:
    def write(writer: DecoderBuilder, layer: str) -> None:
        given = _cache(writer, f"given.{layer}", "given")
        rows = writer.op("Gather", [given, "taken"], f"{layer}/rows", axis=0)
        rows = _finite(writer, rows, f"{layer}/finite")
        cross = _cache(writer, f"cross.{layer}", "source")
        held = _cached(writer, f"held.{layer}", "source")
        writer.node("ScatterND", [cross, writer.known["index"], rows], [held], held)

    return _of_caches(plan, "admit", ("slots", "taken", "places"), write)


def _moved(plan: Blueprint) -> Any:
    def write(writer: DecoderBuilder, layer: str) -> None:
        past = _cache(writer, f"past.{layer}", "room")
        shape = ["moved", plan.heads, "room", plan.head_dim]
        moved = writer.output(f"moved.{layer}", "FLOAT", shape)
        writer.node("Gather", [past, "sources"], [moved], layer, axis=0)

    return _of_caches(plan, "move", ("sources",), write)


def _grown(plan: Blueprint) -> Any:
    def write(writer: DecoderBuilder, layer: str) -> None:
        past = _cache(writer, f"past.{layer}", "room")
        writer.node("Pad", [past, "pads"], [_cached(writer, f"grown.{layer}", "grown")], layer)

    return _of_caches(plan, "grow", ("pads",), write)


_SHAPES: dict[str, list[Any]] = {
    "slots": ["n", 1, 1, 1],
    "taken": ["n"],
    "sources": ["moved"],
    "places": [1, 1, "placed", 1],
    "pads": [8],
}


def _of_caches(
    plan: Blueprint,
    name: str,
    inputs: tuple[str, ...],
    write: Callable[[DecoderBuilder, str], None],
) -> Any:
    """A graph that does the same to the caches of every layer."""
    writer = DecoderBuilder(plan, replace(FORM, name=name))
    for each in inputs:
        writer.input(each, "INT64", _SHAPES[each])
    if "places" in inputs:
        _placed(writer)
    for n in range(len(plan.layers)):
        for part in PARTS:
            write(writer, f"{n}.{part}")
    return writer.written()


def _placed(writer: DecoderBuilder) -> None:
    """Slot, head and place of every vector, int64 (n, heads, placed, 3), as `known["index"]`: a
    thread copies what one index names, which must not be a slot (22 ms for 512 on an H200)."""
    import numpy as np

    op = writer.op
    heads = np.arange(writer.plan.heads).reshape(1, -1, 1, 1)
    parts = {"slots": "slots", "heads": writer.weight("heads", heads), "places": "places"}
    nothing = {name: op("Sub", [own, own], f"no/{name}") for name, own in parts.items()}
    columns = []
    for name, own in parts.items():
        first, second = (nothing[other] for other in parts if other != name)
        columns.append(op("Add", [op("Add", [own, first], f"{name}/some"), second], f"{name}/all"))
    writer.known["index"] = op("Concat", columns, "index", axis=-1)


def _picked(plan: Blueprint) -> Any:
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


def _cache(writer: DecoderBuilder, name: str, room: str) -> str:
    plan = writer.plan
    return writer.input(name, "FLOAT", ["slots", plan.heads, room, plan.head_dim])


def _cached(writer: DecoderBuilder, name: str, room: str) -> str:
    plan = writer.plan
    return writer.output(name, "FLOAT", ["slots", plan.heads, room, plan.head_dim])
