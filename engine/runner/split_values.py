"""The splits of a corpus as small values, for a driver that deals them to machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from engine import data
from engine.core.keywords import RunArguments
from engine.core.share import dealt
from engine.pipeline import Bundle
from engine.runner import single_file, stored_output
from engine.runner.manifest import Manifest
from engine.runner.plan import make_plan


def splits(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    **settings: Unpack[RunArguments],
) -> tuple[dict[str, object], ...]:
    """The splits that `engine.run` would compute with the same arguments; nothing is written.

    Every input is opened.

    Returns:
        For each split, in the order in which shares are dealt them: `file`, the input's name
        below what was named; `split`, its number within the file; `bytes`, about how many of the
        file; `part`, the file of its answers; and `recorded`, whether a start has finished it, be
        it that its input has changed since. All are JSON values. Share i of n has those at the
        places i - 1, i - 1 + n and so on; with `share` only these are returned.

    Raises:
        What `engine.run` raises before it computes.
    """
    single_file.check_share(out, settings)
    folder = out
    if not data.is_url(out) and single_file.is_file(out):
        folder = single_file.folder_of(out)
    manifest = stored_output.mirror(str(out)) if data.is_url(out) else Manifest(Path(folder))
    plan = make_plan(model, inputs, manifest, settings)
    recorded = _names(manifest.folder)
    return tuple(
        {
            "file": split.file.name,
            "split": split.ordinal,
            "bytes": split.stop - split.start,
            "part": plan.parts[split],
            "recorded": f"{Path(plan.parts[split]).stem}.json" in recorded,
        }
        for split in dealt(plan.own)
    )


def _names(folder: Path) -> set[str]:
    with data.writing(folder):
        return set(os.listdir(folder)) if folder.is_dir() else set()
