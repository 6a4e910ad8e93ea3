"""engine export and engine quantize."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import completion, terminal
from engine.cli.progress import steps
from engine.core.settings import split_commas

if TYPE_CHECKING:
    from engine.export import ExportReport

_Out = Annotated[Path, typer.Option("--out", "-o", help="New folder for the bundle.")]
_Sample = Annotated[
    Path | None,
    typer.Option(help="Rows for comparing the recipe with fp32; by default bundled sentences."),
]
_Text = Annotated[list[str] | None, typer.Option(help="Input columns of the sample, a,b for two.")]
_Force = Annotated[
    bool,
    typer.Option("--force", help="Write the bundle although a check failed; it is marked."),
]
_Page = Annotated[
    str, typer.Option("--report", help="Also write a page to look at, one HTML file.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_RECIPES = "fp32, int8, int8-static, int8-tensor, int8-weight, int4-weight or fp16."
_EXPORT = {"loading": 0.38, "converting": 0.73, "writing the graphs": 0.88, "comparing": 0.93}
_QUANTIZE = {"writing the graphs": 0.1, "comparing with fp32": 0.26}
"""Shares of the whole at which steps begin: MiniLM in int8, on two cores."""

_FP32_SHARE = 0.45
"""Of an export with another recipe: the share of the steps up to fp32."""

RECIPES = completion.one_of(_RECIPES.strip(".").replace(" or ", ", ").split(", "))
"""The recipes that the shell offers."""


def export(
    out: _Out,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A hub id, such as google-t5/t5-small, or a checkpoint folder; "
            "by default the model of --task.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="The task, such as translation_en_to_de; see engine tasks.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
    subfolder: Annotated[
        str, typer.Option(help="Folder in the checkpoint's folder or repository that holds it.")
    ] = "",
    recipe: Annotated[str, typer.Option(help=_RECIPES, autocompletion=RECIPES)] = "fp32",
    sample: _Sample = None,
    text: _Text = None,
    force: _Force = False,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Load .bin weights: only from people you trust.",
        ),
    ] = False,
    as_json: _Json = False,
) -> None:
    """Turn a checkpoint into a bundle, and test the bundle against the checkpoint."""
    from engine.export import export as export_bundle

    with steps(export_shares(recipe)) as tell:
        report = export_bundle(
            model, out, task=task, revision=revision, subfolder=subfolder, recipe=recipe,
            sample=sample, text=_columns(text), force=force, allow_pickle=allow_pickle,
            progress=tell,
        )  # fmt: skip
    _show(report, as_json)


def quantize(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle of the recipe fp32.", autocompletion=completion.bundles)
    ],
    out: _Out,
    recipe: Annotated[str, typer.Option(help=_RECIPES, autocompletion=RECIPES)] = "int8",
    sample: _Sample = None,
    text: _Text = None,
    force: _Force = False,
    page: _Page = "",
    as_json: _Json = False,
) -> None:
    """Make a bundle of another recipe, and compare its answers, size and speed with fp32."""
    from engine.export import quantize as quantize_bundle
    from engine.reporting.page_file import check_page, write_page

    check_page(page, "--report")
    with steps(_QUANTIZE) as tell:
        report = quantize_bundle(
            bundle, out, recipe=recipe, sample=sample, text=_columns(text), force=force,
            progress=tell,
        )  # fmt: skip
    _show(report, as_json)
    if page:
        from engine.reporting.acceptance import recipe_page

        terminal.tell(f"report: {write_page(page, recipe_page(report))}")


def export_shares(recipe: str | None) -> dict[str, float]:
    """The share of an export at which a step begins, by its line."""
    if recipe in (None, "fp32"):
        return _EXPORT
    again = {f"{name} ({recipe})" if "graphs" in name else name: 0.0 for name in _QUANTIZE}
    rest = dict(zip(again, (_FP32_SHARE, 0.54), strict=True))
    return {name: share * _FP32_SHARE for name, share in _EXPORT.items()} | rest


def _columns(text: list[str] | None) -> tuple[str, ...]:
    return tuple(name for names in text or [] for name in split_commas(names))


def _show(report: ExportReport, as_json: bool) -> None:
    if as_json:
        terminal.show_json(dataclasses.asdict(report))
        return
    for note in report.notes:
        terminal.tell(f"note: {note}")
    if report.gate:
        terminal.show(*_compared(report))
    terminal.show(
        f"{report.path}: {report.task}, recipe {report.recipe}, {report.bytes / 1e6:.1f} MB, "
        f"{report.seconds:.0f} s; largest difference between fp32 and the checkpoint "
        f"{report.largest_difference:.1e} (tolerance {report.tolerance:.0e})"
    )


def _compared(report: ExportReport) -> list[str]:
    """The figures of the acceptance test, a line each."""
    gate = report.gate
    lines = [f"{report.recipe} compared with fp32 ({gate['rows']} rows: {gate['sample']}):"]
    lines += [f"  {name}: {describe_figure(figure)}" for name, figure in gate["figures"].items()]
    lines.append(f"  size: {gate['size']:.2f} times that of fp32")
    lines.append(f"  speed on this machine: {gate['speed']:.2f} times that of fp32")
    if gate["worst_layers"]:
        lines.append(f"  worst layers: {', '.join(gate['worst_layers'])}")
    return lines


def describe_figure(figure: Mapping[str, Any]) -> str:
    """A figure of the acceptance test, with its limit."""
    limit = "" if figure["limit"] is None else f" (limit {figure['limit']:g})"
    return f"{figure['value']:.5g}{limit}" + ("" if figure["holds"] else "  <- does not hold")
