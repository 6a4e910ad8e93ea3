"""engine gc."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from engine.cli import completion, terminal


def gc(
    out: Annotated[
        str,
        typer.Argument(
            help="The output of a run: a folder, a file or a URL.", autocompletion=completion.runs
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Name what would be removed, and remove nothing.")
    ] = False,
    scratch: Annotated[str, typer.Option(help="The --scratch of the run, where it had one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove what a killed run left and no record names: parts, bad rows, half-written files and
    unfinished uploads. What the next start goes on from stays."""
    from engine.runner.collection import collect

    done = collect(out, dry_run=dry_run, scratch=scratch)
    if as_json:
        terminal.show_json(dataclasses.asdict(done))
        return
    verb = "would be removed" if dry_run else "removed"
    for name in done.files:
        terminal.show(f"{verb}: {name}")
    for name in done.uploads:
        terminal.show(f"{verb}: the unfinished upload of {name}")
    terminal.show(f"{len(done.files)} files and {len(done.uploads)} uploads {verb} in {done.out}")
    for note in done.notes:
        terminal.show(f"note: {note}")
