"""The likeliest tokens of many, as ONNX nodes.

ONNX Runtime's TopK passes each number through a heap. Of a whole vocabulary the highest number of
each block costs a seventh of that, and the k likeliest tokens lie in the k blocks that hold the
highest ones: before a block of theirs come only blocks with a token that comes before them.
"""

from __future__ import annotations

from typing import Any

_BLOCKS = range(16, 1025)
_BEST = 128
# Tokens up to which one TopK is as fast.
_FEW = 4096


def likeliest(
    scores: str, count: str, best: str, tokens: str, name: str, vocabulary: int
) -> tuple[list[Any], list[Any]]:
    """Nodes, and weights that are the same for every ranking in a graph.

    Args:
        scores: float (n, vocabulary).
        count: How many are wanted, int64 (1,).
        best: Their scores, highest first; (n, count).
        tokens: Their ids, int64 (n, count); the lower first where scores are equal.
        name: Of the nodes.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    def node(op: str, inputs: list[str], outputs: list[str], **attributes: int) -> Any:
        return helper.make_node(op, inputs, outputs, f"{name}/{outputs[-1]}", **attributes)

    size = block_size(vocabulary)
    if not size:
        return [node("TopK", [scores, count], [best, tokens], axis=-1)], []
    at = [f"{name}/{n}" for n in ("rows", "highest", "wanted", "maxima", "found", "blocks", "_")]
    rows, highest, wanted, maxima, found, blocks, unread = at
    index, some, flat, place = (f"{name}/{n}" for n in ("index", "some", "flat", "place"))
    which, block, first, within = (f"{name}/{n}" for n in ("which", "block", "first", "within"))
    nodes = [
        node("Reshape", [scores, "rank.shape"], [rows]),
        node("ReduceMax", [rows, "rank.last"], [highest], keepdims=0),
        node("Min", [count, "rank.blocks"], [wanted]),
        node("TopK", [highest, wanted], [maxima, found], axis=-1, sorted=0),
        # In the order of their tokens, of which the lower comes first where scores are equal.
        node("TopK", [found, wanted], [blocks, unread], axis=-1, largest=0),
        node("Unsqueeze", [blocks, "rank.last"], [index]),
        node("GatherND", [rows, index], [some], batch_dims=1),
        node("Reshape", [some, "rank.flat"], [flat]),
        node("TopK", [flat, count], [best, place], axis=-1),
        node("Div", [place, "rank.size"], [which]),
        node("GatherElements", [blocks, which], [block], axis=1),
        node("Mul", [block, "rank.size"], [first]),
        node("Mod", [place, "rank.size"], [within]),
        node("Add", [first, within], [tokens]),
    ]
    constants = {
        "rank.shape": [-1, vocabulary // size, size],
        "rank.flat": [0, -1],
        "rank.last": [-1],
        "rank.blocks": [vocabulary // size],
        "rank.size": [size],
    }
    weights = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items()]
    return nodes, weights


def block_size(vocabulary: int) -> int:
    """Tokens of a block, a divisor of the vocabulary; 0 where there is none that pays."""
    if vocabulary <= _FEW:
        return 0
    sizes = [size for size in _BLOCKS if not vocabulary % size]
    return min(sizes, key=lambda size: max(size / _BEST, _BEST / size), default=0)
