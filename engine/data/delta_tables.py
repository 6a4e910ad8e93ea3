"""Delta tables: the data files that the log lists now, by the package `deltalake`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from engine.data.data_files import DataFile
from engine.data.plain_types import Decoder
from engine.errors import InputError


def data_files(folder: Path) -> list[DataFile]:
    """The files of a table's latest version, with the values of its partition.

    Raises:
        ImportError: deltalake is not installed.
        InputError: The files as they lie are not the table's rows; without the folder's name.
    """
    from deltalake import DeltaTable

    table = DeltaTable(str(folder))
    _check_features(table)
    actions = pa.table(table.get_add_actions(flatten=False)).combine_chunks()
    paths = [unquote(path) for path in actions["path"].to_pylist()]
    columns = _partitions(actions)
    return [
        DataFile(_below(folder, path), tuple((name, c[i]) for name, c in columns.items()))
        for i, path in enumerate(paths)
    ]


def _check_features(table: Any) -> None:
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise InputError(
            f"a Delta table whose columns are mapped by {mode}: its files name them otherwise",
            "write it anew without column mapping",
        )
    if pa.table(table.deletion_vectors()).num_rows:
        raise InputError(
            "a Delta table with deletion vectors: its files have deleted rows",
            "REORG TABLE ... APPLY (PURGE) writes the files without them",
        )


def _partitions(actions: pa.Table) -> dict[str, pa.Array]:
    """The values of each partition column, one for each file."""
    if "partition" not in actions.column_names or not len(actions):
        return {}
    column = actions["partition"].chunk(0)
    decoder = Decoder()
    return {field.name: decoder.plain(pc.struct_field(column, field.name)) for field in column.type}


def _below(folder: Path, path: str) -> Path:
    if "://" in path or path.startswith(("/", "file:")):
        raise InputError(
            "a Delta table with files outside of its folder", "copy it as a whole: a deep clone"
        )
    return folder / path
