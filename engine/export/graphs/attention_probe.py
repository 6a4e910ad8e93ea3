"""Runs an encoder on a few shapes, to learn what the numbers around each softmax mean.

Families write scales, masks and biases in many ways; what they compute shows when they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.export.graphs import storage
from engine.export.graphs.graph_index import GraphIndex, UnsupportedGraph

# The lengths of rows and the padded length of each shape.
_SHAPES = (((3, 7, 5), 7), ((13, 2, 8, 4, 1), 13))
# Added to a score, it leaves a weight of zero.
_HIDES = -1e4

# Tensors of the graph by name, and the rows' attention_mask, on one shape.
Probe = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Attention:
    """One attention of an encoder; names are those of tensors.

    Attributes:
        queries, keys, values: As products computed them, (rows, length, width).
        output: (rows, length, width), in front of the last product.
        heads: How many.
        scale: What scores are multiplied with.
        biases: What is added to scores besides the mask, (rows or 1, heads, length, length).
    """

    queries: str
    keys: str
    values: str
    output: str
    heads: int
    scale: float
    biases: tuple[str, ...]


@dataclass
class Candidate:
    """An attention before it is probed: as `Attention`, with the names of numbers.

    Attributes:
        by_head: Queries, keys and values as the products of scores take them, (rows, heads, ...).
        scales: Tensors that scores are multiplied with, or, with False, divided by.
        terms: Tensors that are added to scores.
    """

    queries: str = ""
    keys: str = ""
    values: str = ""
    output: str = ""
    by_head: tuple[str, ...] = ()
    scales: list[tuple[str, bool]] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)

    def probed(self) -> set[str]:
        """The tensors that `settle` looks at."""
        return {*self.by_head, *self.terms, *(name for name, _ in self.scales)}


@dataclass(frozen=True)
class ShapeTensor:
    """A tensor of sizes: int64 (n,), or () where it is `scalar`.

    Attributes:
        sizes: Each ("rows", 0), ("length", 0) or ("fixed", size).
    """

    name: str
    sizes: tuple[tuple[str, int], ...]
    scalar: bool


def probe(model: Any, names: set[str]) -> list[Probe]:
    """Run an encoder on rows of several lengths."""
    return [_run(model, names, *shape) for shape in _SHAPES]


def check_longest(model: Any, masks: set[str], max_length: int) -> None:
    """Look at what masks add to the scores of the longest row that there may be: a window that
    hides what is far away only shows there. Nothing else is computed for it.

    Raises:
        UnsupportedGraph: One of them hides a token of that row.
    """
    tensors = _run(model, masks, (max_length,), max_length)
    if any(np.any(tensors[name]) for name in masks):
        raise UnsupportedGraph


def _run(model: Any, names: set[str], lengths: tuple[int, ...], width: int) -> Probe:
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    feeds = {"input_ids": mask, "attention_mask": mask, "token_type_ids": 0 * mask}
    copy = type(model)()
    copy.CopyFrom(model)
    weights = {w.name for w in model.graph.initializer}
    tensors = storage.watch(copy, feeds, sorted(names - weights))
    return {**tensors, **_weights(model, names & weights), "attention_mask": mask}


def _weights(model: Any, names: Iterable[str]) -> Probe:
    from onnx import numpy_helper

    weights = {w.name: w for w in model.graph.initializer}
    return {name: numpy_helper.to_array(weights[name]) for name in names}


def settle(candidate: Candidate, index: GraphIndex, probes: Sequence[Probe]) -> Attention:
    """An attention with its numbers.

    Raises:
        UnsupportedGraph: It is not one over all real tokens of its row.
    """
    if any(index.depends_on(term, "input_ids") for term in candidate.terms):
        raise UnsupportedGraph
    heads = int(probes[0][candidate.by_head[0]].shape[1])
    if any(tensors[name].shape[1] != heads for tensors in probes for name in candidate.by_head):
        raise UnsupportedGraph
    masks = [term for term in candidate.terms if index.depends_on(term, "attention_mask")]
    biases = [term for term in candidate.terms if term not in masks]
    for tensors in probes:
        mask = tensors["attention_mask"]
        if not all(_hides_padding(tensors[term], mask) for term in masks):
            raise UnsupportedGraph
        if not all(_is_bias(tensors[term], mask, heads) for term in biases):
            raise UnsupportedGraph
    return Attention(
        candidate.queries,
        candidate.keys,
        candidate.values,
        candidate.output,
        heads,
        _scale(candidate.scales, probes),
        tuple(biases),
    )


def _scale(scales: Iterable[tuple[str, bool]], probes: Sequence[Probe]) -> float:
    product = 1.0
    for name, multiplies in scales:
        values = np.unique(np.concatenate([np.ravel(tensors[name]) for tensors in probes]))
        if len(values) != 1:
            raise UnsupportedGraph
        product *= float(values[0]) ** (1 if multiplies else -1)
    return product


def _is_bias(term: NDArray[Any], mask: Ints, heads: int) -> bool:
    rows, width = mask.shape
    return term.shape in {(1, heads, width, width), (rows, heads, width, width)}


def _hides_padding(term: NDArray[Any], mask: Ints) -> bool:
    """Whether a term hides the padding, from every token alike, and nothing else."""
    rows, width = mask.shape
    if term.shape not in {(rows, 1, 1, width), (rows, 1, width, width)}:
        return False
    real = np.broadcast_to((mask == 1)[:, None, None, :], term.shape)
    return bool((term[real] == 0).all() and (term[~real] <= _HIDES).all())


def settle_shape(name: str, probes: Sequence[Probe]) -> ShapeTensor:
    """A tensor of sizes with what they are.

    Raises:
        UnsupportedGraph: A size is neither rows, nor length, nor fixed.
    """
    shapes = [tensors["attention_mask"].shape for tensors in probes]
    observed = [np.ravel(tensors[name]).astype(int).tolist() for tensors in probes]
    sizes = []
    for values in zip(*observed, strict=True):
        if values == tuple(shape[0] for shape in shapes):
            sizes.append(("rows", 0))
        elif values == tuple(shape[1] for shape in shapes):
            sizes.append(("length", 0))
        elif len(set(values)) == 1:
            sizes.append(("fixed", values[0]))
        else:
            raise UnsupportedGraph
    return ShapeTensor(name, tuple(sizes), scalar=not probes[0][name].ndim)
