"""engine run -o -: answers to standard output for the next command of a pipe."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SettingsError, Stopped

if TYPE_CHECKING:
    from engine.runner.report import Report

STDOUT = "-"
_OF_FOLDERS = ("reject_text", "overwrite", "share")
"""Settings that change nothing without a folder or a file."""


def check_out(out: str, settings: Mapping[str, Any]) -> None:
    """Refuse an output that cannot be written, or not with these settings, before an export."""
    from engine.core.config import check_compression
    from engine.runner import single_file

    if out == STDOUT:
        check_compression(_format(settings), settings.get("compression") or "")
        if name := next((name for name in _OF_FOLDERS if settings.get(name)), ""):
            raise SettingsError(
                f"{name} is given with -o {STDOUT}, which keeps no bad rows and no earlier run",
                "leave it out, or name a folder or a file with -o",
            )
    else:
        single_file.check_out(out, settings)


def folder_of(out: str, settings: Mapping[str, Any]) -> Path:
    """The folder that the run of an output works in; for `-` one that nobody has yet."""
    from engine.data import is_url
    from engine.runner import single_file, store_run

    if is_url(out):
        return store_run.scratch_folder(out, settings.get("scratch") or "")
    if out == STDOUT:
        return Path(tempfile.gettempdir(), f"engine-run-{os.getpid()}")
    return single_file.folder_of(out) if single_file.is_file(out) else Path(out)


def previewed(out: str, settings: Mapping[str, Any]) -> Path | str:
    """What a preview compares with: a stored folder itself, or the folder of a run."""
    from engine.data import is_url
    from engine.runner import single_file

    stored = is_url(out) and not single_file.is_file(out)
    return out if stored else folder_of(out, settings)


def run(run_into: Callable[..., Report], out: str, settings: Mapping[str, Any]) -> Report:
    """Run into a folder, a file or, for `-`, to standard output."""
    return _run_to_stdout(run_into, settings) if out == STDOUT else run_into(out, **settings)


def _run_to_stdout(run_into: Callable[..., Report], settings: Mapping[str, Any]) -> Report:
    """Run into a temporary folder, then write the answers in input order, and drop the folder.

    Args:
        run_into: What runs, given a folder and settings.
        settings: Of the run; the format is that of the stream.

    Raises:
        Stopped: Interrupted, with nothing kept.
    """
    with tempfile.TemporaryDirectory(prefix="engine-run-") as scratch:
        folder = Path(scratch, "out")
        try:
            report = run_into(folder, **{**settings, "format": "arrow"})
            _write(folder, settings)
        except (Stopped, KeyboardInterrupt) as error:
            raise Stopped(
                "stopped, and with -o - nothing is kept", "name a folder, where a run goes on"
            ) from error
    return dataclasses.replace(report, out=STDOUT, files=())


def _format(settings: Mapping[str, Any]) -> str:
    return str(settings.get("format") or "jsonl")


def _write(folder: Path, settings: Mapping[str, Any]) -> None:
    from engine.core.config import default_compression
    from engine.data import STREAM, HashingFile
    from engine.runner.joining import join
    from engine.runner.manifest import Manifest

    kind, compression = _format(settings), settings.get("compression") or ""
    stdout = sys.stdout.buffer
    try:
        join(
            Manifest(folder),
            HashingFile(stdout),
            kind=STREAM if kind == "arrow" else kind,
            compression=default_compression(kind, compression),
        )
        stdout.flush()
    except BrokenPipeError:  # the next command has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
