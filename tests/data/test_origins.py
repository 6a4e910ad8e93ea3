"""Where a row came from: its file, its number and the keys in its folders' names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from engine import data
from engine.core.types import Column
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import ColumnError
from engine.runner import results
from engine.runner.coordinator import run
from engine.runner.verify import verify

TEXT = [Column("text")]


def _write(file: Path, first: int = 1, rows: int = 3, **more: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [spanish(first + n) for n in range(rows)]
    columns = {"text": texts, **{name: [value] * rows for name, value in more.items()}}
    if file.suffix == ".parquet":
        pq.write_table(pa.table(columns), file)
    else:
        lines = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _kept(folder: Path, keep: Sequence[str], **given: pa.DataType) -> pa.Table:
    files = data.find_files([folder])
    columns = data.settle(files, TEXT, keep, given)
    windows = [
        rows.kept
        for split in data.split_files(files, 1 << 30)
        for rows in data.read(split, columns, window=2)
    ]
    return pa.Table.from_batches(windows, schema=columns.kept)


def test_keys_of_folders_are_columns_as_pyarrow_reads_them(tmp_path: Path) -> None:
    for year in (2023, 2024):
        for place in ("new york", "a=b", "é/ü"):
            folder = tmp_path / f"year={year}" / f"place={place.replace('/', '%2F')}"
            _write(folder / "a.parquet", year - 2000)
    table = _kept(tmp_path, ["all"])
    assert table.schema == pa.schema(
        {"text": pa.string(), "year": pa.int64(), "place": pa.string()}
    )
    theirs = ds.dataset(
        tmp_path,
        partitioning=ds.partitioning(
            pa.schema({"year": pa.int64(), "place": pa.string()}), flavor="hive"
        ),
    ).to_table()
    order = [("year", "ascending"), ("place", "ascending"), ("text", "ascending")]
    assert table.sort_by(order).equals(theirs.sort_by(order))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "2"], [1, 2]),
        (["-1", "0"], [-1, 0]),
        (["01", "02"], ["01", "02"]),
        (["1", "x"], ["1", "x"]),
        (["1", "__HIVE_DEFAULT_PARTITION__"], [1, None]),
        (["a", "__HIVE_DEFAULT_PARTITION__"], ["a", None]),
        (["1.5", "2"], ["1.5", "2"]),
        (["9" * 18, "1"], [int("9" * 18), 1]),
        (["9" * 19, "1"], ["9" * 19, "1"]),
        (["2024-01-01", "2024-01-02"], ["2024-01-01", "2024-01-02"]),
        (["", "a"], ["", "a"]),
        (["%20", "b%3Dc"], [" ", "b=c"]),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_key_is_a_number_where_none_of_its_values_loses_a_digit(
    tmp_path: Path, values: list[str], wanted: list[object], ending: str
) -> None:
    for value in values:
        _write(tmp_path / f"k={value}" / f"a.{ending}", rows=1)
    table = _kept(tmp_path, ["k"])
    assert sorted(table["k"].to_pylist(), key=str) == sorted(wanted, key=str)


def test_file_and_row_say_where_a_row_came_from(tmp_path: Path) -> None:
    _write(tmp_path / "x/a.jsonl", 1)
    (tmp_path / "b.jsonl").write_text('{"text": "uno"}\n\n5\n{"text": "dos"}\n')
    table = _kept(tmp_path, ["_row", "_file"])
    assert table.to_pylist() == [
        {"_row": 0, "_file": "b.jsonl"},
        {"_row": 3, "_file": "b.jsonl"},
        *({"_row": n, "_file": "x/a.jsonl"} for n in range(3)),
    ]
    assert table.schema.types == [pa.int64(), pa.string()]


def test_rows_of_split_files_count_within_the_file(tmp_path: Path) -> None:
    _write(tmp_path / "a.jsonl", 1, rows=40)
    files = data.find_files([tmp_path])
    columns = data.settle(files, TEXT, ["_row", "text"])
    splits = list(data.split_files(files, 300))
    assert len(splits) > 2
    kept = [r.kept for s in splits for r in data.read(s, columns, window=7)]
    table = pa.Table.from_batches(kept)
    assert table["_row"].to_pylist() == list(range(40))
    assert table["text"].to_pylist() == [spanish(1 + n) for n in range(40)]


def test_all_takes_keys_and_only_named_origins(tmp_path: Path) -> None:
    _write(tmp_path / "k=1/a.parquet", id=7)
    assert _kept(tmp_path, ["all"]).schema.names == ["text", "id", "k"]
    assert _kept(tmp_path, ["all", "_file"]).schema.names == ["text", "id", "k", "_file"]
    assert _kept(tmp_path, []).num_columns == 0


def test_a_column_of_the_files_comes_before(tmp_path: Path) -> None:
    for value in (1, 2):
        _write(tmp_path / f"k={value}/a.parquet", k=f"own{value}", _file="mine")
    table = _kept(tmp_path, ["k", "_file", "_row"])
    assert table["k"].to_pylist() == ["own1"] * 3 + ["own2"] * 3
    assert set(table["_file"].to_pylist()) == {"mine"}
    assert _kept(tmp_path, ["all"]).schema.names == ["text", "k", "_file"]


def test_a_key_that_some_files_have_themselves_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "k=1/a.parquet", k="own")
    _write(tmp_path / "k=2/b.parquet")
    with pytest.raises(ColumnError, match=r"k=1/a\.parquet: has a column 'k'.*k=2/b\.parquet"):
        _kept(tmp_path, ["k"])
    assert _kept(tmp_path, ["text"]).num_rows == 6


def test_a_file_without_the_key_has_null(tmp_path: Path) -> None:
    _write(tmp_path / "k=1/a.parquet", rows=1)
    _write(tmp_path / "b.parquet", rows=1)
    assert sorted(_kept(tmp_path, ["k"])["k"].to_pylist(), key=str) == [1, None]


def test_a_key_takes_the_type_that_is_given(tmp_path: Path) -> None:
    for value in ("1", "2"):
        _write(tmp_path / f"k={value}/a.parquet", rows=1)
    assert _kept(tmp_path, ["k"], k=pa.string())["k"].to_pylist() == ["1", "2"]
    assert _kept(tmp_path, ["k"], k=pa.int8()).schema.types == [pa.int8()]
    with pytest.raises(ColumnError, match="'k' in the name of its folder is no date32"):
        _kept(tmp_path, ["k"], k=pa.date32())


@pytest.mark.parametrize("keep", [["y", "_row"], ["all", "_row"]])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_types_are_given_for_keys_and_origins_of_every_kind_of_file(
    keep: list[str], ending: str, tmp_path: Path
) -> None:
    _write(tmp_path / f"y=1/a.{ending}", rows=2)
    table = _kept(tmp_path, keep, y=pa.string(), _row=pa.string())
    assert table.select(["y", "_row"]).to_pylist() == [
        {"y": "1", "_row": "0"},
        {"y": "1", "_row": "1"},
    ]


def test_folders_above_the_input_are_no_keys(tmp_path: Path) -> None:
    _write(tmp_path / "k=1/a.parquet")
    with pytest.raises(ColumnError, match="no column 'k'"):
        _kept(tmp_path / "k=1", ["k"])


def _answers(out: Path) -> list[dict[str, Any]]:
    return list(results.open(out).to_table().to_pylist())


def test_a_renamed_file_is_answered_again_where_its_name_is_kept(tmp_path: Path) -> None:
    corpus, out, fresh = (tmp_path / name for name in ("corpus", "out", "fresh"))
    for name in "ab":
        _write(corpus / f"{name}.parquet", ord(name))
    run(BUNDLE, corpus, out, keep=["_file", "_row"])
    (corpus / "b.parquet").rename(corpus / "c.parquet")
    report = run(BUNDLE, corpus, out, keep=["_file", "_row"])
    assert (report.splits_skipped, report.rows_computed) == (1, 3)
    run(BUNDLE, corpus, fresh, keep=["_file", "_row"])
    assert _answers(out) == _answers(fresh)
    assert [row["_file"] for row in _answers(out)] == ["a.parquet"] * 3 + ["c.parquet"] * 3
    assert verify(out).problems == ()


def test_a_file_in_another_partition_is_answered_again_where_the_key_is_kept(
    tmp_path: Path,
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    _write(corpus / "k=1/a.parquet")
    _write(corpus / "k=2/b.parquet", 20)
    run(BUNDLE, corpus, out, keep="all")
    (corpus / "k=3").mkdir()
    (corpus / "k=2/b.parquet").rename(corpus / "k=3/b.parquet")
    assert run(BUNDLE, corpus, out, keep="all").rows_computed == 3
    assert [row["k"] for row in _answers(out)] == [1] * 3 + [3] * 3
    moved = tmp_path / "moved"
    corpus.rename(moved)
    assert run(BUNDLE, moved, out, keep="all").rows_computed == 0


def test_a_prefix_resolves_a_clash_of_names(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    _write(corpus / "a.jsonl", translation_text="theirs")
    with pytest.raises(ColumnError, match="'translation_text' is also the name") as caught:
        run(BUNDLE, corpus, out, keep="all")
    assert "--result-prefix predicted_" in str(caught.value)
    run(BUNDLE, corpus, out, keep="all", result_prefix="predicted_")
    table = results.open(out).to_table()
    assert table.schema.names == [
        "text", "translation_text", "predicted_translation_text", "predicted_output_tokens",
        "predicted_finish_reason",
    ]  # fmt: skip
    assert set(table["translation_text"].to_pylist()) == {"theirs"}
    assert verify(out).problems == ()
    plain = tmp_path / "plain"
    run(BUNDLE, corpus, plain)
    assert (
        table["predicted_translation_text"].to_pylist()
        == results.open(plain).to_table()["translation_text"].to_pylist()
    )
