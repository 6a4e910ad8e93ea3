"""Columns as Polars, pandas and Arrow's own encodings lay them out: every value is the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fakes import corpus_files, write_arrow

from engine import data
from engine.core.types import Column, Rows
from engine.data.plain_types import Decoder, plain_type
from engine.errors import InputError

VIEW, CATEGORY = pa.string_view(), pa.dictionary(pa.uint32(), pa.string())
MESSAGE = pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("content", VIEW)])
LISTS = [["a", "b"], None, ["c", None], [], ["é" * 20]]
CHATS = [[{"role": "user", "content": "w1 w2"}], [{"role": "user", "content": "x" * 30}] * 2]


def runs(values: pa.Array) -> pa.Array:
    """Each value twice, run-end encoded."""
    ends = pa.array(range(2, 2 * len(values) + 1, 2), pa.int32())
    return pa.RunEndEncodedArray.from_arrays(ends, values)


def category_of_views() -> pa.Array:
    """As Polars writes a categorical."""
    words = pa.array(["x", "a longer one than twelve"], VIEW)
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0], pa.uint32()), words)


ARRAYS = {
    "views": pa.array(["a", None, "b" * 30, ""], VIEW),
    "bytes": pa.array([b"a", None, b"b" * 30], pa.binary_view()),
    "category": category_of_views(),
    "runs": runs(pa.array(["a", None, "b"])),
    "runs of views": runs(pa.array(["a", None, "b"], VIEW)),
    "runs of categories": runs(pa.array(["a", None, "b"]).dictionary_encode()),
    "runs of numbers": runs(pa.array([1, None, 3])),
    "runs of lists": runs(pa.array(LISTS, pa.list_(VIEW))),
    "list of views": pa.array(LISTS, pa.list_(VIEW)),
    "large list of views": pa.array(LISTS, pa.large_list(VIEW)),
    "list of categories": pa.array(LISTS, pa.list_(CATEGORY)),
    "list of runs": pa.ListArray.from_arrays([0, 2, 2, 6], runs(pa.array(["a", None, "b"]))),
    "list view": pa.array(LISTS, pa.list_view(pa.string())),
    "large list view": pa.array(LISTS, pa.large_list_view(VIEW)),
    "list view, out of order": pa.ListViewArray.from_arrays(
        [2, 0, 1], [1, 3, 0], pa.array(["a", "b", "c"], VIEW)
    ),
    "pairs": pa.array([["a", "b"], None, ["c", None]], pa.list_(VIEW, 2)),
    "map": pa.array([[("k", "v")], None, [("a", None), ("b", "x")]], pa.map_(pa.string(), VIEW)),
    "struct": pa.array([{"a": "x", "b": [1]}, None, {"a": None, "b": []}],
                       pa.struct([("a", VIEW), ("b", pa.large_list(pa.int64()))])),
    "chat": pa.array([*CHATS, None, []], pa.large_list(MESSAGE)),
    "json": pa.array(['{"a": 1}', None, "2"], pa.json_(pa.string())),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_a_plain_column_has_the_values_of_any_slice(name: str) -> None:
    array, drawn, decoder = ARRAYS[name], random.Random(0), Decoder()
    for _ in range(8):
        start, length = drawn.randrange(len(array) + 1), drawn.randrange(len(array) + 1)
        part = array.slice(start, length)
        plain = decoder.plain(part)
        plain.validate(full=True)
        assert plain.type == plain_type(array.type)
        assert plain_type(plain.type) == plain.type
        assert plain.to_pylist() == part.to_pylist()
        assert plain.filter(pa.repeat(True, len(plain))).to_pylist() == part.to_pylist()


def read(path: Path, inputs: list[Column], keep: tuple[str, ...] = ()) -> list[Rows]:
    files = corpus_files([path])
    settled = data.settle(files, inputs, keep)
    return [r for split in data.split_files(files, 1 << 30)
            for r in data.read(split, settled, window=1000)]  # fmt: skip


def kept(rows: list[Rows]) -> pa.Table:
    return pa.Table.from_batches([r.kept for r in rows])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ARRAYS)
def test_every_encoding_is_kept_with_its_values_and_can_be_written(
    tmp_path: Path, name: str, stream: bool
) -> None:
    array = ARRAYS[name]
    table = pa.table({"text": ["w1"] * len(array), "other": array})
    table = pa.concat_tables([table] * 300) if stream else table
    rows = read(write_arrow(tmp_path / "x.arrow", table, stream=stream), [Column("text")], ("all",))
    assert kept(rows)["other"].to_pylist() == table["other"].to_pylist()
    pq.write_table(kept(rows), tmp_path / "part.parquet")
    assert pq.read_table(tmp_path / "part.parquet").num_rows == len(table)


@pytest.mark.parametrize("name", ["list of views", "large list of views", "struct", "map"])
def test_parquet_with_views_within_is_kept_with_its_values(tmp_path: Path, name: str) -> None:
    array = ARRAYS[name]
    path = tmp_path / "x.parquet"
    table = pa.table({"text": ["w1"] * len(array), "other": array})
    pq.write_table(table, path)
    assert kept(read(path, [Column("text")], ("other",)))["other"].to_pylist() == array.to_pylist()


@pytest.mark.parametrize(
    ("column", "array", "expected"),
    [
        (Column("text"), category_of_views(), ["x", "a longer one than twelve", "x"]),
        (Column("text"), runs(pa.array(["w1", None], VIEW)), ["w1", "w1"]),
        (Column("text", "texts"), pa.array([["w1", "w2"], None], pa.list_(VIEW)), [["w1", "w2"]]),
        (Column("text", "texts"), pa.array([["w1"], []], pa.list_view(CATEGORY)), [["w1"], []]),
        (Column("text", "either"), pa.array([["w1", "w2"]], pa.list_(VIEW, 2)), [["w1", "w2"]]),
        (Column("text", "chat"), pa.array(CHATS, pa.large_list(MESSAGE)), CHATS),
        (Column("text", "chat"), pa.array([CHATS[1]], pa.list_view(MESSAGE)), CHATS[1:]),
        (Column("text", "key"), pa.array([3, 4]).dictionary_encode(), [3, 4]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_text_may_have_any_encoding_at_any_depth(
    tmp_path: Path, column: Column, array: pa.Array, expected: list[Any]
) -> None:
    rows = read(write_arrow(tmp_path / "x.arrow", pa.table({"text": array})), [column])
    assert [value for r in rows for value in r.texts[0].to_pylist()] == expected
    assert sum(len(r.rejects.rows) for r in rows) == len(array) - len(expected)


@pytest.mark.parametrize("wrap", ["list", "large_list", "struct", "map", "pairs"])
def test_invalid_utf8_within_a_kept_column_is_a_bad_row(tmp_path: Path, wrap: str) -> None:
    texts = pa.array([b"a", b"b", b"\xff", b"d"]).view(pa.string())
    pairs = pa.FixedSizeListArray.from_arrays(texts, 2)
    array = {
        "list": lambda: pa.ListArray.from_arrays([0, 2, 4], texts),
        "large_list": lambda: pa.LargeListArray.from_arrays([0, 2, 4], texts),
        "struct": lambda: pa.StructArray.from_arrays([pairs], ["a"]),
        "map": lambda: pa.MapArray.from_arrays([0, 2, 4], pa.array(list("wxyz")), texts),
        "pairs": lambda: pairs,
    }[wrap]()
    path = write_arrow(tmp_path / "x.arrow", pa.table({"text": ["w1", "w2"], "other": array}))
    (rows,) = read(path, [Column("text")], ("other",))
    assert rows.texts[0].to_pylist() == ["w1"]
    assert (rows.rejects.rows.tolist(), rows.rejects.codes) == ([1], ("invalid_utf8",))


def _damaged() -> dict[str, pa.Array]:
    """Columns whose offsets, indices or run ends are beyond their values."""
    texts = pa.array(["a", "b", "c"], VIEW)
    offsets = pa.py_buffer(np.array([0, 10**6, 3], np.int32).tobytes())
    sizes = pa.py_buffer(np.array([1, 10**6], np.int32).tobytes())
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 99]), texts, safe=False)
    numbers = np.array([1, 2, 3], np.int32)
    ends = pa.Array.from_buffers(pa.int32(), 3, [None, pa.py_buffer(numbers)])
    jumping = pa.RunEndEncodedArray.from_arrays(ends, pa.array(["a", "b", "c"]))
    numbers[1] = 9
    return {
        "list": pa.Array.from_buffers(pa.list_(VIEW), 2, [None, offsets], children=[texts]),
        "list view": pa.Array.from_buffers(
            pa.list_view(VIEW), 2, [None, offsets, sizes], children=[texts]
        ),
        "category": beyond,
        "category in a list": pa.ListArray.from_arrays([0, 1, 2], beyond),
        "runs": jumping,
    }


@pytest.mark.parametrize("name", _damaged())
def test_damaged_encodings_are_refused_and_read_no_other_memory(name: str) -> None:
    with pytest.raises(pa.ArrowInvalid):
        Decoder().plain(_damaged()[name])


def test_a_type_that_pyarrow_does_not_have_is_not_called_damage(tmp_path: Path) -> None:
    table = pa.table({"text": ["w1"], "wide": pa.array([1], pa.uint64())})
    path = write_arrow(tmp_path / "x.arrow", table)
    path.write_bytes(path.read_bytes().replace(b"\x40\x00\x00\x00", b"\x80\x00\x00\x00"))
    with pytest.raises(InputError) as caught:
        read(path, [Column("text")])
    assert "without columns of that type" in caught.value.hint
