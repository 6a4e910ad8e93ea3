"""A recipe finds in a flat encoder what it knows of the padded one, whatever its attention is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

from engine.bundle import format as bundle_format

pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engine.export.acceptance import packing
from engine.export.graphs import graph_edits, storage
from engine.export.graphs.flat_encoder import flatten, flattened, with_flat_names
from engine.export.graphs.token_places import computes_padding
from engine.export.recipes import int8, smoothquant
from engine.export.recipes.quantizable_layers import quantizable_products

ENCODERS = checkpoints.ENCODER_TASKS
# Attention of another kind, and a decoder behind the encoder: only their products are flat.
WITH_ROWS = {"deberta-v2", "bart"}


def bundle(family: str) -> Path:
    task = ENCODERS[family]
    return bundle_of(checkpoint_of(checkpoints.encoder, family, task), task)


def graph(folder: Path) -> Any:
    return storage.load(folder, ("model.onnx",))["model.onnx"]


@pytest.mark.parametrize("family", ENCODERS)
def test_ranges_of_a_padded_encoder_are_those_of_the_flat_one(family: str) -> None:
    folder = bundle(family)
    config = bundle_format.load(folder).description.model_config
    ranges = with_flat_names(smoothquant.activation_ranges(folder, "model.onnx", config))
    plain, flat = graph(folder), graph(folder)
    graph_edits.bypass_identities(plain.graph)
    assert flatten(flat, config.max_length)
    assert not computes_padding(flat.graph)
    known = [
        sorted(str(ranges[n.input[0]]) if n.input[0] in ranges else "" for n in products)
        for products in map(quantizable_products, (plain.graph, flat.graph))
    ]
    assert known[0] == known[1]


@pytest.mark.parametrize("family", ENCODERS)
def test_a_row_in_int8_is_the_same_to_the_bit_in_any_batch(family: str) -> None:
    folder = bundle(family)
    config = bundle_format.load(folder).description.model_config
    ranges = smoothquant.activation_ranges(folder, "model.onnx", config)
    flat = graph(folder)
    flatten(flat, config.max_length)
    int8.quantize_per_token(flat, with_flat_names(ranges))
    content = flat.SerializeToString()
    lengths = [16, 9, 9, 9, 3, 3, 1, 12, 9]
    mask = (np.arange(16) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, np.random.default_rng(0).integers(5, 50, mask.shape), config.pad_id)
    ids[np.arange(len(ids)), np.array(lengths) - 1] = 2
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * mask}

    def outputs(rows: list[int], width: int) -> dict[str, Any]:
        given = {name: array[rows, :width] for name, array in feeds.items()}
        return packing.outputs(type(flat).FromString(content), given)

    together = outputs(list(range(len(lengths))), 16)
    for n, length in enumerate(lengths):
        for others in ([], [n, n], [0]):
            width = 16 if others == [0] else length
            for name, values in outputs([n, *others], width).items():
                assert np.array_equal(values[0, :length], together[name][n, :length]), (n, others)


def test_an_fp32_bundle_gets_a_flat_graph_over_the_same_weights() -> None:
    for family in ("bert", "deberta-v2"):
        folder = bundle(family)
        plain = graph(folder)
        flat = flattened({"model.onnx": plain}, 64)["model.flat.onnx"]
        loops = [node for node in flat.graph.node if node.op_type == "Loop"]
        assert bool(loops) == (family not in WITH_ROWS)
        names = {w.name for w in plain.graph.initializer if len(w.dims) == 2}
        assert names >= {w.name for w in flat.graph.initializer if len(w.dims) == 2 and w.raw_data}
