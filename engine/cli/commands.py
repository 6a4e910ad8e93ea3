"""The commands, and how they end: with an exit code, and a message where they fail."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from engine.cli import completion, interrupt, terminal
from engine.cli.typed_names import as_typed
from engine.core import memory_limits
from engine.errors import EngineError, Stalled, Stopped
from engine.library_errors import DEBUG, code_of, describe_bug
from engine.version import __version__

_ONE_DEVICE = "auto, cpu, cuda or cuda:N."
_HELP = {"help_option_names": ["-h", "--help"]}
_ROOMS = {
    "export": "export",
    "quantize": "export",
    "run": "run",
    "rerun": "rerun",
    "bench": "bench",
    "tune": "tune",
    "demo": "demo",
    "report": "report",
    "compare": "compare",
    "convert": "convert",
    "gc": "gc",
    "inspect": "show",
    "head": "show",
    "rejects": "show",
    "verify": "show",
    "tasks": "show",
    "doctor": "show",
}
"""Modules of the commands, by the names that their functions have, too."""


class _Commands(Mapping[str, Any]):
    """The commands by name, each loaded when it is asked for: imports are most of a start."""

    def __getitem__(self, name: str) -> Any:
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_ROOMS)

    def __len__(self) -> int:
        return len(_ROOMS)


@cache
def load(name: str) -> Any:
    """A command.

    Raises:
        KeyError: There is none of this name.
    """
    function = getattr(import_module(f"engine.cli.{_ROOMS[name]}"), name)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=_kind(name), context_settings=_context(name))(function)
    return typer.main.get_command(alone)


def _context(name: str) -> dict[str, Any]:
    """-h for each command; for a run also a variable for each option: ENGINE_MAX_LENGTH."""
    return {**_HELP, "auto_envvar_prefix": "ENGINE"} if name == "run" else dict(_HELP)


def _kind(name: str) -> Any:
    """What takes the settings of a run from the command line, None where a command has none."""
    if name not in ("run", "bench", "tune"):
        return None
    from engine.cli.options import EVERY, taking

    if name == "run":
        return taking(*EVERY)
    names = ("text", "max_length") if name == "bench" else ("text",)
    return taking(*names, device=_ONE_DEVICE)


@contextmanager
def _readers_that_leave() -> Iterator[None]:
    """End with 0 where the reader of our output has gone, as `head` does; typer would with 1."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


class Interruptible(TyperGroup):
    """The command line. An interrupt ends it with exit code 75; typer would exit with 130."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _readers_that_leave(), terminal.usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> object:
        try:
            with _readers_that_leave(), terminal.usage_errors(ctx):
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped("stopped", interrupt.HINT) from error
        except (EngineError, ImportError) as error:
            # Modules of C make an ImportError of a signal that comes while they are imported.
            if interrupt.received() and not isinstance(error, Stopped):
                raise Stopped("stopped", interrupt.HINT) from error
            raise


app = typer.Typer(
    name="engine",
    cls=Interruptible,
    help="Offline batch inference for pipeline-class transformers: a corpus in, Arrow out.",
    no_args_is_help=True,
    context_settings=_HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(ctx: typer.Context, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        terminal.show(f"corpus-engine {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def call() -> int:
    """Run the command that the process was started for.

    Returns:
        Its exit code, but for 75, with which the process has ended then.
    """
    if completion.asked():
        return completion.answer(app)
    terminal.accept_any_text()
    try:
        app(standalone_mode=True)
    except EngineError as error:
        if isinstance(error, (Stopped, Stalled)):
            interrupt.leave(str(error), error.exit_code)
        _print_error(str(error))
        return error.exit_code
    except SystemExit as end:
        # typer's own, where the signal came before the command.
        if interrupt.received() and end.code in (1, 128 + signal.SIGINT):
            interrupt.leave_stopped()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        # A signal may come as another exception; see `main`.
        if interrupt.received():
            raise
        if memory_limits.is_shortage(error):
            text = str(EngineError(memory_limits.describe_shortage(), memory_limits.HINT))
            interrupt.leave(text, EngineError.exit_code)  # threads may wait for what never comes
        if os.environ.get(DEBUG):
            terminal.show(*code_of(error), err=True)
        _print_error(str(EngineError(*describe_bug(error))))
        return 1
    return 0


def _print_error(text: str) -> None:
    terminal.show(*f"error: {as_typed(text)}".split("\n"), err=True)
