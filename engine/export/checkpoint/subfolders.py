"""A checkpoint in a folder of a repository, or of a local folder."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

from engine.errors import ExportError, SettingsError

# What a folder holds that can be exported.
_MARKS = ("config.json", "modules.json")
# How far below a folder to look.
_DEEPEST = 3
_SHOWN = 8


def checked(subfolder: str) -> str:
    """The path in its plain form, "" for none.

    Raises:
        SettingsError: It is absolute, or leaves the folder.
    """
    parts = PurePosixPath(subfolder).parts
    if subfolder.startswith(("/", "~")) or ".." in parts or "\\" in subfolder or ":" in subfolder:
        raise SettingsError(
            f"subfolder: {subfolder!r} is not a path below the checkpoint's folder",
            "give its path from there, with /",
        )
    return "/".join(parts)


def below(subfolder: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The same patterns, of files in the subfolder."""
    if not subfolder:
        return patterns
    return tuple(f"{subfolder}/{pattern}" for pattern in patterns)


def check_there(model: str, subfolder: str, top: Path, commit: str = "") -> None:
    """Check that a folder holds a checkpoint; where it does not, name the subfolders that do.

    Args:
        model: As the user named it.
        top: The local folder, or what was fetched of the repository.
        commit: The hub's commit, "" for a local folder.

    Raises:
        ExportError: There is no config.json, and another folder has one or a subfolder was named.
    """
    if any((top / subfolder / name).is_file() for name in _MARKS):
        return
    holders = _on_hub(model, commit) if commit else _on_disk(top)
    if not subfolder and not holders:
        return
    where = f"the subfolder {subfolder!r}" if subfolder else "the top folder"
    named = ", ".join(holder or "the top folder" for holder in holders[:_SHOWN])
    more = f" and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else ""
    raise ExportError(
        f"{model}: {where} holds no config.json; those that hold one: {named or 'none'}{more}",
        _hint(holders),
    )


def _hint(holders: list[str]) -> str:
    if not holders:
        return "give a checkpoint in the Hugging Face layout (save_pretrained writes one)"
    if not holders[0]:
        return "leave --subfolder out"
    return f"name the folder, such as --subfolder {holders[0]}"


def _on_disk(top: Path) -> list[str]:
    patterns = ("*/" * depth + _MARKS[0] for depth in range(_DEEPEST + 1))
    files = (file.relative_to(top) for pattern in patterns for file in top.glob(pattern))
    return _folders([file.as_posix() for file in files])


def _on_hub(model: str, commit: str) -> list[str]:
    from huggingface_hub import HfApi

    with contextlib.suppress(OSError, ValueError):
        return _folders(HfApi().list_repo_files(model, revision=commit))
    return []


def _folders(names: list[str]) -> list[str]:
    """The folders of the config.json among these files, those of layers left out."""
    folders = {str(PurePosixPath(name).parent) for name in names if _is_mark(name)}
    return sorted("" if folder == "." else folder for folder in folders)


def _is_mark(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.name == _MARKS[0] and not hidden and not path.parent.name[:1].isdigit()
