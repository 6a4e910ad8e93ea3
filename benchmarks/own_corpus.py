"""A bundle against the peers installed here, over rows of your own.

    python benchmarks/own_corpus.py BUNDLE INPUT... --checkpoint CHECKPOINT
    python benchmarks/own_corpus.py BUNDLE INPUT... --checkpoint CHECKPOINT --option num_beams=4

Every peer whose packages are installed in this environment runs the checkpoint that the bundle was
made from, in turns with the bundle, over the same rows. `engine bench` measures a bundle by itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import worker
from contest import ENGINE, PEERS, Contestant, Progress, adapters, contest

import engine
from engine import tasks
from engine.bench.measured_rows import sample
from engine.bundle import format as bundle_format
from engine.core import hardware
from engine.errors import EngineError, SettingsError

# The task options that peers know, too.
_SHARED = ("max_new_tokens", "num_beams", "length_penalty", "candidate_labels")


def compare_with_peers(
    *,
    bundle: Path | str,
    file: Path,
    checkpoint: Path,
    folder: Path = PEERS,
    rounds: int = 3,
    max_length: int = 0,
    options: Mapping[str, Any] | None = None,
    tokens: int = 0,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Run the bundle and every peer that is installed, in turns over the same rows.

    Args:
        bundle: A bundle's folder.
        file: An Arrow IPC file with the task's columns, as `sweep.sample` writes it.
        checkpoint: What the bundle was made from; peers load it.
        folder: Of adapters, a file each; `benchmarks/README.md` says what they contain.
        rounds: How often each runs.
        max_length: Tokens of a row before it is cut; 0 for the model's.
        options: Of the task.
        tokens: How many the rows have, read or generated, for rates.
        progress: Called with lines of progress.

    Returns:
        As `contest.contest`; a peer that is not installed is in it as skipped.

    Raises:
        SettingsError: The folder has no adapters.
        BundleError: Not a bundle.
    """
    description = bundle_format.load(bundle).description
    with pa.OSFile(str(file)) as stream:
        table = pa.ipc.open_file(stream).read_all()
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as scratch:
        job = {
            "task": description.task,
            "columns": table.column_names,
            "file": str(file),
            "checkpoint": str(checkpoint),
            "bundle": str(bundle),
            "cache": str(Path(scratch) / "cache"),
            "threads": hardware.cores(),
            "max_length": max_length or description.model_config.max_length,
            "options": dict(options or {}),
        }
        peer_job = _peer_job(job, description, table, Path(scratch) / "rows.arrow")
        peers, missing = _installed(folder, peer_job)
        result = contest(
            [_engine(description.recipe, job), *peers],
            Path(scratch),
            rows=len(table),
            tokens=tokens,
            rounds=rounds,
            progress=progress,
        )
    skipped = {name: {"skipped": f"{p} is not installed"} for name, p in missing.items()}
    return {**result, "contestants": {**result["contestants"], **skipped}}


def _engine(recipe: str, job: Mapping[str, Any]) -> Contestant:
    variants = worker.load_adapter(ENGINE).VARIANTS
    variant = recipe if recipe in variants else next(iter(variants))
    return Contestant(f"engine {recipe}", ENGINE, variant, job=job)


def _peer_job(
    job: dict[str, Any], description: bundle_format.Description, table: pa.Table, file: Path
) -> dict[str, Any]:
    """The job with what the engine adds by itself written out: the prefix, and the bundle's
    defaults of the options in `_SHARED`."""
    task, model_config = tasks.find(description.task), description.model_config
    settled = dataclasses.asdict(tasks.resolve_options(task, model_config, job["options"]))
    prompt = settled.get("prompt") or ""
    prefix = model_config.prompts[prompt] if prompt else settled.get("prefix") or ""
    first = table.column_names[0]
    if prefix:
        texts = pc.binary_join_element_wise(prefix, table[first], "")
        table = table.set_column(0, first, texts)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    options = {name: settled[name] for name in _SHARED if name in settled}
    return {**job, "file": str(file), "options": options}


def _installed(folder: Path, job: Mapping[str, Any]) -> tuple[list[Contestant], dict[str, str]]:
    """The peers that do the task; and of those not installed, the package that is missing."""
    contestants, missing = [], {}
    files = adapters(folder)
    if not files:
        raise SettingsError(f"{folder}: no adapters", "name the folder that has them")
    for stem, file in files.items():
        adapter = worker.load_adapter(file)
        if job["task"] not in adapter.TASKS:
            continue
        name = stem.replace("_", "-")
        if package := next(_missing(adapter.PACKAGES), ""):
            missing[name] = package
            continue
        contestants += [Contestant(f"{name} {v}", file, v, job=job) for v in adapter.VARIANTS]
    return contestants, missing


def _missing(packages: Sequence[str]) -> Iterator[str]:
    for name in packages:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name


def lines(result: Mapping[str, Any]) -> list[str]:
    """A result as plain lines: each contestant's figures, and how many times as fast as it each of
    the engine's variants is."""
    engines = list(result["ratios"])
    rows = [["", "seconds", "rows/s", "tokens/s", "differ", *(f"{name} is" for name in engines)]]
    for name, figures in result["contestants"].items():
        for outcome in ("skipped", "failed"):
            if outcome in figures:
                rows.append([name, f"{outcome}: {figures[outcome].splitlines()[0]}"])
        if "seconds" in figures:
            rows.append([
                name,
                f"{median(figures['seconds']):.2f}",
                f"{figures['rows_per_second']:,.1f}",
                f"{figures['tokens_per_second']:,.0f}",
                f"{figures['differs']:,}",
                *(_times(result["ratios"][variant], name) for variant in engines),
            ])  # fmt: skip
    reference = result.get("reference")
    note = [f"differ: rows with another answer than {reference}'s"] if reference else []
    return [*_align(rows), *note]


def _times(ratios: Mapping[str, Any], name: str) -> str:
    return f"{ratios[name]['median']:.2f}× as fast" if name in ratios else ""


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, figures to the right; the reason in a short row may be longer."""
    full = [row for row in rows if len(row) == len(rows[0])]
    first = max(len(row[0]) for row in rows)
    widths = [max(map(len, column)) for column in zip(*full, strict=True)][1:]
    return [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows
    ]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sample the inputs, count their tokens with one run, and compare."""
    settings = {"max_length": arguments.max_length, "options": _options(arguments.option)}
    checkpoint = _folder("checkpoint", arguments.checkpoint)
    peers = _folder("peers", arguments.peers)

    def progress(line: str) -> None:
        if not arguments.json:
            print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="engine-bench-") as scratch:
        text = [name for name in arguments.text.split(",") if name]
        sampled = sample(
            arguments.bundle, arguments.inputs, Path(scratch) / "rows.arrow",
            text=text, limit=arguments.limit, **settings,
        )  # fmt: skip
        report = engine.run(
            arguments.bundle, sampled.file, Path(scratch) / "out",
            text=sampled.columns, device="cpu", **settings,
        )  # fmt: skip
        return compare_with_peers(
            bundle=arguments.bundle,
            file=sampled.file,
            checkpoint=checkpoint,
            folder=peers,
            rounds=arguments.rounds,
            tokens=report.output_tokens or report.tokens,
            progress=progress,
            **settings,
        )


def _folder(name: str, path: Path) -> Path:
    if not path.is_dir():
        raise SettingsError(f"--{name} is {str(path)!r}, which is not a folder", "check the path")
    return path


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is JSON (a number, true, a list) is read as that."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--option is {pair!r}", "write NAME=VALUE, such as num_beams=4")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", nargs="+", help="Parquet, JSONL or Arrow files, folders, globs")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="what the bundle was made from"
    )
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of the peers' adapters")
    parser.add_argument("--text", default="", help="input columns, a,b for two")
    parser.add_argument("--limit", type=int, default=1000, help="rows at most, 0 for all")
    parser.add_argument(
        "--max-length", type=int, default=0, help="tokens of a row before it is cut; 0: the model's"
    )
    parser.add_argument("--option", action="append", default=[], help="of the task, NAME=VALUE")
    parser.add_argument("--rounds", type=int, default=3, help="how often each one runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        result = measure(arguments)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(result, ensure_ascii=False) if arguments.json else "\n".join(lines(result)))


if __name__ == "__main__":
    main()
