"""A bundle's folder is closed: it has the files that its description lists, and plain files only.

A stranger's bundle could otherwise have the engine open a file that nobody has hashed, or one
outside of the folder.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection
from pathlib import Path

from engine.bundle.typed_json import shown
from engine.errors import BundleError

State = tuple[int, int, int, int, int]
"""Device, inode, bytes, and when the content and the inode changed last, in nanoseconds."""


def check(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder with other things than plain files of these names.

    Names that begin with a dot are passed over: tools leave them, and the engine opens none.

    Raises:
        BundleError: Something else is there; it is named.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name not in names:
            if entry.name.startswith("."):
                continue
            raise BundleError(
                f"{folder}: holds {shown(entry.name)}, which is no file of this bundle",
                "move it elsewhere; a bundle holds what its bundle.json lists, and nothing else",
            )
        check_file(folder / entry.name)


def check_file(file: Path) -> None:
    """Refuse a link, a folder or a special file.

    Raises:
        BundleError: It is one.
    """
    status = file.lstat()
    if kind := _refused(status):
        linked = stat.S_ISLNK(status.st_mode) or stat.S_ISREG(status.st_mode)
        raise BundleError(
            f"{file}: is {kind}, and a bundle holds plain files only",
            f"a copy has none: cp -rL {shlex.quote(str(file.parent))} COPY"
            if linked
            else "export the model again",
        )


def _refused(status: os.stat_result) -> str:
    """What a file is that is not a plain one of its own."""
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "a folder" if stat.S_ISDIR(status.st_mode) else "a special file"
    return "a hard link, which has another name, too" if status.st_nlink > 1 else ""


def states(folder: Path, names: Collection[str]) -> dict[str, State | None]:
    """What tells that a file is still the same, by name; None for one that is not there."""
    return {name: _state(folder / name) for name in sorted(names)}


def _state(file: Path) -> State | None:
    try:
        status = file.lstat()
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
