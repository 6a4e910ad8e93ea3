"""What a bundle records of its graphs: which device loads them, and how."""

from __future__ import annotations

from collections.abc import Collection

from engine.core.device import CPU, Device
from engine.export.graphs.records import records

GPU = Device("cuda")
DEVICE_FILES = ("resident.onnx", "admit.onnx", "move.onnx", "grow.onnx", "pick.onnx")


def loaded(files: Collection[str], device: Device, recipe: str = "fp32") -> set[str]:
    return {graph.file for graph in records(files, recipe) if graph.loads_on(device)}


def test_each_device_decodes_with_its_own_step_or_with_the_only_one() -> None:
    both = ("encoder.onnx", "step.onnx", *DEVICE_FILES)
    assert loaded(both, CPU) == {"encoder.onnx", "step.onnx"}
    assert loaded(both, GPU) == {"encoder.onnx", *DEVICE_FILES}
    for only in (("step.onnx",), DEVICE_FILES):
        assert loaded(only, CPU) == loaded(only, GPU) == set(only)


def test_a_gpu_loads_an_encoder_without_padding_and_the_graphs_behind_it() -> None:
    files = ("model.onnx", "model.packed.onnx", "pool.onnx", "dense.onnx")
    assert loaded(files, CPU) == {"model.onnx", "dense.onnx"}
    assert loaded(files, GPU) == {"model.packed.onnx", "pool.onnx", "dense.onnx"}
    assert loaded(("model.onnx", "at.onnx"), GPU) == {"model.onnx", "at.onnx"}
    assert {g.file for g in records(files, "fp32") if g.packed} == {"model.packed.onnx"}


def test_the_cpu_loads_an_encoder_whose_products_are_flat() -> None:
    for files in (("model.onnx", "model.flat.onnx"), ("encoder.onnx", "encoder.flat.onnx")):
        assert loaded(files, CPU) == {files[1]}
        assert loaded(files, GPU) == {files[0]}


def test_only_the_step_of_a_gpu_is_captured() -> None:
    graphs = records(("encoder.onnx", "step.onnx", *DEVICE_FILES), "fp32")
    assert [graph.role for graph in graphs if graph.captured] == ["device_step"]


def test_tf32_is_for_the_products_of_fp16_that_it_holds() -> None:
    files = ("encoder.onnx", "encoder.packed.onnx", *DEVICE_FILES)
    assert not any(graph.tf32 for graph in records(files, "fp32"))
    tf32 = {graph.file for graph in records(files, "fp16") if graph.tf32}
    assert tf32 == {"encoder.onnx", "encoder.packed.onnx", "resident.onnx"}
    assert not any(graph.tf32 for graph in records(("model.onnx", "dense.onnx"), "fp16"))
