"""The lock of an output folder, which one run at a time may hold.

OUT/_manifest/.lock      locked by `flock` while a run writes
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.data import writing
from engine.errors import OutputError

LOCK = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What `flock` fails with where another process has the lock."""


@contextmanager
def locked(out: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder while the body runs.

    Args:
        out: The output folder, for messages.
        folder: Where its records are; it is there.

    Raises:
        OutputError: Another run is writing here, or the folder cannot be locked.
    """
    path = folder / LOCK
    with writing(out):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        stream = os.fdopen(os.open(path, flags, 0o666), "r+")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                raise OutputError(
                    f"{path}: cannot be locked: {error.strerror}",
                    "choose a folder on another file system with -o",
                ) from error
            raise OutputError(
                f"{out}: another run is writing here",
                "wait for it, or choose another folder with -o",
            ) from error
        yield
