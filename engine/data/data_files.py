"""What the log of a table says of its data files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class DataFile:
    """A Parquet file with rows of a table.

    Attributes:
        path: Absolute.
        constants: Columns that it does not have, each with the one value of all its rows.
    """

    path: Path
    constants: tuple[tuple[str, pa.Scalar], ...] = ()
