"""The tasks' own options on the command line, as the table of tasks has them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "bool | str": str,
    "tuple[str, ...]": list[str],
}


class WithTaskOptions(TyperCommand):
    """A command that takes every task's options beside its own and finds them in `ctx.meta`.

    They are looked up when the command is run or explained, so that `engine --help` loads no task.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        return [*super().get_params(ctx), *_parameters()]

    def invoke(self, ctx: Any) -> Any:
        names = {parameter.name for parameter in _parameters()}
        taken = {name: ctx.params.pop(name) for name in names if name in ctx.params}
        ctx.meta["options"] = {n: _one(v) for n, v in taken.items() if v not in (None, [], ())}
        return super().invoke(ctx)


def _one(value: Any) -> Any:
    """A list of one as that one, which the task may read as several: a,b."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _parameters() -> list[Any]:
    """typer's own parameters for the options of all tasks."""
    app = typer.Typer(add_completion=False)
    app.command()(_with_signature(lambda **given: None))
    command: Any = typer.main.get_command(app)
    return [p for p in command.params if p.name != "help"]


def _with_signature(function: Callable[..., None]) -> Callable[..., None]:
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _annotations().items()
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _annotations() -> dict[str, Any]:
    """Type and help of every option; one of several tasks says what it is in each."""
    from engine.tasks import TASKS

    told: dict[str, dict[str, list[str]]] = {}
    types: dict[str, Any] = {}
    for task in TASKS.values():
        for field in dataclasses.fields(task.options):
            types[field.name] = _TYPES[str(field.type)]
            said = told.setdefault(field.name, {})
            said.setdefault(field.metadata["told"], []).append(task.name)
    return {
        name: Annotated[types[name] | None, typer.Option(help=_help(said))]
        for name, said in told.items()
    }


def _help(said: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in said.items())
