"""ONNX files byte by byte (onnx.proto), for graphs that no library would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FLOAT, INT64 = 1, 7
Dims = Sequence[int | str]


def varint(number: int) -> bytes:
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number: int, value: bytes | str | int) -> bytes:
    """A field of a message: a number, or bytes of a text or of another message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(
    name: str,
    dims: Sequence[int],
    raw: bytes = b"",
    kind: int = FLOAT,
    external: Mapping[str, str] = {},
) -> bytes:
    """Weights, in the file or in another one."""
    entries = [field(13, field(1, key) + field(2, value)) for key, value in external.items()]
    content = b"".join(field(1, dim) for dim in dims) + field(2, kind) + field(8, name)
    if entries:
        return content + b"".join(entries) + field(14, 1)
    return content + field(9, raw)


def attribute(name: str, value: bytes | int, kind: int = 2) -> bytes:
    """Of a node: a number (kind 2), a tensor (4) or a graph (5)."""
    return field(5, field(1, name) + field({2: 3, 4: 5, 5: 6}[kind], value) + field(20, kind))


def node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: bytes = b"",
    domain: str = "",
) -> bytes:
    names = [field(1, name) for name in inputs] + [field(2, name) for name in outputs]
    return b"".join(names) + field(4, operator) + attributes + field(7, domain)


def value(name: str, dims: Dims, kind: int = FLOAT) -> bytes:
    """An input or output."""
    shape = b"".join(field(1, field(1 if isinstance(dim, int) else 2, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def graph(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes] = (),
    outputs: Sequence[bytes] = (),
    weights: Sequence[bytes] = (),
) -> bytes:
    parts = ((1, nodes), (5, weights), (11, inputs), (12, outputs))
    return field(2, "g") + b"".join(field(n, part) for n, some in parts for part in some)


def model(graph: bytes, *, domains: Sequence[str] = (), rest: bytes = b"") -> bytes:
    versions = [field(8, field(1, "") + field(2, 17))]
    versions += [field(8, field(1, domain) + field(2, 1)) for domain in domains]
    return field(1, 8) + b"".join(versions) + field(7, graph) + rest
