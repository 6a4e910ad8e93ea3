"""engine export and engine quantize."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.run import split_names

if TYPE_CHECKING:
    from engine.export import ExportReport

_Out = Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder, new.")]
_Sample = Annotated[
    Path | None,
    typer.Option(help="Rows to compare the recipe with fp32 on; none for bundled sentences."),
]
_Text = Annotated[list[str] | None, typer.Option(help="The sample's input columns, a,b for two.")]
_Force = Annotated[
    bool, typer.Option("--force", help="Write it although it exceeds its accuracy limits.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_NAMES = "fp32, int8, int8-tensor, int8-weight, int4-weight or fp16."


def export(
    out: _Out,
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
    recipe: Annotated[str, typer.Option(help=_NAMES)] = "fp32",
    sample: _Sample = None,
    text: _Text = None,
    force: _Force = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load .bin weights: only from people you trust.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Turn a checkpoint into a bundle, proven against the checkpoint."""
    from engine.export import export as convert

    report = convert(
        model, out, task=task, revision=revision, recipe=recipe, sample=sample,
        text=split_names(text), force=force, allow_pickle=allow_pickle,
        progress=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    _show(report, as_json)


def quantize(
    bundle: Annotated[Path, typer.Argument(help="A bundle of recipe fp32.")],
    out: _Out,
    recipe: Annotated[str, typer.Option(help=_NAMES)] = "int8",
    sample: _Sample = None,
    text: _Text = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Make a bundle of another recipe, compared with the fp32 one in answers, size and speed."""
    from engine.export import quantize as make

    report = make(
        bundle, out, recipe=recipe, sample=sample, text=split_names(text), force=force,
        progress=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    _show(report, as_json)


def _show(report: ExportReport, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), default=str))
        return
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    if report.gate:
        typer.echo("\n".join(_compared(report)))
    typer.echo(
        f"{report.path}: {report.task}, recipe {report.recipe}, {report.bytes / 1e6:.1f} MB, "
        f"{report.seconds:.0f} s; largest difference of fp32 to the checkpoint "
        f"{report.largest_difference:.1e} (allowed {report.tolerance:.0e})"
    )


def _compared(report: ExportReport) -> list[str]:
    """The gate's figures, a line each."""
    gate = report.gate
    lines = [f"{report.recipe} beside fp32 ({gate['rows']} rows: {gate['sample']}):"]
    lines += [f"  {name}: {told(figure)}" for name, figure in gate["figures"].items()]
    lines.append(f"  size: {gate['size']:.2f} of fp32's")
    lines.append(f"  speed here: {gate['speed']:.2f} times fp32's")
    if gate["worst_layers"]:
        lines.append(f"  worst layers: {', '.join(gate['worst_layers'])}")
    return lines


def told(figure: Mapping[str, Any]) -> str:
    """One of the gate's figures in words."""
    limit = "" if figure["limit"] is None else f" (limit {figure['limit']:g})"
    return f"{figure['value']:.5g}{limit}" + ("" if figure["holds"] else "  <- does not hold")
