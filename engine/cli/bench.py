"""engine bench."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.progress import shown
from engine.cli.run import split_names

EMBEDDED = "demo"
_DEMO_ROWS = 3000
# Kinds of ops that are shown, the longest.
_OPS = 16


def bench(
    ctx: typer.Context,
    bundle: Annotated[
        str, typer.Argument(help=f"A bundle's folder; or {EMBEDDED}, the embedded model.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Parquet, JSONL (.gz, .zst) or Arrow files, folders or globs; "
            f"none with {EMBEDDED} for its own corpus."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Rows to measure at most; 0 for all.")] = 1000,
    budgets: Annotated[
        str,
        typer.Option(help="Padded tokens of a batch: the values to try; none for a device's own."),
    ] = "",
    workers: Annotated[str, typer.Option(help="Batches at a time: the values to try.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="How often each setting is timed.")] = 3,
    profiled: Annotated[
        bool, typer.Option("--profile", help="Also show first token, and time by graph and op.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a bundle on a corpus: batch sizes and workers, and where the time goes."""
    from engine.bench.profile import ROWS, profile
    from engine.bench.sweep import machine, stopping, sweep

    settings = {**ctx.meta["settings"], "options": ctx.meta["options"]}

    def say(line: str) -> None:
        if not as_json:
            typer.echo(line, err=True)

    with stopping(), _corpus(bundle, inputs) as (path, files):
        with shown(quiet=as_json) as on_progress:
            measured = sweep(
                path, files, budgets=_numbers("budgets", budgets) if budgets else None,
                workers=_numbers("workers", workers), rounds=rounds, limit=limit,
                progress=say, on_progress=on_progress, **settings,
            )  # fmt: skip
        result = {"machine": machine(), **measured.to_dict()}
        if profiled:
            rows = min(limit or ROWS, ROWS)
            result["profile"] = profile(
                path, files, measured.best, limit=rows, **settings
            ).to_dict()
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else "\n".join(_told(result)))


@contextmanager
def _corpus(bundle: str, inputs: Sequence[str] | None) -> Iterator[tuple[str, Sequence[str]]]:
    """The bundle's folder and the inputs; a corpus that has to be made is there only within."""
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


def _numbers(name: str, given: str) -> tuple[int, ...]:
    from engine.errors import SettingsError

    try:
        return tuple(int(value) for value in split_names([given]))
    except ValueError as error:
        raise SettingsError(
            f"{name} is {given!r}", "whole numbers, 1 or more, such as 1,2"
        ) from error


def _told(found: Mapping[str, Any]) -> list[str]:
    """The result as plain lines."""
    best = found["best"]
    return [
        *_header(found),
        "",
        *_table(found["sweep"], best),
        "",
        *_costs(found),
        *(["", *_profiled(found["profile"])] if "profile" in found else []),
        "",
        "figures drift by 20 to 30% on a machine that others use, too; the best is marked *",
        f"engine run ... --batch-tokens {best['batch_tokens']} --workers {best['workers']}",
    ]


def _header(found: Mapping[str, Any]) -> list[str]:
    machine, rows = found["machine"], found["rows"]
    tokens = f"{found['tokens']:,} tokens ({found['tokens'] / rows:.1f} a row)"
    if found["output_tokens"]:
        made = found["output_tokens"]
        tokens += f", {made:,} generated ({made / rows:.1f} a row)"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{found['bundle']}: {found['task']}",
        f"{rows:,} rows, {tokens}",
        f"{machine['cpu']}, {machine['cores']} cores, on {found['device']}; {versions}",
    ]
    if found["rejected"]:
        lines.append(f"{found['rejected']:,} bad rows were left out")
    if found["truncated"]:
        lines.append(f"{found['truncated']:,} rows were cut (--max-length)")
    return lines


def _table(sweep: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> list[str]:
    rows = [["", "tokens", "workers", "threads", "seconds", "rows/s", "tokens/s", "padding"]]
    for row in sweep:
        setting = {name: row[name] for name in ("batch_tokens", "workers", "threads")}
        cells = ["*" if setting == best else "", *map(str, setting.values())]
        if "failed" in row:
            rows.append([*cells, f"failed: {row['failed']}"])
        else:
            rows.append(
                [*cells, f"{row['seconds']:.2f}", f"{row['rows_per_second']:,.1f}",
                 f"{row['tokens_per_second']:,.0f}", f"{row['padding']:.2f}"]
            )  # fmt: skip
    return _aligned(rows)


def _costs(found: Mapping[str, Any]) -> list[str]:
    """What the best setting's time went into, and what a start costs."""
    total = sum(found["stages"].values()) or 1.0
    stages = ", ".join(f"{name} {s / total:.0%}" for name, s in found["stages"].items())
    times = {1: "once", 2: "twice"}.get(found["loaded"], f"{found['loaded']} times")
    return [
        f"time at work   {stages}",
        f"padding        {found['padding']:.2f} padded tokens for each real one",
        f"load           {found['startup_seconds']:.2f} s",
        f"first answer   {found['first_answer_seconds']:.2f} s, loading included",
        f"peak memory    {found['peak_bytes'] / 2**20:,.0f} MiB, with the bundle held {times}",
    ]


def _profiled(found: Mapping[str, Any]) -> list[str]:
    """First token, slots, and the graphs and ops that the time of inference went into."""
    lines = []
    if found["first_token_seconds"] is not None:
        lines.append(f"first token    {found['first_token_seconds']:.2f} s, loading included")
    if found["occupancy"] is not None:
        lines.append(f"occupied       {found['occupancy']:.1%} of the decoder's steps × places")
    graphs = [f"{g['graph']} {g['share']:.1%} in {g['runs']:,} runs" for g in found["graphs"]]
    lines.append(f"inference      {', '.join(graphs)}, outside of graphs {found['outside']:.1%}")
    rows = [["", "graph", "calls", "share of ops"]]
    for op in found["ops"][:_OPS]:
        rows.append([op["op"], op["graph"], f"{op['calls']:,}", f"{op['share']:.1%}"])
    return [*lines, "", *_aligned(rows)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under one another: the first to the left, figures to the right; the reason in a
    short row may be as long as it is."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    first = max(len(row[0]) for row in rows)
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)][1:]
    return [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows
    ]
