"""engine tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def tune(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Rows like those to be run; none for bundled sentences."),
    ] = None,
    seconds: Annotated[int, typer.Option(help="About how long it may take.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the fastest settings of a bundle on this machine; engine run takes them from then on."""
    import dataclasses

    from engine.bench.tune import tune as measure

    found, measured = measure(
        bundle,
        inputs or (),
        seconds=seconds,
        **ctx.meta["settings"],
        given=ctx.meta["options"],
        progress=lambda line: None if as_json else typer.echo(line, err=True),
    )
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(found), "sweep": measured.sweep}))
        return
    typer.echo(
        f"{bundle}: {found.workers} workers of {found.threads} threads, batches of "
        f"{found.batch_tokens} tokens; {found.speed:.2f} times the usual settings' speed "
        f"({measured.rows:,} rows a run: {found.sample})"
    )
    typer.echo("kept beside the bundle; engine run takes them where none of them is given")
