"""A bundle beside the other libraries that are installed here, over one Arrow file."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import worker
from contest import Entrant, contest

from engine import tasks
from engine.bundle import format as bundle_format
from engine.core import hardware
from engine.errors import SettingsError

ENGINE = Path(__file__).with_name("peers") / "engine.py"
_SHARED = ("max_new_tokens", "num_beams", "length_penalty", "candidate_labels")


def against(
    *,
    bundle: Path | str,
    inputs: Sequence[Path],
    checkpoint: Path,
    folder: Path,
    rounds: int = 3,
    max_length: int = 0,
    options: Mapping[str, Any] | None = None,
    tokens: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The bundle and every peer whose packages are installed, in turns over the same rows.

    Args:
        bundle: A bundle's folder.
        inputs: One Arrow IPC file with the task's columns, as `sweep.sample` writes it.
        checkpoint: What the bundle was made from; peers load it.
        folder: Of adapters, a file each; `benchmarks/README.md` tells what they hold.
        rounds, max_length, options: As for a sweep.
        tokens: What the rows have, read or generated, for rates.
        progress: Called with lines of progress.

    Returns:
        As `contest.contest`; a peer that is not installed is there as skipped.

    Raises:
        SettingsError: The folder has no adapters.
        BundleError: Not a bundle.
    """
    description = bundle_format.load(bundle).description
    with pa.OSFile(str(inputs[0])) as file:
        table = pa.ipc.open_file(file).read_all()
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as scratch:
        job = {
            "task": description.task,
            "columns": table.column_names,
            "file": str(inputs[0]),
            "checkpoint": str(checkpoint),
            "bundle": str(bundle),
            "cache": str(Path(scratch) / "cache"),
            "threads": hardware.cores(),
            "max_length": max_length or description.model_config.max_length,
            "options": dict(options or {}),
        }
        name = description.recipe
        variants = worker.opened(ENGINE).VARIANTS
        variant = name if name in variants else next(iter(variants))
        mine = Entrant(f"engine {name}", ENGINE, variant, job=job)
        theirs = _as_peers_read(job, description, table, Path(scratch) / "rows.arrow")
        others, absent = _installed(folder, theirs)
        found = contest(
            [mine, *others],
            Path(scratch),
            rows=len(table),
            tokens=tokens,
            rounds=rounds,
            told=progress,
        )
    found["contestants"] |= {n: {"skipped": f"{why} is not installed"} for n, why in absent.items()}
    return found


def _as_peers_read(
    job: dict[str, Any], description: bundle_format.Description, table: pa.Table, file: Path
) -> dict[str, Any]:
    """The job with what the engine adds by itself written out: the prefix, and bundle's defaults.

    Of the task's options peers know those of `_SHARED`.
    """
    task, model_config = tasks.find(description.task), description.model_config
    settled = dataclasses.asdict(tasks.settle(task, model_config, job["options"]))
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


def _installed(folder: Path, job: Mapping[str, Any]) -> tuple[list[Entrant], dict[str, str]]:
    """Entrants of the adapters that do the task; and of those not installed, what is missing."""
    entrants, absent = [], {}
    files = sorted(file for file in folder.glob("[a-z]*.py") if file != ENGINE)
    if not files:
        raise SettingsError(f"{folder}: no adapters", "name the folder that has them")
    for file in files:
        adapter = worker.opened(file)
        if job["task"] not in adapter.TASKS:
            continue
        name = file.stem.replace("_", "-")
        if missing := next(_missing(adapter.PACKAGES), ""):
            absent[name] = missing
            continue
        entrants += [Entrant(f"{name} {v}", file, v, job=job) for v in adapter.VARIANTS]
    return entrants, absent


def _missing(packages: Sequence[str]) -> Iterator[str]:
    for name in packages:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name
