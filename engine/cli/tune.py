"""engine tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import completion, numbers, terminal
from engine.cli.bench import timings
from engine.cli.progress import on_terminal

if TYPE_CHECKING:
    from engine.bench.sweep import Sweep, Timing
    from engine.bundle.tuned import Tuned


def tune(
    ctx: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(help="A bundle's folder.", autocompletion=completion.bundles)
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Rows like those of later runs; by default bundled sentences."),
    ] = None,
    seconds: Annotated[
        int,
        typer.Option(
            parser=numbers.seconds,
            metavar="<duration>",
            help="How long it takes: 60, 60s or 1m.",
        ),
    ] = 60,
    page: Annotated[
        str, typer.Option("--report", help="Also write a page to look at, one HTML file.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the fastest settings of a bundle on this machine; engine run uses them from then on."""
    import dataclasses

    from engine.bench.tune import tune as tune_bundle
    from engine.reporting.page_file import check_page

    check_page(page, "--report")
    with on_terminal(quiet=as_json) as on_progress:
        settings, measured = tune_bundle(
            bundle,
            inputs or (),
            seconds=seconds,
            options=ctx.meta["options"],
            progress=lambda line: None if as_json else terminal.tell(line),
            on_progress=on_progress,
            **ctx.meta["settings"],
        )
    if page:
        _write_page(page, settings, measured)
    if as_json:
        terminal.show_json({**dataclasses.asdict(settings), "sweep": measured.sweep})
        return
    terminal.show(*report(str(bundle), settings, measured))


def report(bundle: str, settings: Tuned, measured: Sweep) -> list[str]:
    """The result as lines of text."""
    from engine.bench.trials import QUARTILES

    rounds = max(len(timing.get("rounds", [])) for timing in measured.sweep)
    spread = "all rounds" if rounds < QUARTILES else "the middle half of the rounds"
    explained = f"from-to is the spread of {spread}; where spreads overlap there is no difference"
    if measured.rejected:
        explained += f"; {measured.rejected:,} bad rows were left out"
    return [
        f"{bundle}: {rounds} rounds of {measured.rows:,} rows ({settings.sample}) on "
        f"{settings.gpu or settings.cpu}",
        "",
        *timings(measured.sweep, measured.best, _HEAD, _figures),
        "",
        explained,
        _kept(settings, measured),
        "saved beside the bundle; engine run uses them unless it is given any of them",
    ]


_HEAD = ("rows/s", "from", "to", "ratio", "")


def _figures(timing: Timing) -> list[str]:
    figures = (timing["rows_per_second"], *timing["spread"])
    return [*(f"{f:,.1f}" for f in figures), f"{timing['ratio']:.2f}", timing["difference"]]


def _kept(settings: Tuned, measured: Sweep) -> str:
    best = f"{settings.workers} workers of {settings.threads} threads, batches of "
    best += f"{settings.batch_tokens} tokens"
    if any("failed" not in t and t["difference"] == "faster" for t in measured.sweep):
        return f"{best}: {settings.speed:.2f} times the speed of the defaults"
    return f"nothing is faster than the defaults by more than rounds differ; they stay: {best}"


def _write_page(page: str, settings: Tuned, measured: Sweep) -> None:
    from engine.bench.sweep import machine
    from engine.reporting.measured_pages import tune_page
    from engine.reporting.page_file import write_page

    terminal.tell(f"report: {write_page(page, tune_page(settings, measured, machine()))}")
