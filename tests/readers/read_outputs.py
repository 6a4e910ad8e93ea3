"""Read outputs with other tools: python tests/readers/read_outputs.py FOLDER.

Prints a table; the exit code is 1 where a tool reads other rows than the run wrote, or cannot read
what the README says that it can. Needs the packages of requirements.txt and Java.
"""

from __future__ import annotations

import datetime
import glob
import json
import math
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
import numpy
import pandas
import polars
import pyarrow.csv
import pyarrow.dataset

Rows = list[dict[str, Any]]


@cache
def spark() -> Any:
    from pyspark.sql import SparkSession

    settings = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = settings.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


def load(*names: str, **options: str) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        splits = datasets.load_dataset(*names, cache_dir=folder, **options)
        assert list(splits) == ["train"], list(splits)
        return [dict(row) for row in splits["train"]]


def frames(read: Callable[[str], Any], pattern: str) -> Rows:
    """The rows of all files of a pattern, by pandas."""
    parts = [read(path) for path in sorted(glob.glob(pattern)) if os.path.getsize(path)]
    rows: Rows = pandas.concat(parts).to_dict("records")
    return rows


def sql(query: str) -> Rows:
    table = duckdb.sql(query).fetch_arrow_table()
    rows: Rows = table.to_pylist()
    return rows


def arrow(out: str, **options: Any) -> Any:
    return pyarrow.dataset.dataset(out, **options)


def sql_of_arrow(out: str) -> Rows:
    """DuckDB over a pyarrow dataset, which needs no extension."""
    rows: Rows = duckdb.from_arrow(arrow(out, format="arrow")).fetch_arrow_table().to_pylist()
    return rows


def collected(frame: Any) -> Rows:
    return [row.asDict(recursive=True) for row in frame.collect()]


def spark_csv(out: str) -> Rows:
    reader = spark().read.option("header", True).option("multiLine", True)
    return collected(reader.option("escape", '"').option("inferSchema", True).csv(out))


CSV = pyarrow.dataset.CsvFileFormat(pyarrow.csv.ParseOptions(newlines_in_values=True))
READERS: dict[str, dict[str, Callable[[str], Rows]]] = {
    "parquet": {
        "pyarrow": lambda out: arrow(out).to_table().to_pylist(),
        "pandas": lambda out: pandas.read_parquet(out).to_dict("records"),
        "Polars": lambda out: polars.read_parquet(f"{out}/*.parquet").to_dicts(),
        "Polars, lazy": lambda out: polars.scan_parquet(f"{out}/**/*.parquet").collect().to_dicts(),
        "DuckDB, *": lambda out: sql(f"select * from '{out}/*.parquet'"),
        "DuckDB, **": lambda out: sql(f"select * from '{out}/**/*.parquet'"),
        "Spark": lambda out: collected(spark().read.parquet(out)),
        "datasets": load,
        "datasets, glob": lambda out: load("parquet", data_files=f"{out}/*.parquet"),
    },
    "arrow": {
        "pyarrow": lambda out: arrow(out, format="arrow").to_table().to_pylist(),
        "pandas": lambda out: frames(pandas.read_feather, f"{out}/*.arrow"),
        "Polars": lambda out: polars.read_ipc(f"{out}/*.arrow").to_dicts(),
        "Polars, lazy": lambda out: polars.scan_ipc(f"{out}/*.arrow").collect().to_dicts(),
        "DuckDB, dataset": sql_of_arrow,
        "datasets": load,
        "datasets, glob": lambda out: load("arrow", data_files=f"{out}/*.arrow"),
    },
    "jsonl": {
        "pyarrow": lambda out: arrow(out, format="json").to_table().to_pylist(),
        "pandas": lambda out: frames(lambda p: pandas.read_json(p, lines=True), f"{out}/*.jsonl"),
        "Polars": lambda out: polars.read_ndjson(f"{out}/*.jsonl").to_dicts(),
        "Polars, lazy": lambda out: polars.scan_ndjson(f"{out}/*.jsonl").collect().to_dicts(),
        "DuckDB": lambda out: sql(f"select * from read_json('{out}/*.jsonl')"),
        "Spark": lambda out: collected(spark().read.json(out)),
        "datasets": load,
    },
    "csv": {
        "pyarrow": lambda out: arrow(out, format=CSV).to_table().to_pylist(),
        "pandas": lambda out: frames(pandas.read_csv, f"{out}/*.csv"),
        "Polars": lambda out: polars.read_csv(f"{out}/*.csv").to_dicts(),
        "Polars, lazy": lambda out: polars.scan_csv(f"{out}/*.csv").collect().to_dicts(),
        "DuckDB": lambda out: sql(f"select * from read_csv('{out}/*.csv')"),
        "Spark": spark_csv,
        "datasets": load,
    },
}
EMPTY = ("empty", "first")
TYPES = "it takes the types from one file, and one has no rows"
CANNOT = {
    ("jsonl", "pyarrow"): (EMPTY, "it opens no empty file"),
    ("jsonl", "Polars"): (("empty",), TYPES),
    ("jsonl", "Polars, lazy"): (("empty",), TYPES),
    ("jsonl", "datasets"): (("empty",), TYPES),
    ("csv", "pyarrow"): (EMPTY, TYPES),
    ("csv", "Polars"): (EMPTY, TYPES),
    ("csv", "Polars, lazy"): (EMPTY, TYPES),
    ("csv", "datasets"): (EMPTY, TYPES),
}
"""What a tool cannot read of a format: in which parts, and why. The README names it."""


def plain(value: Any, of_csv: bool) -> Any:
    """A value as the types that all tools share: a date as text, six digits of a float, and in CSV
    JSON text as what it stands for, and no difference between null and an empty text."""
    if isinstance(value, numpy.ndarray):
        value = value.tolist()
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, dict):
        return {name: plain(one, False) for name, one in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [plain(one, False) for one in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    if of_csv and isinstance(value, str):
        return plain(json.loads(value), False) if value[:1] in ("[", "{") else value or None
    return value


def read(reader: Callable[[str], Rows], out: Path, expected: Rows) -> str:
    of_csv = out.name.startswith("csv")
    try:
        rows = reader(str(out))
    except Exception as error:  # whatever a library raises is a result here
        return f"{type(error).__name__}: {error}".splitlines()[0][:100]
    wanted, answers = (
        sorted(
            ({name: plain(value, of_csv) for name, value in row.items()} for row in table),
            key=lambda row: row["id"],  # Spark and pandas may order files as they like
        )
        for table in (expected, rows)
    )
    if len(answers) != len(wanted):
        return f"{len(answers)} rows, not {len(wanted)}"
    for here, there in zip(answers, wanted, strict=True):
        names = [name for name in {**there, **here} if here.get(name) != there.get(name)]
        if names or here.keys() != there.keys():
            return f"row {there['id']} differs in {', '.join(names) or 'its columns'}"
    return ""


def main() -> None:
    datasets.disable_progress_bars()
    folder, failures = Path(sys.argv[1]), 0
    for out in sorted((folder / "outputs").iterdir()):
        kind, parts, rejects, *_ = out.name.split("-")
        expected = json.loads((folder / f"{parts}-{rejects}.json").read_text())
        for name, reader in READERS[kind].items():
            problem = read(reader, out, expected)
            among, why = CANNOT.get((kind, name), ((), ""))
            failures += bool(problem) != (parts in among)
            known = f" ({why})" if parts in among else ""
            print(f"{out.name:28} {name:16} {problem or 'same rows'}{known}")
    print(f"{failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
