"""All graphs of an fp32 bundle: traced by Optimum, or built from the checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.export.checkpoint import conversion
from engine.export.checkpoint.task_inference import ExportTask
from engine.export.graphs import architectures, dense, encoder, heads, step_cpu, step_cuda


def build(
    model: Any,
    task: ExportTask,
    layers: Sequence[dense.Layer],
    work: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """ONNX ModelProtos by file name, with the inputs and outputs of `engine.bundle.format.GRAPHS`.

    Args:
        model: The transformers model; Optimum may leave it with other settings.
        layers: Dense layers behind an embedder's pooling.
        work: A folder for Optimum's files.
        progress: Called with one line before each stage.

    Raises:
        ExportError: Optimum failed, or its graph has other inputs or outputs than the engine knows.
    """
    traced = None
    if model.config.is_encoder_decoder or not task.decodes:
        progress("converting with Optimum")
        traced = conversion.trace(model, task, work)
    progress("writing the graphs")
    graphs = (
        _decoder(model, traced) if task.decodes else {"model.onnx": encoder.model_graph(traced)}
    )
    graphs |= heads.graphs(task.name)
    return graphs | ({"dense.onnx": dense.graph(layers)} if layers else {})


def _decoder(model: Any, traced: Any) -> dict[str, Any]:
    plan = architectures.blueprint(model)
    graphs = {} if plan.causal else {"encoder.onnx": encoder.encoder_graph(traced, plan)}
    graphs["step.onnx"] = step_cpu.step_graph(plan)
    # A row that grows long would be cached again, which a step on a GPU cannot do.
    return graphs if plan.long_from else {**graphs, **step_cuda.graphs(plan)}
