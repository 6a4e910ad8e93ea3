"""Read outputs with other tools: python tests/readers/read_outputs.py FOLDER.

Prints a table; the exit code is 1 where a tool reads other rows than the run wrote, or cannot read
what the README says that it can. Needs the packages of requirements.txt and Java.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import duckdb
import pandas
import polars
import pyarrow.dataset


@cache
def spark() -> Any:
    from pyspark.sql import SparkSession

    settings = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = settings.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


def load(*names: str, **options: str) -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        splits = datasets.load_dataset(*names, cache_dir=folder, **options)
        assert list(splits) == ["train"], list(splits)
        return list(splits["train"]["id"])


def feathers(out: str) -> list[int]:
    frames = [pandas.read_feather(path) for path in sorted(glob.glob(f"{out}/*.arrow"))]
    return list(pandas.concat(frames)["id"])


def ids_of_sql(pattern: str) -> list[int]:
    return [row[0] for row in duckdb.sql(f"select id from '{pattern}'").fetchall()]


READERS: dict[str, dict[str, Callable[[str], list[int]]]] = {
    "parquet": {
        "pyarrow": lambda out: pyarrow.dataset.dataset(out).to_table()["id"].to_pylist(),
        "pandas": lambda out: list(pandas.read_parquet(out)["id"]),
        "Polars, glob": lambda out: polars.read_parquet(f"{out}/*.parquet")["id"].to_list(),
        "Polars, lazy": lambda out: (
            polars.scan_parquet(f"{out}/**/*.parquet").collect()["id"].to_list()
        ),
        "DuckDB, *": lambda out: ids_of_sql(f"{out}/*.parquet"),
        "DuckDB, **": lambda out: ids_of_sql(f"{out}/**/*.parquet"),
        "Spark": lambda out: [row["id"] for row in spark().read.parquet(out).collect()],
        "datasets": load,
        "datasets, glob": lambda out: load("parquet", data_files=f"{out}/*.parquet"),
    },
    "arrow": {
        "pyarrow": lambda out: (
            pyarrow.dataset.dataset(out, format="arrow").to_table()["id"].to_pylist()
        ),
        "pandas": feathers,
        "Polars, glob": lambda out: polars.read_ipc(f"{out}/*.arrow")["id"].to_list(),
        "Polars, lazy": lambda out: polars.scan_ipc(f"{out}/*.arrow").collect()["id"].to_list(),
        "datasets": load,
        "datasets, glob": lambda out: load("arrow", data_files=f"{out}/*.arrow"),
    },
}


def read(reader: Callable[[str], list[int]], out: Path, ids: list[int]) -> str:
    try:
        rows = reader(str(out))
    except Exception as error:  # whatever a library raises is a result here
        return f"{type(error).__name__}: {error}".splitlines()[0][:100]
    # Spark and pandas may order files as they like.
    return "" if sorted(rows) == sorted(ids) else f"{len(rows)} rows, not {len(ids)}"


def main() -> None:
    datasets.disable_progress_bars()
    folder, failures = Path(sys.argv[1]), 0
    for out in sorted((folder / "outputs").iterdir()):
        ids = json.loads((folder / f"{out.name}.json").read_text())
        for name, reader in READERS[out.name.split("-")[0]].items():
            problem = read(reader, out, ids)
            failures += bool(problem)
            print(f"{out.name:22} {name:16} {problem or 'same rows'}")
    print(f"{failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
