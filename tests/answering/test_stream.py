"""Tables that come one after the other: pulled as they are answered, two at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import FakeBackend, make_bundle, open_bundle, texts
from support.runs import no_thread_left  # noqa: F401  # for every test here

from engine.answering.answered import Answered
from engine.errors import ColumnError, InputError, RowError, SettingsError, Stopped
from engine.pipeline import Bundle

SECONDS = 30  # before a test that hangs fails


class SourceError(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("b") / "bundle", "text-classification")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return open_bundle(folder)


def tables(count: int, rows: int = 5) -> list[pa.Table]:
    every = texts(count * rows, seed=4)
    return [pa.table({"text": every[n * rows : (n + 1) * rows]}) for n in range(count)]


class Source:
    """Tables that say how many have been taken."""

    def __init__(self, given: list[pa.Table]) -> None:
        self.given, self.taken = given, 0

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self.given:
            self.taken += 1
            yield table


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 9), max_size=12), cuts=st.randoms(use_true_random=False))
def test_each_table_has_the_answers_that_it_has_alone(
    bundle: Bundle, sizes: list[int], cuts: Any
) -> None:
    every = pa.table({"text": [None if cuts.random() < 0.2 else t for t in texts(sum(sizes))]})
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    given_ = [every.slice(start, size) for start, size in zip(starts, sizes, strict=True)]
    answers = [*bundle.stream(given_, keep="_row")]
    assert len(answers) == len(sizes)
    for answered, table in zip(answers, given_, strict=True):
        alone = bundle.answer(table, keep="_row")
        assert answered.table.equals(alone.table)
        assert answered.rejects.equals(alone.rejects)


def test_nothing_comes_of_nothing(bundle: Bundle) -> None:
    assert [*bundle.stream([])] == []
    assert [*bundle.stream(iter(()))] == []


@pytest.mark.parametrize("rows", [1, 5, 5000])
def test_no_more_than_one_table_is_pulled_ahead(bundle: Bundle, rows: int) -> None:
    source = Source(tables(6, rows))
    stream = bundle.stream(source)
    assert source.taken == 0
    for number, answered in enumerate(stream, 1):
        assert answered.table.num_rows == rows
        assert source.taken <= number + 1
    assert source.taken == 6


def test_the_next_table_is_pulled_while_one_is_computed(folder: Path) -> None:
    backend, computing, pulled = FakeBackend(), threading.Event(), threading.Event()

    def called(graph: str, shape: tuple[int, ...]) -> None:
        computing.set()
        assert pulled.wait(SECONDS)

    backend.called = called  # type: ignore[method-assign]  # what the fake offers for this

    def source() -> Iterator[pa.Table]:
        first, second = tables(2)
        yield first
        assert computing.wait(SECONDS)
        pulled.set()
        yield second

    assert len([*open_bundle(folder, backend).stream(source())]) == 2


def test_it_is_pulled_by_the_thread_that_asks(bundle: Bundle) -> None:
    threads = []

    def source() -> Iterator[pa.Table]:
        for table in tables(4):
            threads.append(threading.get_ident())
            yield table

    assert len([*bundle.stream(source())]) == 4
    assert set(threads) == {threading.get_ident()}


@pytest.mark.parametrize("after", [0, 1, 2])
def test_it_may_be_closed_early(bundle: Bundle, after: int) -> None:
    source = Source(tables(20))
    stream = bundle.stream(source)
    for _ in range(after):
        next(stream)
    stream.close()
    assert source.taken <= after + 1
    assert list(stream) == []
    assert bundle.answer(tables(1)[0]).table.num_rows == 5  # the bundle still answers


def test_it_is_closed_while_a_batch_is_computed(folder: Path) -> None:
    backend, entered, ended = FakeBackend(), threading.Event(), threading.Event()

    def called(graph: str, shape: tuple[int, ...]) -> None:
        if shape[0] == 2:
            entered.set()
            ended.wait(SECONDS)

    backend.called = called  # type: ignore[method-assign]  # what the fake offers for this
    backend.stoppable = lambda: (backend, ended.set)  # type: ignore[method-assign]
    stream = open_bundle(folder, backend).stream([tables(1)[0], tables(1, 2)[0]])
    next(stream)
    assert entered.wait(SECONDS)
    stream.close()
    assert ended.is_set()


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("error", [SourceError("away"), KeyError("x"), OSError(5, "EIO")])
def test_what_the_source_raises_is_raised_as_it_is_after_what_came_before(
    bundle: Bundle, at: int, error: Exception
) -> None:
    def source() -> Iterator[pa.Table]:
        yield from tables(at)
        raise error

    answers: list[Answered] = []
    with pytest.raises(type(error)) as caught:
        answers.extend(bundle.stream(source()))
    assert caught.value is error
    assert len(answers) == at


def test_a_table_that_is_at_fault_is_named(bundle: Bundle) -> None:
    good = tables(1)[0]
    bad: list[tuple[object, type[Exception], str]] = [
        (pa.table({"txt": ["a"]}), ColumnError, "table 1 of the stream: no column 'text'"),
        (pa.table({"text": [5]}), ColumnError, "table 1 of the stream: column 'text' holds int64"),
        (["a"], InputError, "table 1 of the stream: a list has no Arrow columns"),
        (pa.table({"text": ["a", None]}), RowError, "table 1 of the stream: row 1 .counted"),
    ]
    for table, kind, message in bad:
        answers = []
        with pytest.raises(kind, match=message):
            answers.extend(bundle.stream([good, table, good], on_error="fail"))
        assert len(answers) == 1


def test_what_is_a_stream_itself_has_its_batches_taken(bundle: Bundle) -> None:
    class Frame:
        """As of Polars: to iterate over it gives columns."""

        def __iter__(self) -> Iterator[pa.ChunkedArray]:
            return iter(table.columns)

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return table.__arrow_c_stream__(requested_schema)

    table = pa.concat_tables(tables(3)).append_column("other", pa.array(["w9"] * 15))
    table = pa.concat_tables([table[:5], table[5:10], table[10:]])
    wanted = bundle.answer(table).table
    forms: list[Any] = [table, Frame(), table.to_reader(), table.to_reader(4), table.to_batches()]
    forms += [table.combine_chunks().to_batches()[0], table["text"], [table]]
    for form in forms:
        answers = [answered.table for answered in bundle.stream(form)]
        assert pa.concat_tables(answers).equals(wanted)
    assert [a.table.num_rows for a in bundle.stream(table.to_reader(4))] == [4, 1, 4, 1, 4, 1]


def test_settings_are_refused_at_once(bundle: Bundle) -> None:
    source = Source(tables(1))
    for wrong in ({"topk": 3}, {"batch_tokens": -1}, {"text": ("a", "b", "c")}, {"top_k": -1}):
        with pytest.raises(SettingsError):
            bundle.stream(source, **wrong)  # type: ignore[arg-type]  # on purpose
    assert source.taken == 0


def test_the_first_table_settles_the_kept_columns(bundle: Bundle) -> None:
    first = pa.table({"text": ["a"], "n": pa.array([1], pa.int64())})
    narrower = pa.table({"n": pa.array([2, 3], pa.int8()), "text": pa.array(["b", "c"]).cast(
        pa.string_view())})  # fmt: skip
    wider = pa.table({"text": ["d", "e"], "n": [4.0, 4.5]})
    answers = [*bundle.stream([first, narrower, wider, first], keep="n")]
    assert {a.table.schema for a in answers} == {answers[0].table.schema}
    assert [a.table["n"].to_pylist() for a in answers] == [[1], [2, 3], [4], [1]]
    assert answers[2].rejects["code"].to_pylist() == ["kept_type"]
    assert answers[2].rejects["row"].to_pylist() == [1]
    more = first.append_column("m", pa.array([1]))
    with pytest.raises(ColumnError, match="table 1 of the stream: column 'm' is not in every"):
        list(bundle.stream([first, more], keep="all"))
    assert len([*bundle.stream([first, more], keep="n")]) == 2  # as the hint says


@pytest.mark.parametrize("before", [True, False])
def test_an_event_ends_it(folder: Path, before: bool) -> None:
    stop, backend, released = threading.Event(), FakeBackend(), threading.Event()

    def called(graph: str, shape: tuple[int, ...]) -> None:
        stop.set()
        released.wait(SECONDS)

    backend.called = called  # type: ignore[method-assign]  # what the fake offers for this
    backend.stoppable = lambda: (backend, released.set)  # type: ignore[method-assign]
    if before:
        stop.set()
    with pytest.raises(Stopped):
        next(open_bundle(folder, backend).stream(tables(3), stop=stop))
    assert stop.is_set()


def test_sampling_goes_on_from_table_to_table(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle", "translation"))
    drawing: dict[str, Any] = {"do_sample": True, "temperature": 2.0, "seed": 7}
    table = pa.table({"text": ["w1 w2"] * 30})
    answers = bundle.stream([table[:10], table[10:12], table[12:]], **drawing)
    joined = pa.concat_tables([answered.table for answered in answers])
    assert joined.equals(bundle.answer(table, **drawing).table)
