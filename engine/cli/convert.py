"""engine convert."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from engine.cli import completion, terminal
from engine.core.config import COMPRESSIONS, FORMATS


def convert(
    out: Annotated[
        str,
        typer.Argument(help="The output folder of a finished run.", autocompletion=completion.runs),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Format of the new parts: arrow, parquet, jsonl or csv.",
            autocompletion=completion.one_of(FORMATS),
        ),
    ],
    new: Annotated[str, typer.Option("--out", "-o", help="Folder to write the new parts to.")],
    compression: Annotated[
        str,
        typer.Option(
            help="Of Arrow and Parquet: zstd, lz4 or none; without it zstd.",
            autocompletion=completion.one_of(COMPRESSIONS),
        ),
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Clear the folder where it holds another run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON summary.")] = False,
) -> None:
    """Write a run's output in another format: the same parts, rows, bad rows and records. Run it
    again to continue a stopped conversion."""
    from engine.runner.conversion import convert as convert_folder

    done = convert_folder(out, new, to=to, compression=compression, overwrite=overwrite)
    if as_json:
        terminal.show_json(dataclasses.asdict(done))
        return
    terminal.show(
        f"{done.rows:,} rows in {done.parts} parts in {done.out} "
        f"({done.parts_skipped} were already done)"
    )
