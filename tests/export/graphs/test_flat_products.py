"""Encoders whose products compute no padding give what those with it give: in int8 every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

from engine.bundle import format as bundle_format
from engine.core.device import CPU, Device

pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engine.export.acceptance import packing
from engine.export.graphs import graph_edits, storage
from engine.export.graphs.flat_products import ROWS, flatten_products
from engine.export.graphs.token_places import computes_padding
from engine.export.recipes import int8, smoothquant

ENCODERS = checkpoints.ENCODER_TASKS
SHAPES = (([16, 3, 9, 1, 12], 16), ([5], 8), ([8, 8], 8), ([1, 1], 1))


def bundle(family: str) -> Path:
    task = ENCODERS[family]
    return bundle_of(checkpoint_of(checkpoints.encoder, family, task), task)


def graph(folder: Path, file: str = "model.onnx") -> Any:
    return storage.load(folder, (file,))[file]


def rows(lengths: list[int], width: int, pad: int, eos: int = 2) -> dict[str, Any]:
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, np.random.default_rng(0).integers(5, 50, mask.shape), pad)
    ids[np.arange(len(ids)), np.array(lengths) - 1] = eos
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * mask}


def outputs(model: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    return packing.outputs(copy_of(model), feeds)


def copy_of(model: Any) -> Any:
    return type(model).FromString(model.SerializeToString())


@pytest.mark.parametrize("family", ENCODERS)
def test_float32_is_the_same_but_for_rounding(family: str) -> None:
    folder = bundle(family)
    plain, flat = graph(folder), graph(folder)
    pad = bundle_format.load(folder).description.model_config.pad_id
    assert flatten_products(flat) >= 8
    assert not computes_padding(flat.graph)
    assert [i.name for i in flat.graph.input] == [i.name for i in plain.graph.input]
    for lengths, width in SHAPES:
        feeds = rows(lengths, width, pad)
        expected = outputs(plain, feeds)
        assert packing.largest_error(copy_of(flat), expected, feeds) < 1e-5


@pytest.mark.parametrize("family", ENCODERS)
def test_float32_has_a_graph_for_each_kind_of_device(family: str) -> None:
    folder = bundle_format.load(bundle(family))
    for device, file in ((CPU, "model.flat.onnx"), (Device("cuda"), "model.onnx")):
        (model,) = [g.file for g in folder.graphs_for(device) if g.role == "model"]
        assert model == file
        assert computes_padding(graph(folder.path, file).graph) == (device != CPU)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_row_of_float32_does_not_depend_on_the_rows_beside_it(family: str) -> None:
    folder = bundle(family)
    config = bundle_format.load(folder).description.model_config
    flat = graph(folder, "model.flat.onnx")
    lengths = [16, 3, 9, 2, 12]
    feeds = rows(lengths, 16, config.pad_id)
    together = outputs(flat, feeds)
    for n, length in enumerate(lengths):
        alone = outputs(flat, {name: array[n : n + 1] for name, array in feeds.items()})
        for name, values in alone.items():
            assert np.array_equal(values[0, :length], together[name][n, :length]), (n, name)


@pytest.mark.parametrize("family", ENCODERS)
def test_int8_is_the_same_to_the_bit(family: str) -> None:
    folder = bundle(family)
    plain, flat = graph(folder), graph(folder)
    config = bundle_format.load(folder).description.model_config
    ranges = smoothquant.activation_ranges(folder, "model.onnx", config)
    flatten_products(flat)
    graph_edits.bypass_identities(plain.graph)
    int8.quantize_per_token(plain, ranges)
    in_rows = {f"{name}{ROWS}": values for name, values in ranges.items()}
    int8.quantize_per_token(flat, {**ranges, **in_rows})
    for lengths, width in SHAPES:
        feeds = rows(lengths, width, config.pad_id)
        actual = outputs(flat, feeds)
        for name, expected in outputs(plain, feeds).items():
            assert np.array_equal(expected, actual[name]), (name, lengths)


def test_a_graph_without_products_of_tokens_is_left_alone() -> None:
    from onnx import TensorProto, helper

    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", "length"])
    out = helper.make_tensor_value_info("logits", TensorProto.INT64, ["rows", "length"])
    node = helper.make_node("Neg", ["attention_mask"], ["logits"])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(
        helper.make_graph([node], "graph", [mask], [out]), opset_imports=[opset], ir_version=8
    )
    before = model.SerializeToString()
    assert flatten_products(model) == 0
    assert model.SerializeToString() == before
    assert computes_padding(model.graph)
