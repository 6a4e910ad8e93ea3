"""What a run would do, as one value to show: `engine run --dry-run`. Nothing is written."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from engine import data, tasks
from engine.core.keywords import RunArguments
from engine.core.share import share_of
from engine.core.types import Columns, Split
from engine.errors import OtherRunError
from engine.pipeline import Bundle
from engine.runner import fingerprint, stored_output
from engine.runner.manifest import Manifest
from engine.runner.moved_inputs import MovedInputs
from engine.runner.plan import Early, Plan, check_early, make_plan, sized
from engine.runner.records import Entry

NEW, DONE, CHANGED = "new", "done", "to do again"
RENAMED, BEYOND = "done, under another name", "beyond the limit"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A run that has not begun.

    Attributes:
        out: The output folder.
        task, recipe, device: What would compute.
        files: Names of the input files, in order; `kinds` counts them by kind.
        unread: How many files the inputs have besides, by ending.
        rows: Rows of all inputs, and whether this is their exact number; None where only reading
            them would tell.
        rows_exact: Whether `rows` is counted and not estimated.
        reads, writes: Names and types of the input columns and of the columns of the parts.
        settings: Of the run, every size filled in.
        parts: How many parts, those of the share where one is given, there are in each state: new,
            done, done under another name, to do again (their input or what is kept of it has
            changed), beyond the limit of rows.
        removed: Input files whose answers would be removed, since they are no inputs any more.
        refused: Why the run would be refused by what its folder holds, with the hint; "" if not.
        notes: What the person should know.
    """

    out: str
    task: str
    recipe: str
    device: str
    files: tuple[str, ...]
    kinds: dict[str, int]
    unread: dict[str, int]
    rows: int | None
    rows_exact: bool
    reads: dict[str, str]
    writes: dict[str, str]
    settings: dict[str, object]
    parts: dict[str, int]
    removed: tuple[str, ...]
    refused: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return dataclasses.asdict(self)


def plan(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    **settings: Unpack[RunArguments],
) -> Preview:
    """Say what `engine.run` would do with the same arguments, and do nothing.

    Every input is opened, and bytes are hashed of those that the output folder has answers for.

    Raises:
        What `engine.run` raises before it computes; but a folder that holds another run is
        `Preview.refused`.
    """
    manifest = stored_output.mirror(str(out)) if data.is_url(out) else Manifest(Path(out))
    settled = make_plan(model, inputs, manifest, settings)
    refused, removed, states = _compare(settled, manifest)
    return Preview(
        out=str(out),
        task=settled.folder.description.task,
        recipe=settled.folder.description.recipe,
        device=settled.device,
        **_inputs(settled, settled.own),
        writes=_types([*settled.columns.kept, *settled.results]),
        settings=_settings(settled),
        parts=dict(Counter(states)),
        removed=removed,
        refused=refused,
        notes=settled.notes,
    )


def plan_early(
    task: str,
    recipe: str,
    inputs: Sequence[str | Path],
    out: Path,
    settings: Mapping[str, object],
    export: str,
) -> Preview:
    """`plan` for a checkpoint that is not exported, of which `export` says so: without the result
    columns, the task's options and what the folder holds.

    Raises:
        As `plan`.
    """
    early = check_early(task, inputs, out, settings)
    splits = tuple(data.split_files(early.files, early.config.split_size))
    if share := share_of(early.config.share):
        splits = share.of(splits)
    result = tasks.find(task).result
    return Preview(
        out=str(out),
        task=task,
        recipe=recipe,
        device=early.config.device,
        **_inputs(early, splits),
        writes=_types(early.columns.kept),
        settings=dataclasses.asdict(early.config),
        parts={NEW: len(splits)},
        removed=(),
        refused="",
        notes=(export, f"the result columns follow from the checkpoint: {result}"),
    )


def _inputs(plan: Plan | Early, splits: Sequence[Split]) -> dict[str, Any]:
    """The fields of a `Preview` that say what is read."""
    rows = {split: data.estimate_rows(split) for split in splits}
    return {
        "files": tuple(file.name for file in plan.files),
        "kinds": dict(Counter(file.kind for file in plan.files)),
        "unread": dict(plan.unread),
        "rows": sum(rows.values()) if all(map(_is_known, rows, rows.values())) else None,
        "rows_exact": all(split.kind == "parquet" for split in splits),
        "reads": _reads(plan.columns),
    }


def _compare(plan: Plan, manifest: Manifest) -> tuple[str, tuple[str, ...], list[str]]:
    """Why the run would be refused, inputs whose answers would go, and the state of each part."""
    is_input = MovedInputs(plan.splits).has
    try:
        _, others = manifest.compare(plan.record, set(plan.parts.values()), is_input)
    except OtherRunError as error:
        # Another run's folder without an answer in it may be taken, as `begin` does.
        is_taken = plan.config.overwrite or (manifest.read_run() and not manifest.has_answers())
        return "" if is_taken else str(error), (), [NEW] * len(plan.own)
    others = {} if plan.share else others  # of these a share takes and removes none
    states = list(_states(plan, manifest, others))
    left = {entry.input.path for entries in others.values() for entry in entries}
    return "", tuple(sorted(left)), states


def _states(plan: Plan, manifest: Manifest, others: dict[str, list[Entry]]) -> Iterator[str]:
    """The state of each split's part. Entries of `others` that are found again are taken out."""
    run, limit = plan.record["fingerprint"], plan.config.limit
    left = limit or sys.maxsize
    for split in plan.own:
        if left <= 0:
            yield BEYOND
            continue
        entry = manifest.entry(plan.parts[split])
        done = None
        if entry is not None or others:
            wanted = fingerprint.input_record(split, left if limit else 0, plan.columns)
            twins = others.get(wanted.sha256, [])
            of_input = [*([entry] if entry else []), *twins]
            done = next((e for e in of_input if manifest.is_complete(e, run, wanted)), None)
            if done in twins:
                twins.remove(done)
        left -= done.counts["rows_in"] if done else min(left, data.estimate_rows(split))
        if done:
            yield DONE if done is entry else RENAMED
        else:
            yield CHANGED if entry else NEW


def _is_known(split: Split, rows: int) -> bool:
    return bool(rows) or split.kind == "parquet" or split.start == split.stop


def _reads(columns: Columns) -> dict[str, str]:
    return {c.name: _HOLDS[c.holds] for c in columns.inputs} | _types(columns.kept)


_HOLDS = {
    "text": "text",
    "texts": "lists of text",
    "either": "text or lists of it",
    "chat": "text or messages",
    "key": "text or whole numbers",
}


def _types(fields: Sequence[pa.Field] | pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in fields}


def _settings(plan: Plan) -> dict[str, object]:
    decoder = plan.folder.description.model_config.decoder is not None
    loaded = plan.model if isinstance(plan.model, Bundle) else None
    config = sized(plan.config, plan.devices[0], len(plan.devices), decoder=decoder, loaded=loaded)
    settings = dataclasses.asdict(config)
    options = plan.record["settings"]["options"]
    return {**settings, "options": options}
