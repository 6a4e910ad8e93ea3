"""Local files for pyarrow, whose own functions take no name that is not valid UTF-8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def opened(path: Path | str) -> Any:
    """A pyarrow.OSFile that reads a file of any name.

    Raises:
        OSError: It cannot be opened.
    """
    import pyarrow as pa

    return pa.OSFile(os.fsencode(path))
