"""A bundle's graphs and their weights on disk: equal weights of all graphs are stored once.

Graphs contain their small tensors; the others are in `WEIGHTS`, which graphs refer to as ONNX's
external data. T5's embedding serves encoder, decoder and head, and is stored once; and no graph
exceeds the 2 GiB of a protobuf message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from engine.bundle.format import WEIGHTS
from engine.errors import ExportError
from engine.export.graphs.packed_attention_reference import with_reference_attention
from engine.runtime.device import runtime

# Tensors of at least as many bytes are stored outside of their graph.
_LEAST = 1024
# ONNX Runtime maps a tensor into memory if it begins at a page boundary.
_PAGE = 4096
_NOT_SUPPORTED = "export another checkpoint of this task; this architecture is not supported"


def save(graphs: Mapping[str, Any], folder: Path) -> None:
    """Write graphs, by file name, and their weights; the graphs lose their weights.

    Raises:
        ExportError: A graph is invalid.
    """
    import onnx

    _write(graphs, folder)
    for name in graphs:
        try:
            onnx.checker.check_model(str(folder / name))
        except onnx.checker.ValidationError as error:
            raise ExportError(
                f"{name}: the rewritten graph is not valid ONNX: {str(error).splitlines()[0]}",
                _NOT_SUPPORTED,
            ) from error


def _write(graphs: Mapping[str, Any], folder: Path) -> None:
    import onnx

    places: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as out:
        for model in graphs.values():
            for weight in model.graph.initializer:
                if len(weight.raw_data) >= _LEAST:
                    _take_out(weight, out, places)
    if not places:
        (folder / WEIGHTS).unlink()
    for name, model in graphs.items():
        onnx.save(model, folder / name)


def _take_out(weight: Any, out: IO[bytes], places: dict[bytes, int]) -> None:
    """Move a tensor's bytes to `out`, unless they are there, and record their offset in it."""
    from onnx import external_data_helper

    key = hashlib.sha256(weight.raw_data).digest()
    if key not in places:
        places[key] = out.seek(-(-out.tell() // _PAGE) * _PAGE)
        out.write(weight.raw_data)
    size = len(weight.raw_data)
    external_data_helper.set_external_data(weight, WEIGHTS, offset=places[key], length=size)
    weight.ClearField("raw_data")


def load(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """A bundle's graphs as ONNX ModelProtos with their weights inside, by file name."""
    import onnx

    return {name: onnx.load(folder / name) for name in names}


@contextmanager
def opened(model: Any, options: Any = None) -> Iterator[Any]:
    """An onnxruntime session of a graph in memory, of any size; the graph loses its weights.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    with TemporaryDirectory(prefix="engine-export-") as folder:
        _write({"graph.onnx": model}, Path(folder))
        yield session(Path(folder) / "graph.onnx", options)


def session(file: Path, options: Any = None) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    try:
        return runtime().InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes are not public
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ExportError(
            f"ONNX Runtime cannot load {file.name}: {reason}",
            "nothing was written; this is a bug of the engine or of Optimum: "
            "please report the model",
        ) from error


def types(model: Any) -> dict[str, int]:
    """The element type of every tensor of a graph, as ONNX Runtime infers it: names to numbers of
    TensorProto. Tensors within the branches of an If are left out.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    from onnx import TensorProto, ValueInfoProto

    numbers = {t.lower(): n for t, n in TensorProto.DataType.items()}
    numbers |= {"float": TensorProto.FLOAT}
    probe = with_reference_attention(model)
    declared = {output.name for output in probe.graph.output}
    outputs = [name for node in probe.graph.node for name in node.output if name]
    probe.graph.output.extend(ValueInfoProto(name=n) for n in outputs if n not in declared)
    options = runtime().SessionOptions()
    options.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    with opened(probe, options) as graph:
        values = (*graph.get_inputs(), *graph.get_outputs())
        types = {v.name: numbers.get(v.type.removeprefix("tensor(").rstrip(")"), 0) for v in values}
    return types | {w.name: w.data_type for w in model.graph.initializer}


def watch(model: Any, feeds: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Run a graph and return named tensors of it, float32; the graph loses its weights.

    Args:
        model: An ONNX ModelProto.
        feeds: Its inputs by name; others are ignored.
        names: Of tensors of any float type.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    import numpy as np
    from onnx import ValueInfoProto

    # Without names, a session would return every output.
    if not names:
        return {}
    declared = {output.name for output in model.graph.output}
    # Without a type, which ONNX Runtime infers: a recipe may have made it float16.
    model.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in declared)
    with opened(model) as graph:
        fed = {i.name: feeds[i.name] for i in graph.get_inputs()}
        values = graph.run(names, fed)
    return {name: np.asarray(v, np.float32) for name, v in zip(names, values, strict=True)}
