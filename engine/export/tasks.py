"""What a checkpoint can be exported for: the bundle's task names and what each asks of Optimum."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ExportError, SettingsError


@dataclass(frozen=True)
class ExportTask:
    """One row of `TASKS`.

    Attributes:
        name: The bundle's task.
        optimum_task: The name of the same in `optimum.exporters`.
        auto_class: The class of transformers that loads a checkpoint with the right head.
        model_types: Model types whose decoding is known here; empty where every encoder will do.
    """

    name: str
    optimum_task: str
    auto_class: str
    model_types: tuple[str, ...] = ()


TASKS: Mapping[str, ExportTask] = {
    task.name: task
    for task in (
        ExportTask("feature-extraction", "feature-extraction", "AutoModel"),
        ExportTask(
            "text-classification", "text-classification", "AutoModelForSequenceClassification"
        ),
        ExportTask(
            "translation",
            "text2text-generation-with-past",
            "AutoModelForSeq2SeqLM",
            model_types=("t5", "mt5"),
        ),
    )
}
ALIASES = {"sentiment-analysis": "text-classification"}
_LANGUAGE_PAIR = re.compile(r"translation_\w+_to_\w+")


def check_known(task: str | None) -> None:
    """Refuse an unknown task before anything is fetched.

    Raises:
        SettingsError: The name is neither in `TASKS` nor an alias.
    """
    if task is not None:
        _named(task)


def resolve_task(task: str | None, config: Mapping[str, Any], embeds: bool) -> ExportTask:
    """The row of `TASKS` that a person asked for, or that the checkpoint itself stands for.

    Args:
        task: A name of `TASKS`, an alias, `translation_XX_to_YY`, or None to infer it.
        config: The checkpoint's config.json.
        embeds: Whether the checkpoint has sentence-transformers' modules.json.

    Raises:
        SettingsError: The name is unknown.
        ExportError: The task can not be inferred, or the checkpoint's model type can not do it.
    """
    found = TASKS[_inferred(config, embeds) if task is None else _named(task)]
    _check_model_type(found, config)
    return found


def _named(task: str) -> str:
    name = "translation" if _LANGUAGE_PAIR.fullmatch(task) else ALIASES.get(task, task)
    if name in TASKS:
        return name
    known = ", ".join([*TASKS, *ALIASES, "translation_XX_to_YY"])
    raise SettingsError(f"task: {task!r} is not a task of this engine", f"use one of: {known}")


def _inferred(config: Mapping[str, Any], embeds: bool) -> str:
    architectures = tuple(config.get("architectures") or ())
    if embeds:
        return "feature-extraction"
    if any(a.endswith("ForSequenceClassification") for a in architectures):
        return "text-classification"
    if config.get("model_type") in TASKS["translation"].model_types:
        return "translation"
    raise ExportError(
        f"config.json does not say what the model is for (architectures: {list(architectures)})",
        f"name the task with --task, one of: {', '.join(TASKS)}",
    )


def _check_model_type(task: ExportTask, config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if task.model_types and model_type not in task.model_types:
        raise ExportError(
            f"{task.name} is exported for the model types {', '.join(task.model_types)} today; "
            f"this checkpoint is of type {model_type!r}",
            "take a T5 checkpoint, or export this one for another task with --task",
        )
    if not task.model_types and config.get("is_encoder_decoder"):
        raise ExportError(
            f"{task.name} is exported for encoders; {model_type!r} is an encoder-decoder",
            "name the task that the checkpoint was trained for with --task",
        )
