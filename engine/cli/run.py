"""engine run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from engine.cli.progress import duration, shown


def run(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="A bundle; or a checkpoint, folder or hub id, which is exported once."),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(help="Parquet, JSONL (.gz, .zst) or Arrow files, folders or globs."),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Output folder; continued if it holds this run.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(help="Input columns, a,b for two; engine tasks names what a task takes."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Input columns put beside the results: a,b or all.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Rows to read at most; 0 for all.")] = 0,
    format: Annotated[str, typer.Option(help="Part files: arrow or parquet.")] = "arrow",
    compression: Annotated[str, typer.Option(help="zstd, lz4 or none.")] = "zstd",
    split_size: Annotated[str, typer.Option(help="Size of a big file's splits.")] = "256MB",
    window: Annotated[int, typer.Option(help="Rows sorted by length together.")] = 4096,
    batch_tokens: Annotated[
        int, typer.Option(help="Padded tokens of a batch; 0 for the task's own.")
    ] = 0,
    max_length: Annotated[
        int, typer.Option(help="Tokens of a row before it is cut; 0 for the model's.")
    ] = 0,
    workers: Annotated[
        int, typer.Option(help="Batches at a time; 0 for one a core, 4 at most.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="Threads of one batch; 0 shares the cores out.")] = 0,
    tokenizers: Annotated[
        int, typer.Option(help="Processes that tokenize; 0 for none, for a GPU up to 8.")
    ] = 0,
    dedupe: Annotated[
        bool, typer.Option(help="Compute equal texts of a window once, unless tokens are drawn.")
    ] = True,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N, or cuda:all for every GPU.")
    ] = "auto",
    gpu_memory: Annotated[
        str, typer.Option(help="Of a GPU, for each graph, and for a decoder's caches.")
    ] = "0",
    on_error: Annotated[
        str, typer.Option(help="Bad rows: fail at the first, or reject them.")
    ] = "fail",
    max_rejects: Annotated[
        int, typer.Option(help="Bad rows allowed with reject; -1 for any number.")
    ] = -1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Clear an output folder of another run.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(help="Of a checkpoint given as MODEL; see engine tasks.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id given as MODEL.")] = None,
    recipe: Annotated[
        str, typer.Option(help="Of a checkpoint given as MODEL: fp32, int8 or fp16.")
    ] = "fp32",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Of a checkpoint: load .bin weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON summary.")] = False,
) -> None:
    """Answer a corpus: inputs in, part files out. Run again to go on where it stopped."""
    from engine import data
    from engine.core.config import parse_size
    from engine.export.cache import bundle_for
    from engine.runner import coordinator
    from engine.runtime.device import devices

    # A checkpoint may take minutes: what is wrong without it is said before.
    devices(device)
    data.find(inputs)
    bundle = bundle_for(
        model,
        task=task,
        revision=revision,
        recipe=recipe,
        allow_pickle=allow_pickle,
        progress=lambda line: typer.echo(line, err=True),
    )
    with shown(quiet=as_json) as on_progress:
        report = coordinator.run(
            bundle,
            inputs,
            out,
            on_progress=on_progress,
            text=split_names(text),
            keep=split_names(keep),
            limit=limit,
            format=format,
            compression=compression,
            split_size=parse_size(split_size),
            window=window,
            batch_tokens=batch_tokens,
            max_length=max_length,
            workers=workers,
            threads=threads,
            tokenizers=tokenizers,
            dedupe=dedupe,
            device=device,
            gpu_memory=0 if gpu_memory == "0" else parse_size(gpu_memory),
            on_error=on_error,
            max_rejects=max_rejects,
            overwrite=overwrite,
            options=ctx.meta["options"],
        )
    typer.echo(json.dumps(report.to_dict(), ensure_ascii=False) if as_json else summary(report))
    raise typer.Exit(report.exit_code)


def split_names(given: list[str] | None) -> tuple[str, ...]:
    """a,b and repeated options alike."""
    return tuple(name.strip() for part in given or [] for name in part.split(",") if name.strip())


def summary(report: Any) -> str:
    """A finished run in a few plain lines."""
    lines = [
        f"{report.rows_in:,} rows in, {report.rows_out:,} answered, "
        f"{report.rows_rejected:,} rejected",
        f"{report.splits} parts in {report.out} ({report.splits_skipped} were already done)",
    ]
    if report.rows_computed:
        lines.append(
            f"{duration(report.seconds)} on {report.device}: {report.rows_per_second:,.0f} rows/s, "
            f"{report.tokens_per_second:,.0f} tokens/s, padding {report.padding:.2f}"
            + ("" if report.occupancy is None else f", decoder {report.occupancy:.0%} occupied")
        )
    if report.repeats:
        lines.append(f"{report.repeats:,} repeated sequences were computed once (--no-dedupe)")
    if report.rows_rejected:
        lines.append(f"bad rows, by number and reason: {report.out}/rejects")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)
