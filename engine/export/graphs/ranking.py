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

    size = block_size(vocabulary)
    if not size:
        top = helper.make_node("TopK", [scores, count], [best, tokens], f"{name}/{tokens}", axis=-1)
        return [top], []
    given = {"scores": scores, "count": count, "best": best, "tokens": tokens}
    own = {word: given.get(word, f"{name}/{word}") for step in _STEPS for word in _words(step)}
    nodes = [
        helper.make_node(
            op, *([own.get(n, n) for n in names] for names in (read, written)),
            name=f"{name}/{own[written[-1]]}", **attributes,
        )
        for op, read, written, attributes in _STEPS
    ]  # fmt: skip
    constants = {
        "rank.shape": [-1, vocabulary // size, size],
        "rank.flat": [0, -1],
        "rank.last": [-1],
        "rank.blocks": [vocabulary // size],
        "rank.size": [size],
    }
    weights = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items()]
    return nodes, weights


# Operator, inputs, outputs and attributes; constants of the graph are named rank.
_STEPS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], dict[str, int]], ...] = (
    ("Reshape", ("scores", "rank.shape"), ("rows",), {}),
    ("ReduceMax", ("rows", "rank.last"), ("highest",), {"keepdims": 0}),
    ("Min", ("count", "rank.blocks"), ("wanted",), {}),
    ("TopK", ("highest", "wanted"), ("maxima", "unordered"), {"axis": -1, "sorted": 0}),
    # In the order of their tokens, of which the lower comes first where scores are equal.
    ("TopK", ("unordered", "wanted"), ("blocks", "unread"), {"axis": -1, "largest": 0}),
    ("Unsqueeze", ("blocks", "rank.last"), ("index",), {}),
    ("GatherND", ("rows", "index"), ("some",), {"batch_dims": 1}),
    ("Reshape", ("some", "rank.flat"), ("flat",), {}),
    ("TopK", ("flat", "count"), ("best", "place"), {"axis": -1}),
    ("Div", ("place", "rank.size"), ("which",), {}),
    ("GatherElements", ("blocks", "which"), ("block",), {"axis": 1}),
    ("Mul", ("block", "rank.size"), ("first",), {}),
    ("Mod", ("place", "rank.size"), ("within",), {}),
    ("Add", ("first", "within"), ("tokens",), {}),
)


def _words(step: tuple[str, tuple[str, ...], tuple[str, ...], dict[str, int]]) -> list[str]:
    """Tensors of a step that are no constants."""
    return [word for word in (*step[1], *step[2]) if not word.startswith("rank.")]


def block_size(vocabulary: int) -> int:
    """Tokens of a block, a divisor of the vocabulary; 0 where there is none that pays."""
    if vocabulary <= _FEW:
        return 0
    sizes = [size for size in _BLOCKS if not vocabulary % size]
    return min(sizes, key=lambda size: max(size / _BEST, _BEST / size), default=0)
