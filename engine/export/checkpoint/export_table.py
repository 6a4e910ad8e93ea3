"""Optimum's table of encoders, and those that it leaves out whose inputs are a sibling's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from engine.export.checkpoint.silenced import silenced

_TEXT_TASKS = (
    "feature-extraction", "fill-mask", "text-classification", "token-classification",
    "question-answering",
)  # fmt: skip
# Model type, as Optimum spells it -> the description of its inputs.
_SIBLINGS: Mapping[str, str] = {
    "modernbert": "ModernBertOnnxConfig",
    "roberta-prelayernorm": "RobertaOnnxConfig",
    "xlm-roberta-xl": "XLMRobertaOnnxConfig",
    "ernie": "BertOnnxConfig",
}


@cache
def tasks_manager() -> Any:
    """Optimum's `TasksManager`, complete; what it already has stays."""
    with silenced():
        from optimum.exporters.onnx import model_configs
        from optimum.exporters.tasks import TasksManager

    register = TasksManager.create_register("onnx")
    for model_type, sibling in _SIBLINGS.items():
        register(model_type, *_TEXT_TASKS)(getattr(model_configs, sibling))
    return TasksManager
