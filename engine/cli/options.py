"""Command line options that come from declared settings: those of a run and of every task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand

from engine.cli import completion, config_file, help_page, terminal
from engine.core.config import RunConfig
from engine.core.settings import (
    Setting,
    declared,
    format_size,
    from_text,
    parse_size,
    split_commas,
    values_of,
)

_TYPES: dict[str, Any] = {
    "int": str,  # with units: 10k
    "float": float,
    "bool": bool,
    "str": str,
    "bool | str": str,
    "int | str": str,
    "tuple[str, ...]": list[str],
    "str | Mapping[str, str]": str,
}

_OFFERED = {
    "text": completion.columns,
    "keep": completion.kept,
    "device": completion.one_of(("auto", "cpu", "cuda", "cuda:0", "cuda:all")),
}
"""Settings whose values the shell finds elsewhere than among their choices."""


class TaskCommand(TyperCommand):
    """A command that also takes settings of a run and the options of every task.

    The function finds them in `ctx.meta`, as `settings` and `options`. The tasks are looked up when
    the command runs or shows its help, so that `engine --help` loads none.

    Attributes:
        settings: Fields of `RunConfig`, each with its help; "" for that of the declaration.
    """

    settings: ClassVar[Mapping[str, str]] = {}

    def get_params(self, ctx: Any) -> list[Any]:
        own = super().get_params(ctx)
        required = [p for p in own if p.required]
        rest = [p for p in own if not p.required]
        settings, options = _settings(self.settings), _options()
        return [*required, *_parameters(settings), *rest, *_help_all(), *_parameters(options)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["words"] = tuple(args)  # for the help: it is asked for before they are read
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        if self.name != "run" or "--help-all" in ctx.meta["words"]:
            super().format_help(ctx, formatter)
        elif task := help_page.asked_task(ctx.meta["words"]):
            formatter.write(help_page.task_page(task))
        else:
            formatter.write(help_page.page(self, ctx))

    def invoke(self, ctx: Any) -> Any:
        ctx.meta["given"] = config_file.given(ctx)
        settings = {name: ctx.params.pop(name) for name in self.settings}
        options = {name: ctx.params.pop(name, None) for name in _kinds()}
        ctx.params.pop("help_all")
        ctx.meta["settings"] = values_of({n: _joined(v) for n, v in settings.items()}, RunConfig)
        given = {n: _single(v) for n, v in options.items() if v not in (None, [], ())}
        kinds = _kinds()
        ctx.meta["options"] = {n: from_text(v, *kinds[n]) for n, v in given.items()}
        return super().invoke(ctx)


EVERY = tuple(name for name in declared(RunConfig) if name != "options")
"""All settings of a run."""


def taking(*settings: str, **helps: str) -> type[TaskCommand]:
    """A `TaskCommand` with these settings of a run; `helps` have another help here."""
    return type("TaskCommand", (TaskCommand,), {"settings": dict.fromkeys(settings, "") | helps})


def _joined(value: object) -> object:
    """Names from a,b and from repeated options alike."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(name for text in value for name in split_commas(text))


def _single(value: Any) -> Any:
    """A list of one text as that text, which the task may split: a,b."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _settings(helps: Mapping[str, str]) -> dict[str, inspect.Parameter]:
    """Settings of a run as parameters of a function, with their defaults."""
    defaults = RunConfig()
    return {
        name: _parameter(name, kind, setting, helps[name] or setting.help, getattr(defaults, name))
        for name, (kind, setting) in declared(RunConfig).items()
        if name in helps
    }


def _options() -> dict[str, inspect.Parameter]:
    """The options of all tasks; the help of a shared option says what it means in each task."""
    from engine.tasks import TASKS

    helps: dict[str, dict[str, list[str]]] = {}
    for task in TASKS.values():
        for name, (_, setting) in declared(task.options).items():
            helps.setdefault(name, {}).setdefault(setting.help, []).append(task.name)
    return {
        name: _parameter(name, kind, setting, _help(helps[name]), None)
        for name, (kind, setting) in _kinds().items()
    }


def _kinds() -> dict[str, tuple[str, Setting]]:
    """The type and declaration of every option of a task."""
    from engine.tasks import TASKS

    return {n: kind for task in TASKS.values() for n, kind in declared(task.options).items()}


def _help_all() -> list[Any]:
    """The option that shows every other one."""
    form = typer.Option(
        "--help-all", help="Show every option at length and exit.", is_eager=True, callback=_show
    )
    annotation: Any = Annotated[bool, form]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameter = inspect.Parameter("help_all", keyword, default=False, annotation=annotation)
    return _parameters({"help_all": parameter})


def _show(ctx: typer.Context, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        terminal.show(*ctx.get_help().split("\n"))
        raise typer.Exit


def _help(helps: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in helps.items())


def _parameter(
    name: str, kind: str, setting: Setting, help: str, default: Any
) -> inspect.Parameter:
    flags = ["--" + name.replace("_", "-")] if setting.flag else []
    offered = _OFFERED.get(name) or completion.one_of(setting.choices)
    form = typer.Option(*flags, help=help, autocompletion=offered)
    if setting.size:
        form = typer.Option(help=help, parser=_size, metavar="<size>")
        default = format_size(default)
    elif kind == "int":
        form = typer.Option(*flags, help=help, metavar="<number>")
        default = None if default is None else str(default)
    elif default in ((), {}):
        default = None if default == () else ""
    annotation: Any = Annotated[_TYPES[kind] | None, form]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _size(text: str) -> int:
    return 0 if text == "0" else parse_size(text)


def _parameters(parameters: Mapping[str, inspect.Parameter]) -> list[Any]:
    """The parameters of a function as typer's."""
    app = typer.Typer(add_completion=False)
    app.command()(_with_signature(lambda **settings: None, list(parameters.values())))
    command: Any = typer.main.get_command(app)
    return [p for p in command.params if p.name != "help"]


def _with_signature(
    function: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function
