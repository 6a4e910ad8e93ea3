"""A table in memory gets the answers of a run over the same rows, and the same rejects."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import FakeBackend, make_bundle, open_bundle, texts, write_arrow

from engine import data, pipeline
from engine.answering.answered import REJECTS
from engine.bundle import format as bundle_format
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import ColumnError, InputError, RowError, SettingsError
from engine.pipeline import Bundle
from engine.runner import coordinator, results

BAD = (3, 511, 512, 699)
ROWS = 700
OPTIONS: dict[str, dict[str, Any]] = {
    "zero-shot-classification": {"candidate_labels": ("a", "b", "c")},
}
TASKS = (
    "feature-extraction", "text-classification", "translation", "text-generation",
    "zero-shot-classification", "rerank", "fill-mask",
)  # fmt: skip


def opened(folder: Path, task: str) -> Bundle:
    backend = FakeBackend(causal=True) if task == "text-generation" else None
    return open_bundle(make_bundle(folder / "bundle", task), backend)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return opened(tmp_path_factory.mktemp("b"), "text-classification")


def rows(seed: int, bad: tuple[int, ...] = BAD) -> list[str | None]:
    values: list[str | None] = [*texts(ROWS, seed=seed)]
    for row in bad:
        values[row] = None
    return values


@pytest.fixture(scope="module")
def table() -> pa.Table:
    tags = pa.array(rows(1)).dictionary_encode()
    return pa.table({"id": range(ROWS), "text": rows(5), "tag": tags})


def run(
    bundle: Bundle, table: pa.Table, folder: Path, **settings: Any
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The answers and the rejects of a run over the same rows."""
    path = write_arrow(folder / "rows.arrow", table)
    settings = {"on_error": "reject", **settings}
    report = coordinator.run(bundle, [path], folder / "out", **settings)
    rejects = results.rejects(folder / "out")
    return report.table(), [{n: row.get(n) for n in REJECTS.names} for row in rejects]


@pytest.mark.parametrize("task", TASKS)
def test_answers_and_rejects_are_those_of_a_run(task: str, tmp_path: Path) -> None:
    bundle = opened(tmp_path, task)
    columns = {column.name: rows(n) for n, column in enumerate(bundle.task.inputs) if column.needed}
    table = pa.table({"id": range(ROWS), **columns})
    options = OPTIONS.get(task, {})
    wanted, rejects = run(bundle, table, tmp_path, keep="id,_row", **options)
    answered = bundle.answer(table, keep="id,_row", **options)
    assert answered.table.equals(wanted)
    assert answered.rejects.to_pylist() == rejects
    assert answered.rejects.schema == REJECTS
    good = table.filter(table[bundle.task.required[0]].is_valid()).select(list(columns))
    items = [tuple(row.values()) for row in good.to_pylist()]
    called = bundle([item[0] for item in items] if len(columns) == 1 else items, **options)
    assert called.equals(wanted.select(called.column_names))


def test_bad_rows_are_told_apart(tmp_path: Path, bundle: Bundle) -> None:
    invalid = pa.array([b"a", b"\xff\xfe", None, b"b"]).view(pa.string())
    answered = bundle.answer(pa.table({"text": invalid}), keep="_row")
    assert answered.table["_row"].to_pylist() == [0, 3]
    assert answered.rejects.to_pylist() == [
        {"row": 1, "column": "text", "code": "invalid_utf8",
         "message": data.REASONS["invalid_utf8"]},
        {"row": 2, "column": "text", "code": "null_text", "message": data.REASONS["null_text"]},
    ]  # fmt: skip


def test_chats_that_cannot_be_answered_are_rejected(tmp_path: Path) -> None:
    bundle = opened(tmp_path, "text-generation")
    chats: list[Any] = [[{"role": "user", "content": "w1"}], [], None]
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    settings = {"chat": True, "chat_template": "{{ messages[0]['content'] }}"}
    answered = bundle.answer(pa.table({"text": pa.array(chats, kind)}), **settings)
    assert answered.table.num_rows == 1
    assert answered.rejects["row"].to_pylist() == [1, 2]
    assert answered.rejects["code"].to_pylist() == ["bad_chat", "null_text"]


@settings(deadline=None, max_examples=25)
@given(borders=st.lists(st.integers(0, ROWS), max_size=8), empty=st.booleans())
def test_chunks_change_nothing(
    bundle: Bundle, table: pa.Table, borders: list[int], empty: bool
) -> None:
    starts = sorted([0, *borders])
    ends = [*starts[1:], ROWS]
    chunks = [table.slice(a, b - a) for a, b in zip(starts, ends, strict=True) if empty or b > a]
    chunked = pa.concat_tables(chunks)
    answered, wanted = bundle.answer(chunked, keep="all"), bundle.answer(table, keep="all")
    assert answered.table.equals(wanted.table)
    assert answered.rejects.equals(wanted.rejects)


class Stream:
    """An object of another library that has columns, such as a frame of Polars."""

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._columns.__arrow_c_stream__(requested_schema)


class OneArray:
    """An object of another library that is a batch or a column."""

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._columns.__arrow_c_array__(requested_schema)


FORMS: dict[str, Callable[[pa.Table], object]] = {
    "slice": lambda t: pa.concat_tables([t, t]).combine_chunks().slice(ROWS),
    "batch": lambda t: t.combine_chunks().to_batches()[0],
    "slice of a batch": lambda t: pa.concat_tables([t, t]).combine_chunks().to_batches()[0][ROWS:],
    "reader": lambda t: t.to_reader(100),
    "frame": Stream,
    "frame of batches": lambda t: Stream(t.to_reader(7)),
    "batch of another library": lambda t: OneArray(t.combine_chunks().to_batches()[0]),
    "struct": lambda t: t.to_struct_array(),
    "views": lambda t: t.set_column(1, "text", t["text"].cast(pa.string_view())),
    "large": lambda t: t.set_column(1, "text", t["text"].cast(pa.large_string())),
    "dictionary": lambda t: t.set_column(1, "text", t["text"].dictionary_encode()),
    "dictionaries": lambda t: t.set_column(1, "text", pa.chunked_array(
        [chunk.dictionary_encode() for chunk in pa.table({"x": t["text"]}).to_reader(9)
         for chunk in chunk.columns])),
    "views in chunks": lambda t: Stream(
        t.set_column(1, "text", t["text"].cast(pa.string_view())).to_reader(11)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_table_changes_nothing(bundle: Bundle, table: pa.Table, form: str) -> None:
    answered, wanted = bundle.answer(FORMS[form](table), keep="id"), bundle.answer(table, keep="id")
    assert answered.table.equals(wanted.table)
    assert answered.rejects.equals(wanted.rejects)


COLUMNS: dict[str, Callable[[pa.Array], object]] = {
    "array": lambda a: a,
    "chunks": lambda a: pa.chunked_array([a[:3], a[3:3], a[3:]]),
    "series": lambda a: Stream(pa.chunked_array([a[:200], a[200:]])),
    "array of another library": OneArray,
    "views": lambda a: a.cast(pa.string_view()),
}


@pytest.mark.parametrize("form", COLUMNS)
@pytest.mark.parametrize("name", [(), "body"])
def test_an_array_is_the_one_column(bundle: Bundle, table: pa.Table, form: str, name: Any) -> None:
    column = COLUMNS[form](table["text"].combine_chunks())
    answered, wanted = bundle.answer(column, text=name), bundle.answer(table)
    assert answered.table.equals(wanted.table)
    renamed = [name if name and c == "text" else c for c in wanted.rejects["column"].to_pylist()]
    assert answered.rejects["column"].to_pylist() == renamed


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.null()])
def test_a_table_without_answers_has_their_columns(
    bundle: Bundle, table: pa.Table, kind: pa.DataType, rows: int
) -> None:
    wanted = bundle.answer(table, keep="id").table.schema
    empty = pa.table({"text": pa.nulls(rows, kind), "id": pa.array(range(rows), pa.int64())})
    for given_ in (empty, pa.Table.from_batches([], empty.schema)):
        answered = bundle.answer(given_, keep="id")
        assert answered.table.schema == wanted
        assert answered.table.num_rows == 0
        assert answered.rejects.num_rows == given_.num_rows


@pytest.mark.parametrize(
    "settings",
    [
        {"text": "txt"},
        {"text": ("text", "id")},
        {"text": "id"},
        {"keep": "ids"},
        {"keep": "id,label", "text": "text"},
        {"keep": "id", "result_prefix": 5},
        {"batch_tokens": -1},
        {"batch_tokens": "many"},
        {"on_error": "skip"},
        {"dedupe": "perhaps"},
        {"truncation_side": "middle"},
        {"max_length": 3},
        {"top_k": -1},
        {"topk": 3},
    ],
    ids=str,
)
def test_what_a_run_refuses_is_refused_alike(
    bundle: Bundle, table: pa.Table, tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError) as of_run:
        run(bundle, table, tmp_path, **settings)
    with pytest.raises(SettingsError) as of_table:
        bundle.answer(table, **settings)
    assert type(of_table.value) is type(of_run.value)
    path = str(tmp_path / "rows.arrow")
    assert of_table.value.message == of_run.value.message.replace(path, "the table")
    assert of_table.value.message in of_run.value.message or path in of_run.value.message


def test_the_first_bad_row_ends_it_where_that_is_asked_for(bundle: Bundle, table: pa.Table) -> None:
    with pytest.raises(RowError) as caught:
        bundle.answer(table, on_error="fail")
    assert caught.value.row == BAD[0]
    assert caught.value.code == "null_text"
    assert caught.value.message.startswith("the table: row 3 (counted from 0)")
    assert 'on_error="reject"' in caught.value.hint
    assert bundle.answer(table, on_error="reject").rejects.num_rows == len(BAD)


def test_names_of_results_do_not_collide(bundle: Bundle, table: pa.Table) -> None:
    named = table.rename_columns(["label", "text", "score"])
    with pytest.raises(ColumnError, match="kept column 'label' is also the name of a result"):
        bundle.answer(named, keep="label")
    answered = bundle.answer(named, keep="label", result_prefix="predicted_")
    assert answered.table.column_names == ["label", "predicted_label", "predicted_score"]


def test_a_table_has_no_file(bundle: Bundle, table: pa.Table) -> None:
    with pytest.raises(ColumnError, match="the table: no column '_file'"):
        bundle.answer(table, keep="_file")
    own = table.rename_columns(["_file", "text", "tag"])
    assert bundle.answer(own, keep="_file").table["_file"].to_pylist()[:4] == [0, 1, 2, 4]


@pytest.mark.parametrize("value", [["a"], "a", {"text": ["a"]}, None, 5], ids=str)
def test_what_has_no_columns_is_refused(bundle: Bundle, value: object) -> None:
    with pytest.raises(InputError) as caught:
        bundle.answer(value)
    assert caught.value.message == f"the table: a {type(value).__name__} has no Arrow columns"
    assert bundle.answer(pa.table({"text": ["..."]})).table.num_rows == 1  # as the hint says


def test_what_cannot_be_taken_over_is_refused(bundle: Bundle) -> None:
    class Torn:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            schema = pa.schema({"text": pa.string()})

            def batches() -> Any:
                yield pa.record_batch({"text": ["a"]})
                raise pa.ArrowInvalid("the secret text of a row")

            reader = pa.RecordBatchReader.from_batches(schema, batches())
            return reader.__arrow_c_stream__(requested_schema)

    with pytest.raises(InputError, match="the table: a Torn that cannot be taken over"):
        bundle.answer(Torn())


def test_fields_of_structs_and_texts_of_others_are_found_as_in_files(
    bundle: Bundle, table: pa.Table, tmp_path: Path
) -> None:
    doc = pa.StructArray.from_arrays(
        [table["text"].combine_chunks(), table["id"].combine_chunks()], ["text", "n"]
    )
    nested = pa.table({"doc": doc})
    wanted, rejects = run(bundle, nested, tmp_path, text="doc.text", keep="doc.n")
    answered = bundle.answer(nested, text="doc.text", keep="doc.n")
    assert answered.table.equals(wanted)
    assert answered.rejects.to_pylist() == rejects


def test_tables_of_several_windows_and_repeated_texts(bundle: Bundle, tmp_path: Path) -> None:
    many = pa.table({"text": texts(9000, seed=2)})
    wanted, _ = run(bundle, many, tmp_path, keep="_row")
    assert bundle.answer(many, keep="_row").table.equals(wanted)
    assert bundle.answer(many, keep="_row", dedupe=False).table.equals(wanted)
    assert bundle.answer(many, keep="_row", batch_tokens=64).table.equals(wanted)


def test_sampled_tokens_are_those_of_a_run(tmp_path: Path) -> None:
    bundle = opened(tmp_path, "translation")
    table = pa.table({"text": ["w1 w2"] * 40})
    drawing: dict[str, Any] = {"do_sample": True, "temperature": 2.0, "seed": 7}
    wanted, _ = run(bundle, table, tmp_path, **drawing)
    assert len(set(wanted["translation_text"].to_pylist())) > 5
    assert bundle.answer(table, **drawing).table.equals(wanted)


def test_a_few_texts_start_no_thread_and_many_are_computed_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, threads, both = FakeBackend(), set(), threading.Barrier(2)

    def called(graph: str, shape: tuple[int, ...]) -> None:
        threads.add(threading.get_ident())
        if next(meeting) in (0, 1):
            both.wait(30)

    meeting = itertools.count(2)
    backend.called = called  # type: ignore[method-assign]  # what the fake offers for this
    folder = bundle_format.load(make_bundle(tmp_path / "bundle", "text-classification"))
    bundle = Bundle(folder, backend)
    assert bundle([]).num_rows == 0
    assert bundle(texts(9)).num_rows == bundle.answer(pa.array(texts(9))).table.num_rows == 9
    assert threads == {threading.get_ident()}
    monkeypatch.setattr(pipeline, "cores", lambda: 6)
    side_by_side = Bundle(folder, backend, {"threads": 3})
    meeting = itertools.count()
    table = pa.table({"text": texts(40)})
    answered = side_by_side.answer(table, batch_tokens=100, dedupe=False)
    assert len(threads) == 3
    assert answered.table.equals(bundle.answer(table).table)


def test_a_real_model_answers_as_in_a_run(tmp_path: Path) -> None:
    numerals: list[str | None] = [spanish(n) for n in range(0, 90000, 1500)]
    table = pa.table({"text": [*numerals, None], "id": range(61)})
    bundle = Bundle.load(BUNDLE, threads=1)
    wanted, rejects = run(bundle, table, tmp_path, keep="id")
    answered = bundle.answer(table, keep="id")
    assert answered.table.equals(wanted)
    assert answered.rejects.to_pylist() == rejects
    streamed = [part.table for part in bundle.stream(table.to_reader(25), keep="id")]
    assert pa.concat_tables(streamed).equals(wanted)
