"""Ranks the matrix products of a graph by the error that a recipe adds there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import BundleFolder
from engine.export.graphs import storage
from engine.export.graphs.records import FLAT
from engine.export.recipes.quantizable_layers import weighted_products
from engine.export.recipes.smoothquant import ENCODERS
from engine.export.sentences import encode
from engine.measures.vectors import relative_error

_NAMED = 5


def worst_layers(plain: BundleFolder, rewritten: Path) -> tuple[str, ...]:
    """The products that add most error, worst first, with their share.

    What a product adds is the relative error of its output minus that of its input, on
    `sentences.SENTENCES`.

    Args:
        plain: The fp32 bundle.
        rewritten: The folder of the bundle made from it.

    Returns:
        Empty where the bundle has no encoder.
    """
    added = [
        pair
        for graph in plain.description.graphs
        if graph.role in ENCODERS and graph.file not in FLAT.values()
        for pair in _added_errors(plain, rewritten, graph.file)
    ]
    return tuple(f"{node} (+{error:.1%})" for error, node in sorted(added, reverse=True)[:_NAMED])


def _added_errors(plain: BundleFolder, rewritten: Path, name: str) -> list[tuple[float, str]]:
    models = [storage.load(path, (name,))[name] for path in (plain.path, rewritten)]
    graph, computed = models[0].graph, _computed(models[1].graph)
    sums = {
        name: node.output[0] for node in graph.node if node.op_type == "Add" for name in node.input
    }
    ends = []
    for node in weighted_products(graph):
        output = node.output[0]
        # A recipe may add the bias inside the product.
        output = output if output in computed else sums.get(output, output)
        ends.append((node.name, node.input[0], output))
    watched = {tensor for _, source, output in ends for tensor in (source, output)}
    shared = sorted(watched & computed - {i.name for i in graph.input})
    batch = encode(plain.path, plain.description.model_config)
    expected, actual = (storage.watch(model, batch, shared) for model in models)
    errors = _errors(expected, actual, batch["attention_mask"] == 1)
    return [(errors[b] - errors.get(a, 0.0), node) for node, a, b in ends if b in errors]


def _computed(graph: Any) -> set[str]:
    return {output for node in graph.node for output in node.output}


def _errors(
    expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]], real: NDArray[Any]
) -> dict[str, float]:
    """Relative errors by tensor, without padding, which `actual` may lack; NaN counts as
    infinite."""
    errors = {}
    for name, values in expected.items():
        at = real if values.shape[:2] == real.shape else ...
        is_flat = actual[name].ndim < values.ndim
        error = relative_error(values[at], actual[name] if is_flat else actual[name][at])
        errors[name] = float(np.nan_to_num(error, nan=np.inf))
    return errors
