"""engine run."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import pipe
from engine.cli.progress import duration, shown

if TYPE_CHECKING:
    from engine.runner.report import Report


def run(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="A bundle; or a checkpoint (folder, hub id), which is exported once."),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(help="Parquet, JSONL (.gz, .zst) or Arrow files, folders or globs."),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Output folder, where a run that is there already is continued; or a file that "
            "ends in .arrow, .parquet, .jsonl or .csv; or - for JSON lines to standard output.",
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="If MODEL is a checkpoint: its task; see engine tasks.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="If MODEL is a hub id: commit, tag or branch.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="If MODEL is a checkpoint: fp32, int8, fp16 or another recipe.")
    ] = "fp32",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="If MODEL is a checkpoint: load .bin weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON summary.")] = False,
) -> None:
    """Run a model over a corpus and write part files. Run it again to continue a stopped run."""
    from engine import data
    from engine.core.config import RunConfig
    from engine.export.cache import bundle_for
    from engine.runner import coordinator
    from engine.runtime.device import devices

    # An export may take minutes, so everything that can be checked without it comes first.
    settings = ctx.meta["settings"]
    RunConfig.of(settings)
    pipe.check_out(out, settings)
    devices(settings["device"])
    data.find_files(inputs)
    bundle = bundle_for(
        model,
        task=task,
        revision=revision,
        recipe=recipe,
        allow_pickle=allow_pickle,
        progress=lambda line: typer.echo(line, err=True),
    )
    with shown(quiet=as_json) as on_progress:
        run_into = partial(coordinator.run, bundle, inputs, on_progress=on_progress)
        report = pipe.run(run_into, out, {**settings, "options": ctx.meta["options"]})
    text = json.dumps(report.to_dict(), ensure_ascii=False) if as_json else summary(report)
    typer.echo(text, err=out == pipe.STDOUT)
    raise typer.Exit(report.exit_code)


def summary(report: Report) -> str:
    """A finished run in a few lines."""
    lines = [
        f"{report.rows_in:,} rows in, {report.rows_out:,} answered, "
        f"{report.rows_rejected:,} rejected",
    ]
    if report.out != pipe.STDOUT:
        done = f"({report.splits_skipped} were already done)"
        lines.append(f"{report.splits} parts in {report.out} {done}")
    if report.rows_computed:
        lines.append(
            f"{duration(report.seconds)} on {report.device}: {report.rows_per_second:,.0f} rows/s, "
            f"{report.tokens_per_second:,.0f} tokens/s, padding {report.padding:.2f}"
            + ("" if report.occupancy is None else f", decoder {report.occupancy:.0%} occupied")
        )
    if report.rows_resumed:
        lines.append(f"{report.rows_resumed:,} rows were computed by an earlier start")
    if report.repeats:
        lines.append(f"{report.repeats:,} repeated sequences were computed once (--no-dedupe)")
    if report.rows_rejected and report.out == pipe.STDOUT:
        reasons = ", ".join(f"{count} {code}" for code, count in report.rejected.items())
        lines.append(f"bad rows, which only a folder or a file records: {reasons}")
    elif report.rows_rejected:
        lines.append(f"bad rows, by file, number and reason: engine rejects {report.out}")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)
