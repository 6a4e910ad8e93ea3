"""The locks of the shares of a run, which write into one output folder at the same time.

    OUT/_manifest/.shares.lock          held for a moment by a share that begins or ends
    OUT/_manifest/shares/2-of-8.lock    held by that share while it runs

A share takes its own lock while it holds the first one and the folder's `.lock`, which it lets go
then. A run of all parts has that for as long as it runs, and looks for shares once it has it. So
whoever comes second is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.core.activity import proceed, working
from engine.core.share import Share
from engine.data import make_folder, writing
from engine.errors import OutputError
from engine.runner.folder_lock import FILE, GATE, LOCK, SHARES, Hold, LockHeldError, locked
from engine.runner.lock_holder import read_holder

_POLL_SECONDS = 0.05
# Where a file's existence is the lock, one whose process has gone on another machine is for ever.
_FILE_SECONDS = 120.0


@contextmanager
def passing(out: Path, folder: Path) -> Iterator[None]:
    """Be the only share that begins or ends while the body runs; others are waited for.

    Args:
        out: The output folder.
        folder: Where its records are; it is there.

    Raises:
        OutputError: It cannot be locked.
        Stopped: The run is to end.
    """
    stack, until = ExitStack(), time.monotonic() + _FILE_SECONDS
    with working("waiting", "for another share that begins or ends"):
        while not _entered(stack, out, folder, until):
            proceed()
            time.sleep(_POLL_SECONDS)
    with stack:
        yield


def _entered(stack: ExitStack, out: Path, folder: Path, until: float) -> bool:
    """Take the lock, unless another share has it, or has removed the folder again."""
    with writing(folder):
        make_folder(folder)
    try:
        stack.enter_context(locked(out, folder, name=GATE, shared=True))
    except LockHeldError:
        if time.monotonic() > until and _way(folder / GATE) == FILE:
            raise
        return False
    except OutputError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        return False
    return True


def _way(file: Path) -> str:
    """How whoever holds a lock file says that it does."""
    holder = read_holder(file.read_bytes()) if file.is_file() else None
    return holder.way if holder else ""


@contextmanager
def share_locked(out: Path, folder: Path, share: Share) -> Iterator[Hold]:
    """Hold the lock of a share while the body runs; another that has begun is refused.

    Raises:
        OutputError: The same share runs already.
    """
    with writing(folder):
        make_folder(folder / SHARES)
    with locked(out, folder / SHARES, name=f"{share.file_stem}{LOCK}", shared=True) as hold:
        yield hold
