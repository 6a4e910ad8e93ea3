"""Tables that other tools write, read by the engine: the same rows as those tools read.

Run in the readers' environment with the repository on PYTHONPATH; it prints a line for each table,
and fails where one differs.
"""

from __future__ import annotations

import datetime
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

from engine import data
from engine.core.types import Column
from engine.errors import InputError

Rows = list[dict[str, Any]]
ROWS = {"text": ["a", "b", "c", "d"], "id": [1, 2, 3, 4], "k": ["x", "y/z", None, "x"]}


def read(path: Path | str) -> Rows:
    """All columns of all rows, as the engine reads them."""
    files = data.find_files([path])
    columns = data.settle(files, [Column("text")], ("all",))
    return [
        row
        for split in data.split_files(files, 1 << 30)
        for rows in data.read(split, columns, window=1000)
        if rows.kept is not None
        for row in rows.kept.to_pylist()
    ]


def delta(folder: Path) -> tuple[Path, Rows]:
    write_deltalake(str(folder), pa.table(ROWS), partition_by=["k"])
    write_deltalake(str(folder), pa.table(ROWS), mode="append")
    DeltaTable(str(folder)).delete("id = 2")
    later = pa.table(ROWS | {"more": [0.5] * 4})
    write_deltalake(str(folder), later, mode="append", schema_mode="merge")
    return folder, pa.table(DeltaTable(str(folder)).to_pyarrow_table()).to_pylist()


def delta_compacted(folder: Path) -> tuple[Path, Rows]:
    for _ in range(3):
        write_deltalake(str(folder), pa.table(ROWS), mode="append")
    DeltaTable(str(folder)).optimize.compact()
    return folder, pa.table(DeltaTable(str(folder)).to_pyarrow_table()).to_pylist()


def iceberg(folder: Path) -> tuple[Path, Rows]:
    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}.db", warehouse=folder.as_uri())
    catalog.create_namespace("n")
    nested = {"chat": [[{"role": "user", "content": "hi"}], [], None, []]}
    table = catalog.create_table("n.t", schema=pa.table(ROWS | nested).schema)
    table.append(pa.table(ROWS | nested))
    table.append(pa.table(ROWS | nested))
    table.delete("id = 2")
    return folder / "n" / "t", table.scan().to_arrow().to_pylist()


def iceberg_renamed(folder: Path) -> tuple[Path, None]:
    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}.db", warehouse=folder.as_uri())
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", schema=pa.schema([("body", pa.string())]))
    table.append(pa.table({"body": ["a"]}))
    with table.update_schema() as update:
        update.rename_column("body", "text")
    return folder / "n" / "t", None


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "text": ["a", "b" * 30, "c"],
            "category": pl.Series(["x", None, "x"], dtype=pl.Categorical),
            "enum": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y"])),
            "texts": [["a", "b"], [], None],
            "categories": pl.Series([["a"], ["b", "a"], []], dtype=pl.List(pl.Categorical)),
            "struct": [{"a": "x", "b": [1]}, None, {"a": None, "b": []}],
            "decimal": [Decimal("1.50"), None, Decimal("2.25")],
            "duration": [datetime.timedelta(days=1), None, datetime.timedelta(seconds=3)],
            "date": [datetime.date(2020, 1, 1)] * 3,
            "time": [datetime.time(3, 4)] * 3,
            "bytes": [b"a", None, b"c" * 20],
            "pair": pl.Series([[1, 2], [3, 4], None], dtype=pl.Array(pl.Int64, 2)),
            "flag": [True, False, None],
        }
    )


def polars_of(write: Callable[[pl.DataFrame, Path], object], ending: str) -> Any:
    def make(folder: Path) -> tuple[Path, Rows]:
        path = folder.with_suffix(ending)
        write(frame(), path)
        return path, frame().to_dicts()

    return make


def saved_dataset(folder: Path) -> tuple[Path, Rows]:
    rows = datasets.Dataset.from_dict(ROWS)
    rows.save_to_disk(str(folder), num_shards=3)
    saved = datasets.load_from_disk(str(folder))
    saved.map(lambda row: {"other": row["text"]})  # leaves a cache beside the shards
    return folder, saved.to_list()


def saved_splits(folder: Path) -> tuple[Path, Rows]:
    rows = datasets.Dataset.from_dict(ROWS).shuffle(seed=0)
    datasets.DatasetDict({"train": rows, "test": rows.select(range(2))}).save_to_disk(str(folder))
    return folder, [*rows.to_list(), *rows.select(range(2)).to_list()]


def pandas_csv(folder: Path) -> tuple[Path, Rows]:
    path = folder.with_suffix(".csv")
    rows = pd.DataFrame({"text": ["a", 'b,"\n', "c"], "id": [1, 2, 3], "x": [0.1, 1e-7, 3.0]})
    rows.to_csv(path, index=False)
    return path, rows.to_dict("records")


def duckdb_csv(folder: Path) -> tuple[Path, Rows]:
    path = folder.with_suffix(".csv")
    rows = "select 'a' || i as text, i as id, i / 7 as x, i % 2 = 0 as flag from range(1000) t(i)"
    duckdb.sql(rows).write_csv(str(path))
    return path, duckdb.sql(f"select * from '{path}'").to_arrow_table().to_pylist()


TABLES: dict[str, Callable[[Path], tuple[Path, Rows | None]]] = {
    "Delta, partitioned, deleted from, with a column that came later": delta,
    "Delta, compacted": delta_compacted,
    "Iceberg, deleted from": iceberg,
    "Iceberg, a column renamed (refused)": iceberg_renamed,
    "Polars, Arrow IPC": polars_of(lambda rows, path: rows.write_ipc(path), ".arrow"),
    "Polars, Arrow IPC, zstd": polars_of(
        lambda rows, path: rows.write_ipc(path, compression="zstd"), ".feather"
    ),
    "Polars, Arrow stream": polars_of(lambda rows, path: rows.write_ipc_stream(path), ".arrow"),
    "Polars, Parquet": polars_of(lambda rows, path: rows.write_parquet(path), ".parquet"),
    "datasets, three shards": saved_dataset,
    "datasets, two splits": saved_splits,
    "pandas, CSV": pandas_csv,
    "DuckDB, CSV": duckdb_csv,
}


def differs(path: Path, expected: Rows | None) -> str:
    """What is wrong with how the engine reads a table, or ""."""
    try:
        rows = read(path)
    except InputError as error:
        return "" if expected is None else str(error)
    if expected is None:
        return "not refused"
    if sorted(map(_key, rows)) == sorted(map(_key, expected)):
        return ""
    return f"{len(rows)} rows that are not the {len(expected)} of the tool"


def _key(row: dict[str, Any]) -> str:
    """A row as text, without columns that it has not."""
    return repr(sorted((name, value) for name, value in row.items() if value is not None))


def main() -> int:
    datasets.disable_progress_bars()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make) in enumerate(TABLES.items()):
            path, expected = make(Path(folder, str(number)))
            fault = differs(path, expected)
            faults += bool(fault)
            print(f"{name}: {fault or 'equal' if expected is not None else fault or 'refused'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
