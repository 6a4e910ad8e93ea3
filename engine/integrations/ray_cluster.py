"""What Ray says of the process that asks; the one place that imports it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from engine.errors import MissingDependency


def assigned() -> tuple[int, bool]:
    """The CPUs of this actor or task, 0 outside of one, and whether it has a GPU."""
    ray = ray_module()
    if not ray.is_initialized():
        return 0, False
    context = ray.get_runtime_context()
    if not (context.get_task_id() or context.get_actor_id()):
        return 0, False
    resources = context.get_assigned_resources()
    return max(1, int(resources.get("CPU", 1))), bool(resources.get("GPU", 0))


def ray_module(module: str = "ray") -> Any:
    """Ray or a module of it.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise MissingDependency(
            "Ray is not installed", 'pip install "corpus-engine[cpu,ray]"'
        ) from error
