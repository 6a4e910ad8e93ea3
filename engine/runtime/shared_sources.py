"""A decode step whose beams read the source of their row: its keys and values are held once.

In a bundle's step graph every slot has a source of its own (`source_last` and `cross.N`), which the
beams of a row would hold several times, and read from memory as often. GroupQueryAttention lets
several queries share the keys and values of a head. So with B beams the queries of a row's B slots
become B heads for each head of the source:

    (slots, 1, heads * dim) -> (rows, B, heads, dim) -> (rows, heads, B, dim) -> (rows, 1, all)

and back behind the attention. Each query is computed as before, to the bit. How many heads there
are is an attribute of the op, which no input can set: the graph is rewritten when it is loaded, and
what is on the disk serves any number of beams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engine.core.confined_process import RefusedError
from engine.runtime.wire import Message, field, fields, parts

# What a step graph calls the last token of each slot's source.
SOURCE_LAST = b"source_last"
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INPUT = 7, 1, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 8, 20
_INT, _INTS = 2, 7
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_NUMBER = 1, 2, 1, 2, 1, 1
# The attribute of queries' heads.
_HEADS = b"num_heads"
# Of GroupQueryAttention's inputs: its keys that are held.
_HELD_KEYS = 3
_BY_HEAD = (0, 2, 1, 3)


def with_beams(model: bytes, beams: int) -> bytes | None:
    """A step graph in which `beams` slots, one behind the other, share a source.

    `source_last` and each `cross.N` and `last.N` then have an entry for each row, not each slot.

    Args:
        model: A step graph's ONNX file.
        beams: Slots of a row, at least 1.

    Returns:
        None where the graph has no sources.

    Raises:
        RefusedError: It is no ONNX file, or its attention over sources is of another kind.
    """
    whole = Message(model)
    graph = next((value for number, value in parts(whole) if number == _MODEL_GRAPH), Message(b""))
    sizes = _head_sizes(graph)
    nodes = [_written(node, sizes, beams) for number, node in parts(graph) if number == _GRAPH_NODE]
    if not any(nodes):
        return None
    written = iter(nodes)
    content = b"".join(
        (next(written) if one.number == _GRAPH_NODE else b"") or bytes(one.whole)
        for one in fields(graph)
    )
    return b"".join(
        field(_MODEL_GRAPH, content) if one.number == _MODEL_GRAPH else bytes(one.whole)
        for one in fields(whole)
    )


def _written(node: Message, sizes: Mapping[bytes, tuple[int, int]], beams: int) -> bytes:
    """The nodes in place of an attention over sources, as fields of the graph; else nothing."""
    inputs = [bytes(value) for number, value in parts(node) if number == _NODE_INPUT]
    if SOURCE_LAST not in inputs:
        return b""
    output = bytes(_only(node, _NODE_OUTPUT))
    if len(inputs) <= _HELD_KEYS or not output:
        raise RefusedError("attends to sources in another way than a decoder does")
    if inputs[_HELD_KEYS] not in sizes:
        raise RefusedError("holds sources in another shape than a decoder's")
    heads, size = sizes[inputs[_HELD_KEYS]]
    shared, mixed = output + b"/queries_by_row", output + b"/by_row"
    nodes = [
        *_regrouped(inputs[0], shared, (beams, heads, size), (1, beams * heads * size)),
        _attention(node, {inputs[0]: shared, output: mixed}, beams * heads),
        *_regrouped(mixed, output, (heads, beams, size), (1, heads * size)),
    ]
    return b"".join(field(_GRAPH_NODE, one) for one in nodes)


def _head_sizes(graph: Message) -> dict[bytes, tuple[int, int]]:
    """Heads, and numbers of a head, of each input (sources, heads, positions, numbers)."""
    sizes = {}
    for number, value in parts(graph):
        if number != _GRAPH_INPUT:
            continue
        shape = value
        for step in (_VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE):
            shape = _only(shape, step)
        dims = [_number(dim, _DIM_NUMBER) for n, dim in parts(shape) if n == _SHAPE_DIM]
        if len(dims) == 4 and dims[1] and dims[3]:
            sizes[bytes(_only(value, _VALUE_NAME))] = dims[1], dims[3]
    return sizes


def _regrouped(
    source: bytes, output: bytes, split: tuple[int, int, int], merged: tuple[int, int]
) -> Iterator[bytes]:
    """Nodes that swap the first two of three axes that `source`'s rows are split into."""
    names = [output + part for part in (b"/split", b"/parts", b"/swapped", b"/merged")]
    yield _node("Constant", [], names[0], {"value_ints": (-1, *split)})
    yield _node("Reshape", [source, names[0]], names[1])
    yield _node("Transpose", [names[1]], names[2], {"perm": _BY_HEAD})
    yield _node("Constant", [], names[3], {"value_ints": (-1, *merged)})
    yield _node("Reshape", [names[2], names[3]], output)


def _node(
    operator: str, inputs: list[bytes], output: bytes, numbers: Mapping[str, tuple[int, ...]] = {}
) -> bytes:
    content = [field(_NODE_INPUT, name) for name in inputs]
    content += [field(_NODE_OUTPUT, output), field(_NODE_NAME, output), field(_NODE_OP, operator)]
    for name, values in numbers.items():
        own = [field(_ATTRIBUTE_NAME, name), *(field(_ATTRIBUTE_INTS, value) for value in values)]
        content.append(field(_NODE_ATTRIBUTE, b"".join([*own, field(_ATTRIBUTE_TYPE, _INTS)])))
    return b"".join(content)


def _attention(node: Message, renamed: Mapping[bytes, bytes], heads: int) -> bytes:
    """The node with other names, and so many heads of queries."""
    content = []
    for number, value, _, whole in fields(node):
        text = Message(value or b"")
        if number in (_NODE_INPUT, _NODE_OUTPUT):
            name = bytes(text)
            content.append(field(number, renamed.get(name, name)))
        elif number == _NODE_ATTRIBUTE and _only(text, _ATTRIBUTE_NAME) == _HEADS:
            own = field(_ATTRIBUTE_NAME, _HEADS) + field(_ATTRIBUTE_INT, heads)
            content.append(field(_NODE_ATTRIBUTE, own + field(_ATTRIBUTE_TYPE, _INT)))
        else:
            content.append(bytes(whole))
    return b"".join(content)


def _only(message: Message, number: int) -> Message:
    """A field that is a message or a text; empty where there is none."""
    return next((value for n, value in parts(message) if n == number), Message(b""))


def _number(message: Message, number: int) -> int:
    """A field that is a number; 0 where there is none."""
    return next((one.integer for one in fields(message) if one.number == number), 0)
