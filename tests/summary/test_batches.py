"""A summary of rows that come in any batches is that of all rows at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.summary.answers import Batch
from engine.summary.entities import EntitySummary
from engine.summary.generated import GeneratedSummary
from engine.summary.labels import DocumentSummary, LabelSummary
from engine.summary.looks import Summary
from engine.summary.spans import SpanSummary
from engine.summary.tokens import TokenSummary
from engine.summary.truths import UNKNOWN, TruthSummary

scores = st.floats(0, 1, width=32) | st.just(1.0) | st.just(float("nan"))
names = st.sampled_from(["a", "b", "c", "dé", ""])
words = st.lists(names, max_size=8).map(" ".join)
rankings = st.lists(st.tuples(names, scores), max_size=3)
counts = st.integers(0, 2000)
cuts = st.lists(st.integers(0, 12), max_size=4)


def struct(**fields: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct(list(fields.items())))


ENTITIES = struct(entity_group=pa.string(), score=pa.float32(), word=pa.string(),
                  start=pa.int32(), end=pa.int32())  # fmt: skip
MASKS = struct(mask=pa.int32(), score=pa.float32(), token=pa.int32(), token_str=pa.string())
entities = st.lists(st.fixed_dictionaries({
    "entity_group": names, "score": scores, "word": names,
    "start": st.integers(0, 5), "end": st.integers(6, 90),
}), max_size=3)  # fmt: skip
masks = st.lists(st.lists(st.tuples(names, st.floats(0, 0.25)), min_size=1, max_size=3),
                 max_size=2).map(lambda row: [
    {"mask": i, "score": score, "token": 1, "token_str": token}
    for i, mask in enumerate(row) for token, score in mask
])  # fmt: skip

Rows = Sequence[Any]
TABLES: Mapping[str, tuple[Callable[[], Summary], Any, Callable[[Rows], dict[str, pa.Array]]]] = {
    "label": (LabelSummary, st.tuples(names, scores), lambda rows: {
        "label": pa.array([r[0] for r in rows], pa.string()),
        "score": pa.array([r[1] for r in rows], pa.float32())}),
    "labels": (LabelSummary, rankings, lambda rows: {
        "labels": pa.array([[n for n, _ in r] for r in rows], pa.list_(pa.string())),
        "scores": pa.array([[s for _, s in r] for r in rows], pa.list_(pa.float32()))}),
    "documents": (DocumentSummary, st.lists(scores, max_size=3), lambda rows: {
        "score": pa.array([max(r, default=0) for r in rows], pa.float32()),
        "scores": pa.array(rows, pa.list_(pa.float32())),
        "order": pa.array([list(range(len(r)))[::-1] for r in rows], pa.list_(pa.int32()))}),
    "spans": (SpanSummary, st.tuples(words, scores), lambda rows: {
        "answer": pa.array([r[0] for r in rows], pa.string()),
        "score": pa.array([r[1] for r in rows], pa.float32())}),
    "entities": (EntitySummary, entities, lambda rows: {"entities": pa.array(rows, ENTITIES)}),
    "tokens": (TokenSummary, masks, lambda rows: {"candidates": pa.array(rows, MASKS)}),
    "texts": (lambda: GeneratedSummary(""), st.tuples(words, counts, names), lambda rows: {
        "generated_text": pa.array([r[0] for r in rows], pa.string()),
        "output_tokens": pa.array([r[1] for r in rows], pa.int32()),
        "finish_reason": pa.array([r[2] for r in rows], pa.string())}),
}  # fmt: skip


def batches(table: pa.Table, places: Sequence[int]) -> Iterator[Batch]:
    edges = [0, *sorted(min(place, len(table)) for place in places), len(table)]
    for start, stop in pairwise(edges):
        if stop > start:
            own = table.slice(start, stop - start)
            yield Batch(0, own, own, np.arange(start, stop))


def leaves(value: Any) -> Iterator[Any]:
    """All names and numbers of sections, in order."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def assert_alike(found: Any, expected: Any) -> None:
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        if isinstance(one, float):
            assert one == pytest.approx(other, rel=1e-12, nan_ok=True)
        else:
            assert one == other


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data(), places=cuts)
def test_batches_change_nothing(kind: str, data: st.DataObject, places: list[int]) -> None:
    make, row, table_of = TABLES[kind]
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    table = pa.table(table_of(rows))
    summary, once = make(), make()
    looks = [summary.add(batch) for batch in batches(table, places)]
    look = once.add(next(batches(table, ())))
    np.testing.assert_array_equal(np.concatenate([o.sureness for o in looks]), look.sureness)
    if look.size is not None:
        sizes = [o.size for o in looks if o.size is not None]
        np.testing.assert_array_equal(np.concatenate(sizes), look.size)
    assert_alike(summary.sections(), once.sections())


@given(st.lists(st.tuples(names | st.none(), names, scores), max_size=12), cuts)
def test_truths_in_batches(rows: list[tuple[str | None, str, float]], places: list[int]) -> None:
    columns = [pa.array([r[i] for r in rows], k) for i, k in
               enumerate((pa.string(), pa.string(), pa.float64()))]  # fmt: skip
    table = pa.table(columns, names=["truth", "label", "score"])
    summary, once = (TruthSummary("labels", "truth", pa.string()) for _ in range(2))
    for own, cut_at in ((summary, places), (once, [])):
        for batch in batches(table, cut_at):
            sureness = batch.results["score"].to_numpy()
            verdicts = own.add(batch.results["truth"], batch.results["label"], sureness)
            pairs = zip(*(batch.results[n].to_pylist() for n in ("truth", "label")), strict=True)
            expected = [UNKNOWN if truth is None else int(truth == label) for truth, label in pairs]
            assert verdicts.tolist() == expected
    assert_alike(summary.sections(), once.sections())
