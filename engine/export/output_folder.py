"""An output folder that appears whole, or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import OutputError
from engine.printable import is_text

# What the operating system reports where a disk or a quota is full.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def new_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Two empty folders next to `out`: one for work, and one that becomes `out` on success.

    Nothing is left of either if an exception is raised.

    Raises:
        OutputError: `out` exists and is not empty, or cannot be written.
    """
    if not is_text(str(out)):
        raise OutputError(f"{out}: a name that is not valid UTF-8", "name the folder otherwise")
    _check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _not_writable(out, error) from error
    try:
        work, bundle = temporary / "work", temporary / "bundle"
        work.mkdir()
        bundle.mkdir()
        yield work, bundle
        _publish(bundle, out)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _not_writable(out, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(bundle: Path, out: Path) -> None:
    _check_free(out)
    try:
        if out.exists():
            out.rmdir()
        bundle.rename(out)
    except OSError as error:
        raise _not_writable(out, error) from error


def _check_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        what = "and is not empty" if out.is_dir() else "and is a file"
        raise OutputError(f"{out}: already exists {what}", "give a new folder, or remove it")


def _not_writable(out: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {out}: {error.strerror or error}", "give a folder that you may write to"
    )
