"""Queries and keys between their product and the attention: norms of heads, rotary positions.

GroupQueryAttention rotates them by itself where nothing comes between, and where it knows the sizes
(head_dim % 16 == 0, pairs % 8 == 0).
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.export.graphs.blueprint import Layer, Norm
from engine.export.graphs.decoder_builder import CONTRIB, DecoderBuilder


def separated(
    writer: DecoderBuilder, at: str, layer: Layer, packed: str, shapes: tuple[str, str]
) -> list[str]:
    """Queries, keys and values of a product, the first two normed.

    Args:
        packed: (tokens, all of them).
        shapes: Names of the shapes of the queries, and of keys and values.
    """
    plan = writer.plan
    sizes = writer.axes("qkv.sizes", *plan.qkv_sizes)
    names = ["query", "key", "value"]
    parts = writer.ops("Split", [packed, sizes], f"{at}/qkv/parts", names, axis=1)
    for i, norm in enumerate((layer.q_norm, layer.k_norm)):
        if norm:
            parts[i] = _normed(writer, parts[i], norm, f"{at}/{names[i]}")
    query, key = shapes
    return [
        writer.op("Reshape", [part, shape], f"{at}/{name}")
        for part, shape, name in zip(parts, (query, key, key), names, strict=True)
    ]


def _normed(writer: DecoderBuilder, part: str, norm: Norm, name: str) -> str:
    if len(norm.weight) == writer.plan.head_dim:
        part = writer.shaped(part, [-1, writer.plan.head_dim], f"{name}/heads")
    return writer.norm(part, norm, name)


def rotated(
    writer: DecoderBuilder, at: str, layer: Layer, parts: Sequence[str], positions: str
) -> list[str]:
    """Queries and keys (slots, steps, width) turned to their positions, int64 (slots, steps); and
    the values."""
    plan = writer.plan
    rotary = plan.rotaries[layer.rotary]
    dims = 2 * rotary.cosines.shape[1]
    query, key, value = parts
    turned = [
        writer.op(
            "RotaryEmbedding", [part, positions, *tables(writer, layer.rotary)], f"{name}/rotated",
            domain=CONTRIB, interleaved=int(rotary.interleaved), num_heads=heads,
            rotary_embedding_dim=dims if dims < plan.head_dim else 0,
        )
        for part, heads, name in (
            (query, plan.heads, f"{at}/query"), (key, plan.kv_heads, f"{at}/key")
        )
    ]  # fmt: skip
    return [*turned, value]


def tables(writer: DecoderBuilder, index: int) -> list[str]:
    """The names of a rotary's cosines and sines."""
    rotary = writer.plan.rotaries[index]
    named = {f"rotary.{index}.cosines": rotary.cosines, f"rotary.{index}.sines": rotary.sines}
    return [writer.weight(name, table) for name, table in named.items()]
