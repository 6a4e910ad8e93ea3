"""engine rerun: the command of a run again, as its output records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli import completion, config_file, pipe
from engine.core.suggestions import path_meant
from engine.errors import SettingsError


def rerun(
    out: Annotated[
        str, typer.Argument(help="The output of a run.", autocompletion=completion.runs)
    ],
    into: Annotated[
        str, typer.Option("--out", "-o", help="Another output; by default the same is continued.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
) -> None:
    """Run the command that wrote an output again: same model, inputs and settings."""
    from engine.cli.commands import load

    values = {**_recorded(out), **({"out": into} if into else {})}
    words = [*["--dry-run"] * dry_run, *config_file.words(values)]
    code = load("run").main(words, prog_name="engine run", standalone_mode=False)
    raise typer.Exit(code if isinstance(code, int) else 0)


def _recorded(out: str) -> dict[str, Any]:
    """The settings of the command that wrote an output.

    Raises:
        SettingsError: It has no record of one.
    """
    from engine.data import is_url

    file = Path() if is_url(out) else _file(out, {})
    if not file.is_file():
        missing = not is_url(out) and not Path(out).exists()
        raise SettingsError(
            f"{out}: has no record of a command",
            f"{path_meant(Path(out)) if missing else ''}"
            "engine run records one in each local output; from elsewhere run the command again",
        )
    values = config_file.read(file, config_file.ANY_NAME)
    if "-" in values.get("inputs", ()):
        raise SettingsError(
            f"{out}: its input was standard input, which is gone", "run the command again"
        )
    return values


def recorder(
    out: str, settings: Mapping[str, Any], given: Mapping[str, object]
) -> Callable[[], None]:
    """What records the command of a run in its folder, once there is that folder.

    Args:
        out: The output.
        settings: Of the run.
        given: Those that somebody gave, by key.
    """
    from engine.data import is_url

    if out == pipe.STDOUT or is_url(out):
        return lambda: None
    file, values = _file(out, settings), config_file.absolute(given)

    @cache
    def save() -> None:
        config_file.save(file, values)

    return lambda: save() if file.parent.is_dir() else None


def _file(out: str, settings: Mapping[str, Any]) -> Path:
    from engine.runner.records import FOLDER

    return pipe.folder_of(out, settings) / FOLDER / config_file.RECORD
