"""The Spark mapper with stand-ins for PySpark; `spark.py` beside this file tries the real one."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.demo import BUNDLE
from engine.errors import BundleError, InputError, MissingDependency, SettingsError
from engine.integrations import spark
from engine.integrations.mapped_rows import MapSettings, whole
from engine.pipeline import Bundle

ROWS = pa.table({"id": range(9), "text": ["uno", "dos", None, "tres", "once", "", "seis", None,
                 "nueve"]})  # fmt: skip


class StructField(SimpleNamespace):
    def __init__(self, name: str, kind: Any, nullable: bool) -> None:
        super().__init__(name=name, kind=kind, nullable=nullable)


class Worker:
    """What PySpark tells a task: its CPUs, its GPUs, and where files are."""

    def __init__(self, files: Path, cpus: int = 1, gpus: tuple[str, ...] = ()) -> None:
        self.files, self.count, self.gpus = files, cpus, gpus

    def get(self) -> Worker:
        return self

    def cpus(self) -> int:
        return self.count

    def resources(self) -> dict[str, Any]:
        return {"gpu": SimpleNamespace(addresses=self.gpus)} if self.gpus else {}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Worker:
    """PySpark as a worker has it, and no bundle loaded."""
    task = Worker(tmp_path)
    modules = {
        "pyspark": {
            "TaskContext": task,
            "SparkFiles": SimpleNamespace(get=lambda name: str(tmp_path / name)),
        },
        "pyspark.sql.types": {"StructType": list, "StructField": StructField},
        "pyspark.sql.pandas.types": {
            "to_arrow_schema": lambda schema: schema.arrow,
            "from_arrow_type": str,
        },
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(spark, "_LOADED", {})
    return task


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of every load of a bundle."""
    calls: list[dict[str, Any]] = []
    load = Bundle.load

    def counted(path: Path, **arguments: Any) -> Bundle:
        calls.append(arguments)
        return load(path, **{**arguments, "device": "cpu"})

    monkeypatch.setattr(Bundle, "load", counted)
    return calls


def batches(table: pa.Table, size: int = 2) -> Iterator[pa.RecordBatch]:
    return iter(table.to_batches(max_chunksize=size))


def test_a_partition_has_the_rows_and_values_of_the_bundle(
    worker: Worker, loads: list[Any]
) -> None:
    answers = pa.Table.from_batches(spark.mapper(BUNDLE)(batches(ROWS)))
    bundle, settings = Bundle.load(BUNDLE, device="cpu", threads=1), MapSettings.of({})
    expected = whole(ROWS, bundle.answer(ROWS, **settings.answering), settings)
    assert answers.to_pylist() == expected.to_pylist()
    assert [row["reject"] and row["reject"]["code"] for row in answers.to_pylist()] == [
        "null_text" if row in (2, 7) else None for row in range(9)
    ]


def test_a_worker_loads_a_bundle_once_for_all_partitions_and_stages(
    worker: Worker, loads: list[dict[str, Any]]
) -> None:
    worker.count = 3
    for arguments in ({}, {}, {"keep": "id"}, {"result_prefix": "again_"}):
        # As Spark sends it: a copy for every task.
        answer = pickle.loads(pickle.dumps(spark.mapper(BUNDLE, **arguments)))
        assert sum(batch.num_rows for batch in answer(batches(ROWS))) == 9
    assert loads == [{"device": "cpu", "threads": 3, "workers": 3, "gpu_memory": 0}]
    list(spark.mapper(BUNDLE, threads=1)(batches(ROWS)))
    assert len(loads) == 2


def test_a_worker_keeps_few_bundles(worker: Worker, loads: list[Any]) -> None:
    for threads in (1, 2, 3, 1):
        list(spark.mapper(BUNDLE, threads=threads)(batches(ROWS)))
    assert [call["threads"] for call in loads] == [1, 2, 3, 1]
    assert len(spark._LOADED) == 2


def test_a_task_with_a_gpu_runs_on_it(worker: Worker, loads: list[dict[str, Any]]) -> None:
    worker.gpus = ("3",)
    list(spark.mapper(BUNDLE)(batches(ROWS)))
    list(spark.mapper(BUNDLE, device="cpu")(batches(ROWS)))
    assert [call["device"] for call in loads] == ["cuda:3", "cpu"]


def test_a_bad_row_is_refused_where_that_is_asked_for(worker: Worker) -> None:
    with pytest.raises(InputError, match="row 2"):
        list(spark.mapper(BUNDLE, on_error="fail")(batches(ROWS)))
    good = ROWS.filter(ROWS["text"].is_valid())
    rows = pa.Table.from_batches(spark.mapper(BUNDLE, on_error="fail")(batches(good)))
    assert rows.num_rows == 7
    assert "reject" not in rows.column_names


def test_a_bundle_that_was_sent_along_is_found_by_its_name(worker: Worker) -> None:
    shutil.copytree(BUNDLE, worker.files / "numerals")
    answer = spark.mapper("numerals")
    assert sum(batch.num_rows for batch in answer(batches(ROWS))) == 9
    with pytest.raises(BundleError, match="elsewhere: no such bundle on") as error:
        list(spark.mapper("elsewhere")(batches(ROWS)))
    assert 'spark.addArchive("minilm.tar.gz#minilm")' in error.value.hint


def test_another_bundle_than_the_drivers_is_refused(worker: Worker) -> None:
    here = worker.files / "numerals"
    shutil.copytree(BUNDLE, here)
    answer = spark.mapper(here)
    file = here / "bundle.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(BundleError, match="another bundle than the driver's"):
        list(answer(batches(ROWS)))


def test_the_schema_is_that_of_the_rows_in_types_of_spark(worker: Worker) -> None:
    own = [StructField(name, f"own {name}", False) for name in ROWS.column_names]
    df = SimpleNamespace(schema=SimpleNamespace(arrow=ROWS.schema, fields=own))
    fields = spark.schema(df, BUNDLE, keep="id")
    rows = pa.Table.from_batches(spark.mapper(BUNDLE, keep="id")(batches(ROWS)))
    assert fields[0] is own[0]
    described = {field.name: (field.kind, field.nullable) for field in fields[1:]}
    assert described == {field.name: (str(field.type), True) for field in rows.schema
                         if field.name != "id"}  # fmt: skip
    with pytest.raises(SettingsError, match="beam"):
        spark.schema(df, BUNDLE, beams=3)


def test_results_have_types_that_spark_reads() -> None:
    halves = pa.array([[0.5, 1], None], pa.list_(pa.float16(), 2))
    structs = pa.array([[{"n": 1, "t": "a"}], []], pa.large_list(pa.struct(
        [("n", pa.uint32()), ("t", pa.large_string())])))  # fmt: skip
    table = pa.table({"halves": halves, "structs": structs, "id": [1, 2]})
    cast = spark._in_types_of_spark(table)
    assert [str(field.type) for field in cast.schema] == [
        "list<item: float>", "list<item: struct<n: int64, t: string>>", "int64",
    ]  # fmt: skip
    assert cast.to_pylist() == table.to_pylist()
    assert spark._in_types_of_spark(cast) is cast


@given(
    st.lists(st.lists(st.text(max_size=30), max_size=40), max_size=8),
    st.integers(1, 50),
    st.integers(1, 2000),
)
def test_rows_are_joined_and_cut_within_both_bounds(
    given_batches: list[list[str]], rows: int, size: int
) -> None:
    given = [pa.record_batch({"text": pa.array(texts, pa.string())}) for texts in given_batches]
    tables = list(spark.rebatched(iter(given), rows, size))
    texts = [text for table in tables for text in table.column("text").to_pylist()]
    assert texts == [text for batch in given_batches for text in batch]
    assert all(0 < len(table) <= rows for table in tables)
    for table in tables[:-1]:
        assert len(table) == rows or table.nbytes >= size // 4 or len(table) == 1


def test_small_batches_of_spark_are_answered_together(worker: Worker) -> None:
    table = pa.table({"text": ["uno"] * 5000})
    sizes = [len(t) for t in spark.rebatched(batches(table, 100), spark.ROWS, spark.BYTES)]
    assert sizes == [4096, 904]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_rows": 100}, "batch_rows is 100"),
        ({"batch_bytes": 0}, "batch_bytes is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"on_error": "skip"}, "on_error is 'skip'"),
    ],
)
def test_a_malformed_setting_is_refused_by_the_driver(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        spark.mapper(BUNDLE, **arguments)


def test_without_pyspark_the_hint_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(MissingDependency, match="PySpark") as error:
        list(spark.mapper(BUNDLE)(batches(ROWS)))
    assert error.value.hint == 'pip install "corpus-engine[cpu,spark]"'
