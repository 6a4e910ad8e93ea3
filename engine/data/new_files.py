"""Files that are made anew, whatever lies there: nobody's link is written through."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from engine.core.system_calls import open_file


def open_new(path: Path) -> BinaryIO:
    """An empty file to write, in place of a file or link of that name.

    Raises:
        OSError: It cannot be made.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")
