"""engine bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import completion, numbers, terminal
from engine.cli.progress import shown
from engine.core.settings import parse_count, split_commas

if TYPE_CHECKING:
    from engine.bench.profile import Profile
    from engine.bench.sweep import Machine, Sweep, SweepPoint, Timing

EMBEDDED = "demo"
_DEMO_ROWS = 3000
# Operators shown at most, the longest first.
_MAX_OPERATORS = 16

_Bundle = Annotated[
    str,
    typer.Argument(
        help=f"A bundle's folder, or {EMBEDDED} for the embedded model.",
        autocompletion=completion.bundles,
    ),
]
_Limit = Annotated[
    int,
    typer.Option(
        parser=numbers.whole,
        metavar=numbers.METAVAR,
        help="Rows to measure at most; 0 for all.",
    ),
]
_Rounds = Annotated[
    int,
    typer.Option(
        parser=numbers.whole,
        metavar=numbers.METAVAR,
        help="How many times each setting is timed.",
    ),
]


def bench(
    ctx: typer.Context,
    bundle: _Bundle,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Parquet, JSONL (.gz, .zst) or Arrow files, folders or globs; "
            f"with {EMBEDDED} its own corpus by default."
        ),
    ] = None,
    limit: _Limit = 1000,
    budgets: Annotated[
        str,
        typer.Option(
            help="Values of --batch-tokens to try, such as 512,1024; by default some that suit "
            "the device."
        ),
    ] = "",
    workers: Annotated[str, typer.Option(help="Values of --workers to try.")] = "1,2",
    rounds: _Rounds = 3,
    profiled: Annotated[
        bool,
        typer.Option(
            "--profile", help="Also show the time to the first token, and time by graph and op."
        ),
    ] = False,
    page: Annotated[
        str, typer.Option("--report", help="Also write a page to look at, one HTML file.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a bundle on a corpus: batch sizes and workers, and where the time goes."""
    from engine.bench.profile import ROWS, profile
    from engine.bench.sweep import stopping, sweep
    from engine.reporting.page_file import check_page

    check_page(page, "--report")
    settings = {**ctx.meta["settings"], "options": ctx.meta["options"]}
    with stopping(), _corpus(bundle, inputs) as (path, files):
        with shown(quiet=as_json) as on_progress:
            measured = sweep(
                path,
                files,
                budgets=_numbers("budgets", budgets) if budgets else None,
                workers=_numbers("workers", workers),
                rounds=rounds,
                limit=limit,
                progress=lambda line: None if as_json else terminal.tell(line),
                on_progress=on_progress,
                **settings,
            )
        rows = min(limit or ROWS, ROWS)
        times = profile(path, files, measured.best, limit=rows, **settings) if profiled else None
    if page:
        _write_page(page, measured, times)
    _show(measured, times, as_json)


def _show(measured: Sweep, times: Profile | None, as_json: bool) -> None:
    from engine.bench.sweep import machine

    if as_json:
        result = {"machine": machine(), **measured.to_dict()}
        result |= {"profile": times.to_dict()} if times else {}
        terminal.show_json(result)
    else:
        terminal.show(*report(measured, machine(), times))


def _write_page(page: str, measured: Sweep, profile: Profile | None) -> None:
    from engine.bench.sweep import machine
    from engine.reporting.measured_pages import bench_page
    from engine.reporting.page_file import write_page

    terminal.tell(f"report: {write_page(page, bench_page(measured, machine(), profile))}")


@contextmanager
def _corpus(bundle: str, inputs: Sequence[str] | None) -> Iterator[tuple[str, Sequence[str]]]:
    """The bundle's folder and the inputs; the embedded model's corpus exists only within."""
    if bundle != EMBEDDED:
        yield bundle, inputs or []
        return
    from tempfile import TemporaryDirectory

    from engine.demo import BUNDLE, corpus

    if inputs:
        yield str(BUNDLE), inputs
        return
    with TemporaryDirectory(prefix="engine-bench-") as folder:
        corpus.write(Path(folder), _DEMO_ROWS)
        yield str(BUNDLE), [folder]


def _numbers(name: str, text: str) -> tuple[int, ...]:
    from engine.errors import SettingsError

    try:
        return tuple(parse_count(value) for value in split_commas(text))
    except ValueError as error:
        raise SettingsError(
            f"--{name} is {text!r}", "whole numbers, 1 or more, such as 1,2"
        ) from error


def report(measured: Sweep, machine: Machine, profile: Profile | None = None) -> list[str]:
    """The result as lines of text."""
    best = measured.best
    return [
        *_header(measured, machine),
        "",
        *timings(measured.sweep, best, _HEAD, _figures),
        "",
        *_costs(measured),
        *(["", *_profile_lines(profile)] if profile else []),
        "",
        "the fastest is marked *; figures vary by 20 to 30% on a machine that others use, too",
        f"engine run ... --batch-tokens {best.batch_tokens} --workers {best.workers}",
    ]


def _header(measured: Sweep, machine: Machine) -> list[str]:
    rows = measured.rows
    tokens = f"{measured.tokens:,} tokens ({measured.tokens / rows:.1f} a row)"
    if measured.output_tokens:
        generated = measured.output_tokens
        tokens += f", {generated:,} generated ({generated / rows:.1f} a row)"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{measured.bundle}: {measured.task}",
        f"{rows:,} rows, {tokens}",
        f"{machine['cpu']}, {machine['cores']} cores, on {measured.device}; {versions}",
    ]
    if measured.rejected:
        lines.append(f"{measured.rejected:,} bad rows were left out")
    if measured.truncated:
        lines.append(f"{measured.truncated:,} rows were truncated (--max-length)")
    return lines


def timings(
    sweep: Sequence[Timing],
    best: SweepPoint,
    head: Sequence[str],
    figures: Callable[[Timing], list[str]],
) -> list[str]:
    """The lines of a table of settings, the best one marked, and of what was measured of each.

    Args:
        sweep: What was measured.
        best: The setting to mark.
        head: Names of the figures.
        figures: Those of a setting that has not failed.
    """
    rows = [["", "tokens", "workers", "threads", *head]]
    for timing in sweep:
        point = (timing["batch_tokens"], timing["workers"], timing["threads"])
        marked = point == (best.batch_tokens, best.workers, best.threads)
        failed = [f"failed: {timing['failed']}"] if "failed" in timing else []
        rows.append(["*" if marked else "", *map(str, point), *(failed or figures(timing))])
    return terminal.aligned(rows)


_HEAD = ("seconds", "rows/s", "tokens/s", "padding")


def _figures(timing: Timing) -> list[str]:
    return [
        f"{timing['seconds']:.2f}",
        f"{timing['rows_per_second']:,.1f}",
        f"{timing['tokens_per_second']:,.0f}",
        f"{timing['padding']:.2f}",
    ]


def _costs(measured: Sweep) -> list[str]:
    """Where the time of the best point went, and what the start costs."""
    times = {1: "once", 2: "twice"}.get(measured.loaded, f"{measured.loaded} times")
    return [
        f"time at work   {_shares(measured.stages)}",
        f"padding        {measured.padding:.2f} padded tokens for each token",
        f"load           {measured.startup_seconds:.2f} s",
        f"first answer   {measured.first_answer_seconds:.2f} s, loading included",
        f"peak memory    {measured.peak_bytes / 2**20:,.0f} MiB, with the bundle loaded {times}",
    ]


def _shares(stages: Mapping[str, float]) -> str:
    total = sum(stages.values()) or 1.0
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in stages.items())


def _profile_lines(profile: Profile) -> list[str]:
    """First token, occupied slots, and the graphs and operators that inference spent time in."""
    lines = []
    if profile.first_token_seconds is not None:
        lines.append(f"first token    {profile.first_token_seconds:.2f} s, loading included")
    if profile.occupancy is not None:
        lines.append(f"occupied       {profile.occupancy:.1%} of the decoder's steps × slots")
    graphs = [f"{g['graph']} {g['share']:.1%} in {g['runs']:,} runs" for g in profile.graphs]
    lines.append(f"inference      {', '.join(graphs)}, outside of graphs {profile.outside:.1%}")
    rows = [["", "graph", "calls", "share of ops"]]
    for op in profile.ops[:_MAX_OPERATORS]:
        rows.append([op["op"], op["graph"], f"{op['calls']:,}", f"{op['share']:.1%}"])
    return [*lines, "", *terminal.aligned(rows)]
