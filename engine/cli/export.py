"""engine export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder, new.")],
    model: Annotated[
        str | None,
        typer.Argument(
            help="A hub id, such as google-t5/t5-small, or a checkpoint folder; "
            "none for the default of --task.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Such as translation_en_to_de; see engine tasks.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub id.")] = None,
    recipe: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load .bin weights: only from people you trust.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn a checkpoint into a bundle, proven against the checkpoint."""
    from engine.export import export as convert

    report = convert(
        model, out, task=task, revision=revision, recipe=recipe, allow_pickle=allow_pickle,
        progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), default=str))
        return
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"{report.path}: {report.task}, recipe {report.recipe}, {report.bytes / 1e6:.1f} MB, "
        f"{report.seconds:.0f} s; largest difference to the checkpoint "
        f"{report.largest_difference:.1e} (allowed {report.tolerance:.0e})"
    )
