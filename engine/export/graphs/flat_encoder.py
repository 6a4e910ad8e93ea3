"""Encoders for a CPU that compute as little padding as their attention allows."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

from engine.export.graphs.flat_products import ROWS, flatten_products
from engine.export.graphs.flat_tokens import flatten_tokens
from engine.export.graphs.records import FLAT
from engine.export.graphs.remove_padding import TOKENS

_Value = TypeVar("_Value")


def flatten(model: Any, max_length: int) -> bool:
    """Rewrite an encoder's float32 graph in place: all of it by `flat_tokens`, or, where its
    attention is of another kind, its products by `flat_products`.

    Args:
        model, max_length: As `remove_padding` takes them.

    Returns:
        False, with the graph unchanged, where neither knows it.
    """
    return flatten_tokens(model, max_length) or flatten_products(model) > 0


def flattened(graphs: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Of an fp32 bundle's encoders the same for a CPU, by file name; an encoder that cannot be flat
    has none.

    Args:
        graphs: ONNX ModelProtos by file name.
        max_length: Tokens of a row at most.
    """
    found = {}
    for file in FLAT.keys() & graphs.keys():
        copy = deepcopy(graphs[file])
        if flatten(copy, max_length):
            found[FLAT[file]] = copy
    return found


def with_flat_names(values: Mapping[str, _Value]) -> dict[str, _Value]:
    """Values of tensors of an encoder, by name, with those of the same tensors in a flat one."""
    named = {f"{name}{end}": value for name, value in values.items() for end in (ROWS, TOKENS)}
    return {**values, **named}
