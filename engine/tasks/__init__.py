"""The table of tasks: each a row of functions in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from engine.bundle.format import (
    DESCRIPTION,
    BundleFolder,
    DecoderConfig,
    GenerationConfig,
    ModelConfig,
)
from engine.core.settings import check_names, declared, values_of
from engine.core.types import Column
from engine.errors import BundleError, SettingsError
from engine.tasks import (
    feature_extraction,
    fill_mask,
    question_answering,
    rerank,
    summarization,
    text2text_generation,
    text_classification,
    text_generation,
    token_classification,
    translation,
    zero_shot_classification,
)
from engine.tasks.task import Context, Finished, Options, Task

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        feature_extraction.TASK,
        text_classification.TASK,
        translation.TASK,
        summarization.TASK,
        text2text_generation.TASK,
        text_generation.TASK,
        question_answering.TASK,
        zero_shot_classification.TASK,
        rerank.TASK,
        fill_mask.TASK,
        token_classification.TASK,
    )
}
ALIASES: Mapping[str, str] = {a: task.name for task in TASKS.values() for a in task.aliases}

# The defaults that `describe` shows: those of transformers' pipelines for a checkpoint that sets
# none.
_PLAIN = ModelConfig(
    512,
    labels=("LABEL_0", "LABEL_1"),
    decoder=DecoderConfig(0, (1,), 0, 256, 1, 1, 1, GenerationConfig(num_beams=4)),
)

__all__ = [
    "ALIASES",
    "TASKS",
    "Context",
    "Finished",
    "Task",
    "describe",
    "find",
    "input_columns",
    "resolve_options",
]


def find(name: str) -> Task:
    """A task by its name, by an alias, or as translation_xx_to_yy.

    Raises:
        SettingsError: There is no such task; the hint lists those there are.
    """
    if name.startswith("translation_"):
        name = "translation"
    name = ALIASES.get(name, name)
    check_names("task", [name], [*TASKS, *ALIASES])
    return TASKS[name]


def of_bundle(folder: BundleFolder) -> Task:
    """The task of a bundle.

    Raises:
        BundleError: There is no such task.
    """
    try:
        return find(folder.description.task)
    except SettingsError as error:
        raise BundleError(f"{folder.path / DESCRIPTION}: {error.message}", error.hint) from error


def input_columns(task: Task, names: Sequence[str], options: Options = None) -> tuple[Column, ...]:
    """The task's input columns under these names, or without any under their usual ones.

    Args:
        options: With them, a column that may hold chats says so.

    Raises:
        SettingsError: Too few or too many are named.
    """
    names = tuple(names) or task.required
    if not len(task.required) <= len(names) <= len(task.inputs):
        usual = ", ".join(c.name if c.needed else f"[{c.name}]" for c in task.inputs)
        raise SettingsError(
            f"text names {len(names)} columns; {task.name} takes {usual}",
            f"name them with --text, such as --text {','.join(task.required)}",
        )
    chats = options is not None and task.chats(options)
    first = dataclasses.replace(task.inputs[0], holds="chat") if chats else task.inputs[0]
    inputs = (first, *task.inputs[1:])
    return tuple(
        dataclasses.replace(column, name=name) for column, name in zip(inputs, names, strict=False)
    )


def describe(task: Task) -> dict[str, Any]:
    """A task as JSON values: its input columns, its options with their defaults, its result."""
    defaults = task.defaults(_PLAIN)
    return {
        "task": task.name,
        "aliases": list(task.aliases),
        "summary": task.summary,
        "inputs": [c.name + ("" if c.needed else " (optional)") for c in task.inputs],
        "options": [
            {"name": name, "help": setting.help, "default": defaults[name]}
            for name, (_, setting) in declared(task.options).items()
        ],
        "columns": task.result,
    }


def resolve_options(task: Task, model_config: ModelConfig, values: Mapping[str, object]) -> Options:
    """The task's options: the values given, and the checkpoint's defaults for the others, which
    give way where they conflict with these.

    Raises:
        SettingsError: An option is unknown to this task or out of range.
    """
    defaults = task.defaults(model_config)
    check_names(f"option of {task.name}", values, defaults)
    values = values_of(values, task.options)
    try:
        return task.options(**{**task.adapt(defaults, values), **values})
    except TypeError as error:
        raise SettingsError(f"options of {task.name}: {error}", "see engine tasks") from error
