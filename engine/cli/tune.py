"""engine tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli import numbers, terminal


def tune(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Rows like those of later runs; by default bundled sentences."),
    ] = None,
    seconds: Annotated[
        int,
        typer.Option(
            parser=numbers.at_least(1), metavar=numbers.METAVAR, help="About how long it may take."
        ),
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the fastest settings of a bundle on this machine; engine run uses them from then on."""
    import dataclasses

    from engine.bench.tune import tune as tune_bundle

    settings, measured = tune_bundle(
        bundle,
        inputs or (),
        seconds=seconds,
        options=ctx.meta["options"],
        progress=lambda line: None if as_json else terminal.tell(line),
        **ctx.meta["settings"],
    )
    if as_json:
        terminal.show_json({**dataclasses.asdict(settings), "sweep": measured.sweep})
        return
    terminal.show(
        f"{bundle}: {settings.workers} workers of {settings.threads} threads, batches of "
        f"{settings.batch_tokens} tokens: {settings.speed:.2f} times the speed of the defaults "
        f"({measured.rows:,} rows a run: {settings.sample})"
    )
    terminal.show("saved beside the bundle; engine run uses them unless it is given any of them")
