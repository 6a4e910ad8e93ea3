"""Files for pyarrow, whose own functions take no name that is not valid UTF-8, and no objects of
stores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.core.types import InputPath


def opened(path: InputPath | str) -> Any:
    """A pyarrow.OSFile that reads a file of any name; of an object of a store, a PythonFile.

    Raises:
        OSError: It cannot be opened.
    """
    import pyarrow as pa

    if isinstance(path, (str, os.PathLike)):
        return pa.OSFile(os.fsencode(path))
    return pa.PythonFile(path.open("rb"), mode="r")
