"""Bundles by the name of a checkpoint: exported once, then found again.

    CACHE/bundles/NAME-DIGEST/     a bundle; the digest is that of what it was made from, and how

The digest is over the checkpoint (hub id and commit, or the bytes of a folder's files), the task,
the recipe, the bundles' format and the engine's version. So a bundle is found without torch,
transformers or the network, unless a hub id comes without its 40-hex commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from engine.bundle import format as bundle_format
from engine.errors import BundleError, OutputError, SettingsError
from engine.version import __version__

__all__ = ["bundle_for", "folder"]


def folder() -> Path:
    """Where the cache lies: $CORPUS_ENGINE_CACHE, or corpus-engine in the user's cache folder."""
    if own := os.environ.get("CORPUS_ENGINE_CACHE"):
        return Path(own).expanduser()
    usual = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(usual).expanduser() / "corpus-engine"


def _silent(message: str) -> None:
    """The default `progress`."""


def bundle_for(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    recipe: str = "fp32",
    allow_pickle: bool = False,
    progress: Callable[[str], None] = _silent,
) -> Path:
    """The folder of a bundle: a bundle itself, or a checkpoint's, which is exported once.

    Args:
        model: A bundle's folder, a checkpoint's folder, or a hub id such as google-t5/t5-small.
        task, revision, recipe, allow_pickle: As `engine.export.export` takes them; a bundle has its
            own task, which must be the one named, and its own recipe, which is not looked at.
        progress: Called with one line before each stage of an export.

    Raises:
        BundleError: A path that does not exist, or a folder that is neither bundle nor checkpoint.
        SettingsError: The task or recipe is unknown or the bundle is of another task, or a revision
            was given for a folder.
        ExportError: The checkpoint cannot become a bundle.
        MissingDependency: An export, or the hub, is needed, and the extra `export` is not there.
        OutputError: The cache cannot be written.
    """
    path = Path(model).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        bundle_format.load(path)
    if (path / bundle_format.DESCRIPTION).is_file():
        _check_no_revision(model, revision)
        _check_task(path, task)
        return path
    if _looks_like_a_path(model):
        bundle_format.load(path)
    return _cached(model, path, task, revision, recipe, allow_pickle, progress)


def _looks_like_a_path(model: str) -> bool:
    """Whether nothing on the hub can be meant. An existing checkpoint's folder is none of these."""
    path = Path(model).expanduser()
    marked = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    return marked and not path.is_dir()


def _cached(
    model: str,
    path: Path,
    task: str | None,
    revision: str | None,
    recipe: str,
    allow_pickle: bool,
    progress: Callable[[str], None],
) -> Path:
    from engine.export import export
    from engine.export.checkpoint import task_inference

    task_inference.check_known(task)
    if path.is_dir():
        _check_no_revision(model, revision)
        path = path.resolve()
        model, name, made_from = str(path), path.name, _content(path)
    else:
        revision = _commit(model, revision, progress)
        name, made_from = model, f"{model}@{revision}"
    out = folder() / "bundles" / _named(name, made_from, task, recipe)
    if _there(out):
        return out
    progress(f"exporting {name} into {out}, once")
    try:
        export(
            model,
            out,
            task=task,
            revision=revision,
            recipe=recipe,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    except OutputError:
        # Another process may have come first; its bundle is made from the same.
        if not _there(out):
            raise
    return out


def _check_no_revision(model: str, revision: str | None) -> None:
    if revision is not None:
        raise SettingsError(
            f"revision: {model} is a local folder, which has no revisions",
            "leave the revision out, or give a hub id",
        )


def _check_task(path: Path, task: str | None) -> None:
    """Refuse a bundle of another task than the one that was named."""
    from engine.tasks import find

    own = bundle_format.load(path).description.task
    if task is not None and find(task).name != own:
        raise SettingsError(
            f"task: {path} is a bundle for {own}, not for {task}",
            "leave the task out, or export the checkpoint for the other task",
        )


def _commit(model: str, revision: str | None, progress: Callable[[str], None]) -> str:
    """The commit of a hub id; asks nobody where the revision is one."""
    from engine.export import check_installed
    from engine.export.checkpoint import hub

    if revision is None or not hub.COMMIT.fullmatch(revision):
        check_installed()
    return hub.pinned(model, revision, progress)


def _content(path: Path) -> str:
    """Hex digest over the names and bytes of what an export would read of a folder."""
    from engine.export.checkpoint import hub

    digest = hashlib.sha256()
    for file in hub.files(path):
        digest.update(f"{file.relative_to(path)} {bundle_format.sha256(file)}\n".encode())
    return digest.hexdigest()


def _named(name: str, made_from: str, task: str | None, recipe: str) -> str:
    """The bundle's folder name: readable first, then what tells it from all others."""
    from engine.export.checkpoint import task_inference

    usual = "" if task is None else task_inference.canonical(task)
    key = json.dumps([made_from, usual, recipe, bundle_format.FORMAT, __version__])
    readable = re.sub(r"[^\w.]+", "-", "-".join(filter(None, (name, usual, recipe))))
    return f"{readable[:80].strip('-.')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _there(out: Path) -> bool:
    """Whether a bundle of this format is there; bundles appear whole, by a rename."""
    try:
        bundle_format.load(out)
    except BundleError:
        return False
    return True
