"""Which products of a graph a recipe moved most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.bundle.format import BundleFolder
from engine.export.acceptance import parity
from engine.export.graphs import storage
from engine.export.recipes.quantizable_layers import weighted
from engine.export.recipes.smoothquant import ENCODERS

_NAMED = 5


def moved(plain: BundleFolder, made: Path) -> tuple[str, ...]:
    """The products at which the graphs of two bundles part, worst first, with how far.

    A product's share is the relative error of its output less that of its input, on
    `proof.SENTENCES`: what it adds, not what it was handed. Empty where the bundle has no encoder.
    """
    found = []
    for name in plain.graphs:
        if name in ENCODERS:
            found += _parted(plain, made, name)
    found.sort(reverse=True)
    return tuple(f"{node} (+{share:.1%})" for share, node in found[:_NAMED])


def _parted(plain: BundleFolder, made: Path, name: str) -> list[tuple[float, str]]:
    models = [storage.load(path, (name,))[name] for path in (plain.path, made)]
    products = weighted(models[0].graph)
    there = {output for node in models[1].graph.node for output in node.output}
    given = {i.name for i in models[0].graph.input}
    read = {node.input[0] for node in products} | {node.output[0] for node in products}
    shared = sorted((read & there) - given)
    batch = parity.encode(plain.path, plain.description.model_config)
    real = batch["attention_mask"] == 1
    ours, theirs = (storage.watch(model, batch, shared) for model in models)
    errors = {n: _error(ours[n], theirs[n], real) for n in shared}
    ends = [(node.name, node.input[0], node.output[0]) for node in products]
    return [(errors[b] - errors.get(a, 0.0), node) for node, a, b in ends if b in errors]


def _error(ours: Any, theirs: Any, real: Any) -> float:
    """Relative, without padding; what is no number is as wrong as can be."""
    import numpy as np

    if ours.shape[:2] == real.shape:
        ours, theirs = ours[real], theirs[real]
    error = np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(ours)), 1e-30)
    return float(np.nan_to_num(error, nan=np.inf))
