"""Encoders whose attention alone computes padding give what those with padding give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

from engine.bundle import format as bundle_format
from engine.bundle.batching import bucket

pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engine.export.acceptance import packing
from engine.export.graphs import storage
from engine.export.graphs.flat_tokens import flatten_tokens

# Attention of another kind, and a decoder behind the encoder.
KEEP_PADDING = {name: checkpoints.ENCODER_TASKS[name] for name in ("deberta-v2", "bart")}
ENCODERS = {n: task for n, task in checkpoints.ENCODER_TASKS.items() if n not in KEEP_PADDING}
SHAPES = (
    ([16, 3, 9, 1, 12], 16),
    ([5], 8),
    ([8, 8], 8),
    ([1, 1], 1),
    ([3] * 50 + [4, 3, 3] + [5] * 30, 8),
)
WIDEST = 512


def encoder(family: str) -> tuple[Any, int]:
    """A family's small graph and its padding's id."""
    task = {**ENCODERS, **KEEP_PADDING}[family]
    folder = bundle_of(checkpoint_of(checkpoints.encoder, family, task), task)
    config = bundle_format.load(folder).description.model_config
    return storage.load(folder, ("model.onnx",))["model.onnx"], config.pad_id


def rows(lengths: list[int], width: int, pad: int) -> dict[str, Any]:
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, np.random.default_rng(0).integers(5, 50, mask.shape), pad)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * mask}


def copy_of(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


@pytest.mark.parametrize("family", ENCODERS)
def test_outputs_with_flat_tokens_are_the_same(family: str) -> None:
    plain, pad = encoder(family)
    flat = copy_of(plain)
    assert flatten_tokens(flat, 64)
    assert [i.name for i in flat.graph.input] == [i.name for i in plain.graph.input]
    ops = [node.op_type for node in flat.graph.node]
    assert ops.count("Loop") == 2
    assert "PackedMultiHeadAttention" not in ops
    for lengths, width in SHAPES:
        feeds = rows(lengths, width, pad)
        expected = packing.outputs(copy_of(plain), feeds)
        assert packing.largest_error(copy_of(flat), expected, feeds) < 1e-5


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_rows_without_tokens_change_nothing(family: str) -> None:
    flat, pad = encoder(family)
    assert flatten_tokens(flat, 64)
    lengths = [0, 4, 4, 0, 0, 4, 2, 0]
    feeds, real = rows(lengths, 8, pad), [n for n, length in enumerate(lengths) if length]
    together = packing.outputs(copy_of(flat), feeds)
    apart = packing.outputs(copy_of(flat), {name: array[real] for name, array in feeds.items()})
    for name, values in apart.items():
        for n, row in enumerate(real):
            length = lengths[row]
            assert np.array_equal(values[n, :length], together[name][row, :length])


@pytest.mark.parametrize("family", KEEP_PADDING)
def test_a_graph_with_another_attention_keeps_its_padding(family: str) -> None:
    plain, _ = encoder(family)
    flat = copy_of(plain)
    assert not flatten_tokens(flat, 64)
    assert flat == plain


def test_the_graph_keeps_its_weights_and_its_operator_set() -> None:
    plain, _ = encoder("bert")
    flat = copy_of(plain)
    flatten_tokens(flat, 64)
    versions = [{o.domain: o.version for o in model.opset_import} for model in (plain, flat)]
    assert versions[1] == {**versions[0], "com.microsoft": 1}
    names = [
        {w.name for w in model.graph.initializer if len(w.dims) == 2} for model in (plain, flat)
    ]
    assert names[0] == names[1]
    (loops,) = [{n.input[0] for n in flat.graph.node if n.op_type == "Loop"}]
    assert loops == {"groups/count"}


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_row_is_the_same_to_the_bit_at_any_padded_length(family: str) -> None:
    """MPNet adds a bias of positions to its scores."""
    task = ENCODERS[family]
    folder = bundle_of(
        checkpoint_of(checkpoints.encoder, family, task, max_position_embeddings=WIDEST + 2), task
    )
    flat = storage.load(folder, ("model.onnx",))["model.onnx"]
    pad = bundle_format.load(folder).description.model_config.pad_id
    assert flatten_tokens(flat, WIDEST)
    lengths = sorted({*range(2, 66, 7), *range(65, WIDEST, 63), WIDEST})
    together = rows(lengths, WIDEST, pad)
    expected = packing.outputs(copy_of(flat), together)
    for n, length in enumerate(lengths):
        for width in {bucket(length, WIDEST), bucket(length + 40, WIDEST)}:
            feeds = {name: array[n : n + 1, :width] for name, array in together.items()}
            for name, values in packing.outputs(copy_of(flat), feeds).items():
                assert np.isfinite(values).all()
                assert np.array_equal(values[0, :length], expected[name][n, :length]), (n, width)
