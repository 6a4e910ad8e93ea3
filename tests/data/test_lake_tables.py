"""Delta and Iceberg: the files that the table lists are read, and no others.

The libraries are fakes here that read logs written by hand; `tests/readers/check_tables.py` does
the same with the real ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import data
from engine.core.types import Column
from engine.data import iceberg_tables
from engine.errors import InputError, MissingDependency

TEXT = (Column("text"),)


def write_rows(path: Path, rows: Mapping[str, Sequence[Any]], ids: Sequence[int] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(rows))
    fields = [
        field.with_metadata({"PARQUET:field_id": str(ids[i])}) if ids else field
        for i, field in enumerate(table.schema)
    ]
    pq.write_table(table.cast(pa.schema(fields)), path)
    return path


def read(inputs: Sequence[str | Path]) -> list[dict[str, Any]]:
    files = data.find_files(inputs)
    settled = data.settle(files, TEXT, ("all",))
    return [
        row
        for split in data.split_files(files, 1 << 30)
        for rows in data.read(split, settled, window=100)
        if rows.kept is not None
        for row in rows.kept.to_pylist()
    ]


# Delta


class FakeDeltaTable:
    """What the engine asks of `deltalake.DeltaTable`."""

    def __init__(self, folder: str) -> None:
        self._adds: dict[str, dict[str, Any]] = {}
        self._metadata: dict[str, Any] = {}
        for log in sorted(Path(folder, "_delta_log").glob("*.json")):
            for action in map(json.loads, log.read_text().splitlines()):
                self._metadata = action.get("metaData", self._metadata)
                if "add" in action:
                    self._adds[action["add"]["path"]] = action["add"]
                if "remove" in action:
                    del self._adds[action["remove"]["path"]]

    def metadata(self) -> Any:
        return SimpleNamespace(configuration=self._metadata.get("configuration", {}))

    def deletion_vectors(self) -> pa.Table:
        with_vector = [path for path, add in self._adds.items() if "deletionVector" in add]
        return pa.table({"filepath": pa.array(with_vector, pa.string())})

    def get_add_actions(self, flatten: bool) -> pa.Table:
        assert not flatten
        columns: dict[str, Any] = {"path": [quote(path, safe="/=:") for path in self._adds]}
        values = [add.get("partitionValues") for add in self._adds.values()]
        if any(values):
            kind = pa.struct([("year", pa.int32()), ("k", pa.string_view())])
            columns["partition"] = pa.array(values, kind)
        return pa.table(columns)


@pytest.fixture
def deltalake(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("deltalake")
    module.DeltaTable = FakeDeltaTable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deltalake", module)


def commit(folder: Path, version: int, *actions: dict[str, Any]) -> None:
    log = folder / "_delta_log" / f"{version:020}.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(map(json.dumps, actions)))


def delta_table(folder: Path) -> Path:
    """Three rows, of which the second version has replaced the first file."""
    write_rows(folder / "a.parquet", {"text": ["old", "kept"], "id": [1, 2]})
    write_rows(folder / "b.parquet", {"text": ["kept"], "id": [2]})
    write_rows(folder / "c d.parquet", {"text": ["new"], "id": [3]})
    write_rows(folder / "never.parquet", {"text": ["not committed"], "id": [4]})
    commit(folder, 0, {"metaData": {}}, {"add": {"path": "a.parquet"}})
    commit(folder, 1, {"remove": {"path": "a.parquet"}}, {"add": {"path": "b.parquet"}})
    commit(folder, 2, {"add": {"path": "c d.parquet"}})
    return folder


@pytest.mark.usefixtures("deltalake")
def test_a_delta_table_is_the_files_of_its_latest_version(tmp_path: Path) -> None:
    table = delta_table(tmp_path / "table")
    expected = [{"text": "kept", "id": 2}, {"text": "new", "id": 3}]
    for spelled in (table, tmp_path, tmp_path / "*", f"{tmp_path}/**"):
        assert read([spelled]) == expected
        assert data.discover([spelled]).unread["files that a table does not list"] == 2
    assert [file.name for file in data.find_files([table])] == ["b.parquet", "c d.parquet"]


@pytest.mark.usefixtures("deltalake")
def test_partition_columns_come_from_the_log_in_their_types(tmp_path: Path) -> None:
    folders = {"year=2024/k=x%2Fy": (2024, "x/y"), "year=__HIVE__/k=z": (None, "z")}
    for version, (folder, (year, k)) in enumerate(folders.items()):
        write_rows(tmp_path / folder / "a.parquet", {"text": [f"w{version}"] * 2})
        values = {"year": year, "k": k}
        commit(
            tmp_path,
            version,
            {"add": {"path": f"{folder}/a.parquet", "partitionValues": values}},
        )
    assert read([tmp_path]) == [
        *[{"text": "w0", "year": 2024, "k": "x/y"}] * 2,
        *[{"text": "w1", "year": None, "k": "z"}] * 2,
    ]
    files = data.find_files([tmp_path])
    columns = data.settle(files, [Column("k")], ("year",))
    (split, _) = data.split_files(files, 1 << 30)
    (rows,) = data.read(split, columns, window=100)
    assert rows.texts[0].to_pylist() == ["x/y", "x/y"]
    assert columns.kept == pa.schema([("year", pa.int32())])


@pytest.mark.usefixtures("deltalake")
@pytest.mark.parametrize("part", ["*.parquet", "b.parquet", "sub", "_delta_log/*.json"])
def test_a_part_of_a_table_is_refused_with_the_folder_to_name(tmp_path: Path, part: str) -> None:
    table = delta_table(tmp_path / "table")
    write_rows(table / "sub" / "x.parquet", {"text": ["w1"], "id": [1]})
    with pytest.raises(InputError, match="lies in a table of Delta") as caught:
        data.find_files([table / part])
    assert caught.value.hint == f"name the folder of the table: {table}"
    assert data.find_files([table])


@pytest.mark.usefixtures("deltalake")
@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"add": {"path": "b.parquet", "deletionVector": {}}}, "with deletion vectors"),
        (
            {"metaData": {"configuration": {"delta.columnMapping.mode": "name"}}},
            "columns are mapped by name",
        ),
        ({"add": {"path": "s3://bucket/x.parquet"}}, "files outside of its folder"),
        ({"add": {"path": "gone.parquet"}}, "gone.parquet is missing, which the table lists"),
        ({"remove": {"path": "unknown"}}, "cannot be read as a Delta table"),
    ],
)
def test_a_table_whose_files_are_not_its_rows_is_refused(
    tmp_path: Path, action: dict[str, Any], says: str
) -> None:
    table = delta_table(tmp_path / "table")
    commit(table, 3, action)
    with pytest.raises(InputError) as caught:
        data.find_files([table])
    assert str(table) in caught.value.message
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("package", "log"),
    [("deltalake", "_delta_log/0.json"), ("pyiceberg.table", "metadata/v1.metadata.json")],
)
def test_without_the_library_a_table_is_refused_and_not_read_as_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, log: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write_rows(tmp_path / "table/a.parquet", {"text": ["w1"]})
    (tmp_path / "table" / log).parent.mkdir()
    (tmp_path / "table" / log).write_text("{}")
    for spelled in (tmp_path, tmp_path / "table", tmp_path / "*"):
        with pytest.raises(MissingDependency, match="table") as caught:
            data.find_files([spelled])
        assert caught.value.hint == 'pip install "corpus-engine[tables]"'


# Iceberg


class FakeStaticTable:
    """What the engine asks of `pyiceberg.table.StaticTable`, from metadata that lists the files."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self._metadata = metadata

    @classmethod
    def from_metadata(cls, path: str) -> FakeStaticTable:
        return cls(json.loads(Path(path).read_text()))

    def schema(self) -> Any:
        fields = [
            SimpleNamespace(field_id=i, name=name, field_type="string", initial_default=default)
            for i, name, default in self._metadata["fields"]
        ]
        return SimpleNamespace(fields=fields)

    def spec(self) -> Any:
        by = self._metadata.get("by", [])
        return SimpleNamespace(
            fields=[SimpleNamespace(source_id=i, transform="identity") for i in by]
        )

    def scan(self) -> Any:
        return SimpleNamespace(plan_files=lambda: map(self._task, self._metadata["files"]))

    def _task(self, path: str) -> Any:
        kind = "ORC" if path.endswith(".orc") else "PARQUET"
        return SimpleNamespace(
            file=SimpleNamespace(file_path=path, file_format=kind),
            delete_files=self._metadata.get("deletes", []),
        )


@pytest.fixture
def pyiceberg(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pyiceberg.table")
    module.StaticTable = FakeStaticTable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiceberg", ModuleType("pyiceberg"))
    monkeypatch.setitem(sys.modules, "pyiceberg.table", module)


FIELDS = [[1, "text", None], [2, "id", None]]


def iceberg_table(folder: Path, version: str = "00001-ab12", **metadata: Any) -> Path:
    rows: dict[str, list[Any]] = {"text": ["w1"], "id": [1]}
    write_rows(folder / "data/a.parquet", rows, [1, 2])
    write_rows(folder / "data/old.parquet", rows, [1, 2])
    files = {"fields": FIELDS, "files": [(folder / "data/a.parquet").as_uri()]} | metadata
    (folder / "metadata").mkdir(exist_ok=True)
    (folder / "metadata" / f"{version}.metadata.json").write_text(json.dumps(files))
    return folder


@pytest.mark.usefixtures("pyiceberg")
def test_an_iceberg_table_is_the_files_of_its_current_snapshot(tmp_path: Path) -> None:
    table = iceberg_table(tmp_path / "my table", "00000-cd", files=[])
    iceberg_table(table)
    for spelled in (table, tmp_path, tmp_path / "*"):
        assert read([spelled]) == [{"text": "w1", "id": 1}]
        assert data.discover([spelled]).unread["files that a table does not list"] == 1
    (tmp_path / "links").mkdir()
    (tmp_path / "links/table").symlink_to(table)
    assert read([tmp_path / "links/table"]) == [{"text": "w1", "id": 1}]
    with pytest.raises(InputError, match="lies in a table of Iceberg"):
        data.find_files([table / "data"])


@pytest.mark.parametrize(
    ("names", "hint", "current"),
    [
        (["00001-a", "00010-b", "00009-c"], "", "00010-b"),
        (["v1", "v2", "v10"], "", "v10"),
        (["v1", "v2", "v10"], "2", "v2"),
        (["v1", "v2"], "7", "v2"),
    ],
)
def test_the_current_version_is_the_hints_or_the_last(
    tmp_path: Path, names: list[str], hint: str, current: str
) -> None:
    for name in names:
        iceberg_table(tmp_path, name)
    (tmp_path / "metadata/version-hint.text").write_text(hint)
    assert iceberg_tables.current_metadata(tmp_path).name == f"{current}.metadata.json"


@pytest.mark.usefixtures("pyiceberg")
@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"deletes": ["d.parquet"]}, "deletes that its data files have not"),
        ({"fields": [[1, "body", None], [2, "id", None]]}, "column 'text' was renamed or dropped"),
        ({"fields": [[2, "id", None]]}, "column 'text' was renamed or dropped"),
        ({"fields": [*FIELDS, [3, "new", "x"]]}, "column 'new' has values that are not in a.parq"),
        ({"fields": [*FIELDS, [3, "day", None]], "by": [3]}, "'day' has values that are not in"),
        ({"files": ["s3://bucket/a.parquet"]}, "files outside of its folder"),
        ({"files": ["/elsewhere/a.parquet"]}, "files outside of its folder"),
    ],
)
def test_an_iceberg_table_whose_files_are_not_its_rows_is_refused(
    tmp_path: Path, metadata: dict[str, Any], says: str
) -> None:
    table = iceberg_table(tmp_path / "table", **metadata)
    with pytest.raises(InputError) as caught:
        data.find_files([table])
    assert str(table) in caught.value.message
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.usefixtures("pyiceberg")
def test_columns_that_came_later_are_null_in_older_files(tmp_path: Path) -> None:
    iceberg_table(tmp_path, fields=[*FIELDS, [3, "later", None]])
    assert read([tmp_path]) == [{"text": "w1", "id": 1}]


@pytest.mark.usefixtures("pyiceberg")
def test_the_folders_of_a_table_are_no_columns(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data/text_bucket=3/b.parquet", {"text": ["w2"]}, [1])
    iceberg_table(tmp_path, files=[str(path)])
    assert read([tmp_path]) == [{"text": "w2"}]


@pytest.mark.usefixtures("pyiceberg")
def test_files_without_numbers_and_two_current_versions_are_refused(tmp_path: Path) -> None:
    table = iceberg_table(tmp_path)
    write_rows(table / "data/a.parquet", {"text": ["w1"]})
    with pytest.raises(InputError, match="do not number their columns"):
        data.find_files([table])
    iceberg_table(tmp_path, "00001-other")
    with pytest.raises(InputError, match="2 metadata files of version 1"):
        data.find_files([table])


@pytest.mark.usefixtures("pyiceberg")
def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    table = iceberg_table(tmp_path, files=[str(tmp_path / "data/a.orc")])
    with pytest.raises(InputError, match="ORC or Avro"):
        data.find_files([table])
