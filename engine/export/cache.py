"""A cache of bundles: each checkpoint is exported once.

    CACHE/bundles/NAME-DIGEST/     a bundle; the digest is over its source and the export's settings

The digest is over the checkpoint (hub id and commit, or the bytes of a folder's files), the task,
the recipe, the bundles' format and the engine's version. So a cached bundle is found without torch,
transformers or the network, unless a hub id comes without its 40-hex commit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.bundle import format as bundle_format
from engine.core.cache_folder import folder
from engine.errors import BundleError, OutputError, SettingsError
from engine.version import __version__

FP32 = "fp32"

__all__ = ["bundle_for", "folder", "locate"]


def _silent(message: str) -> None:
    """The default `progress`."""


def bundle_for(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    recipe: str | None = None,
    allow_pickle: bool = False,
    progress: Callable[[str], None] = _silent,
    check: Callable[[str], None] = _silent,
) -> Path:
    """The folder of a bundle: the given one, or that of a checkpoint, which is exported once.

    Args:
        model: A bundle's folder, a checkpoint's folder, or a hub id such as google-t5/t5-small.
        task, revision, recipe, allow_pickle: As in `engine.export.export`; without a recipe fp32.
            If `model` is a bundle, its task and recipe must be the named ones, and the other two
            are refused.
        progress: Called with one line before each stage of an export.
        check: Called with the task of a checkpoint that is about to be exported; see
            `engine.export.export`.

    Raises:
        BundleError: A path that does not exist, or a folder that is neither bundle nor checkpoint.
        SettingsError: The task or recipe is unknown or the bundle is of another one, or something
            was given that only a checkpoint or only a hub id has.
        ExportError: The checkpoint cannot become a bundle.
        MissingDependency: An export, or the hub, is needed, and the extra `export` is not there.
        OutputError: The cache cannot be written.
    """
    found = locate(
        model,
        task=task,
        revision=revision,
        recipe=recipe,
        allow_pickle=allow_pickle,
        progress=progress,
    )
    if found.is_there:
        return found.folder
    from engine.export import export

    progress(f"exporting {found.name} into {found.folder}, once")
    try:
        export(
            found.model,
            found.folder,
            task=task,
            revision=found.revision,
            recipe=recipe or FP32,
            allow_pickle=allow_pickle,
            progress=progress,
            check=check,
        )
    except OutputError:
        # Another process may have been faster; its bundle has the same source and settings.
        if not _is_bundle(found.folder):
            raise
    return found.folder


@dataclass(frozen=True)
class Located:
    """Where a model's bundle is, or where the export of a checkpoint would write it.

    Attributes:
        folder: Of the bundle.
        is_there: Whether the bundle exists.
        model: The checkpoint's absolute folder or hub id; the bundle's folder where one was given.
        name: The checkpoint in words.
        revision: The commit of a hub id.
    """

    folder: Path
    is_there: bool
    model: str
    name: str
    revision: str | None = None


def locate(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    recipe: str | None = None,
    allow_pickle: bool = False,
    progress: Callable[[str], None] = _silent,
) -> Located:
    """Find a model's bundle without exporting anything; `bundle_for` says what the arguments are
    and what is raised."""
    if recipe is not None:
        from engine.export.recipes import table

        table.recipe(recipe)
    path = Path(model).expanduser()
    if path.exists() and not any((path / name).is_file() for name in _OF_CHECKPOINTS):
        bundle_format.load(path)
    if (path / bundle_format.DESCRIPTION).is_file():
        _check_no_revision(model, revision)
        _check_task(path, task, progress)
        _check_recipe(path, recipe, allow_pickle)
        return Located(path, True, model, path.name)
    if _looks_like_a_path(model):
        bundle_format.load(path)
    from engine.export.checkpoint import task_inference

    task_inference.check_known(task)
    if path.is_dir():
        _check_no_revision(model, revision)
        path = path.resolve()
        model, name, source = str(path), path.name, _content(path)
    else:
        revision = _commit(model, revision, progress)
        name, source = model, f"{model}@{revision}"
    out = folder() / "bundles" / _folder_name(name, source, task, recipe or FP32)
    return Located(out, _is_bundle(out), model, name, revision)


# The second is enough where the transformer has a folder of its own.
_OF_CHECKPOINTS = ("config.json", "modules.json")


def _looks_like_a_path(model: str) -> bool:
    """Whether this cannot be a hub id. False for the existing folder of a checkpoint."""
    path = Path(model).expanduser()
    marked = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    return marked and not path.is_dir()


def _check_no_revision(model: str, revision: str | None) -> None:
    if revision is not None:
        raise SettingsError(
            f"revision: {model} is a local folder, which has no revisions",
            "leave the revision out, or give a hub id",
        )


def _check_task(path: Path, task: str | None, progress: Callable[[str], None]) -> None:
    """Refuse a bundle whose task is not the named one."""
    from engine.tasks import find

    bundled = bundle_format.load(path).description.task
    if task is not None and find(task).name != bundled:
        raise SettingsError(
            f"task: {path} is a bundle for {bundled}, not for {task}",
            "leave the task out, or export the checkpoint for the other task",
        )
    if task is not None and task.startswith("translation_"):
        progress(f"note: {task} changes nothing: {path} has the languages of its export")


def _check_recipe(path: Path, recipe: str | None, allow_pickle: bool) -> None:
    """Refuse a bundle whose recipe is not the named one, and what only an export reads."""
    bundled = bundle_format.load(path).description.recipe
    if recipe not in (None, bundled):
        again = f"engine quantize {path} --recipe {recipe} -o NEW makes a bundle of {recipe}"
        raise SettingsError(
            f"recipe: {path} is a bundle of recipe {bundled}, not {recipe}",
            again if bundled == FP32 else f"leave the recipe out, or give a bundle of {recipe}",
        )
    if allow_pickle:
        raise SettingsError(
            f"allow_pickle: {path} is a bundle, and only checkpoints have .bin weights",
            "leave it out",
        )


def _commit(model: str, revision: str | None, progress: Callable[[str], None]) -> str:
    """The commit of a hub id; without the network if the revision is one."""
    from engine.export import check_installed
    from engine.export.checkpoint import hub

    if revision is None or not hub.COMMIT.fullmatch(revision):
        check_installed()
    return hub.pinned(model, revision, progress)


def _content(path: Path) -> str:
    """Hex digest over the names and bytes of the files that an export reads from a folder."""
    from engine.export.checkpoint import hub

    digest = hashlib.sha256()
    for file in hub.files(path):
        digest.update(f"{file.relative_to(path)} {bundle_format.sha256(file)}\n".encode())
    return digest.hexdigest()


def _folder_name(name: str, source: str, task: str | None, recipe: str) -> str:
    """The bundle's folder name: a readable part, then a digest that identifies it."""
    from engine.export.checkpoint import task_inference

    canonical = "" if task is None else task_inference.canonical(task)
    key = json.dumps([source, canonical, recipe, bundle_format.FORMAT, __version__])
    readable = re.sub(r"[^\w.]+", "-", "-".join(filter(None, (name, canonical, recipe))))
    return f"{readable[:80].strip('-.')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _is_bundle(out: Path) -> bool:
    """Whether this is a bundle of the current format; bundles appear whole, by a rename."""
    try:
        bundle_format.load(out)
    except BundleError:
        return False
    return True
