"""The table of tasks: each a row of functions, each family in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.bundle import Facts
from engine.config import check_names
from engine.errors import SettingsError
from engine.tasks import classification, features, translation
from engine.tasks.task import Context, Task

TASKS: Mapping[str, Task] = {
    task.name: task for task in (features.TASK, classification.TASK, translation.TASK)
}
ALIASES: Mapping[str, str] = {a: task.name for task in TASKS.values() for a in task.aliases}

__all__ = ["ALIASES", "TASKS", "Context", "Task", "find", "settle"]


def find(name: str) -> Task:
    """A task by its name, by an alias, or as translation_xx_to_yy.

    Raises:
        SettingsError: There is no such task; the hint lists those there are.
    """
    if name.startswith("translation_"):
        name = "translation"
    name = ALIASES.get(name, name)
    check_names("task", [name], TASKS)
    return TASKS[name]


def settle(task: Task, facts: Facts, given: Mapping[str, Any]) -> Any:
    """The task's options: what was given, and the checkpoint's defaults for the rest.

    Raises:
        SettingsError: An option is unknown to this task or out of range.
    """
    defaults = task.defaults(facts)
    check_names(f"option of {task.name}", given, defaults)
    try:
        return task.options(**{**defaults, **given})
    except TypeError as error:
        raise SettingsError(f"options of {task.name}: {error}", "see engine tasks") from error
