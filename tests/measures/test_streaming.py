"""What comes batch by batch has the figures of all rows at once, scikit-learn's and NumPy's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.measures import categories, entities, near_duplicates
from engine.measures.bins import MOST, SCORE, SHOWN, Bins
from engine.measures.calibration import BINS, Calibration
from engine.measures.categories import Categories
from engine.measures.components import Moments, Sample, components_of
from engine.measures.confusion import Confusion
from engine.measures.near_duplicates import NearDuplicates, NearPairs
from engine.measures.repetition import repeated_shares

random = np.random.default_rng(11)
cuts = st.lists(st.integers(0, 60), max_size=4)


def parts(values: Any, places: Sequence[int]) -> list[Any]:
    """Values cut at places, some of the pieces empty."""
    edges = [0, *sorted(min(place, len(values)) for place in places), len(values)]
    return [values[a:b] for a, b in pairwise(edges)]


def binned(values: NDArray[np.float64], places: Sequence[int], *, whole: bool = False) -> Bins:
    bins = Bins(1 if whole else SCORE, is_whole=whole)
    for part in parts(values, places):
        bins.add(part)
    return bins


ANY = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.lists(ANY | st.floats(0, 1) | st.just(1.0), max_size=60)


@given(NUMBERS, cuts)
def test_a_histogram_is_numpy_s_in_any_batches(values: list[float], places: list[int]) -> None:
    numbers = np.array(values, np.float64)
    edges, counts = binned(numbers, places).shown()
    once = binned(numbers, []).shown()
    assert (edges.tolist(), counts.tolist()) == (once[0].tolist(), once[1].tolist())
    assert counts.sum() == len(values)
    assert len(counts) <= SHOWN
    assert np.isfinite(edges).all()
    if len(values) and np.abs(numbers).max() < 1e140:
        assert counts.tolist() == np.histogram(numbers, edges)[0].tolist()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), cuts)
def test_whole_numbers_have_bins_of_their_own(values: list[int], places: list[int]) -> None:
    numbers = np.array(values, np.float64)
    edges, counts = binned(numbers, places, whole=True).shown()
    expected = np.histogram(numbers, np.append(edges[:-1], np.nextafter(edges[-1], -1)))[0]
    assert counts.tolist() == expected.tolist()
    if max(values) - min(values) < SHOWN:
        assert counts.tolist() == np.bincount(np.array(values) - min(values)).tolist()


def test_scores_are_shown_from_0_to_1() -> None:
    numbers = random.random(5000) * 0.4 + 0.3
    edges, counts = binned(numbers, [3, 700]).shown((0.0, 1.0))
    assert (edges[0], edges[-1], len(counts)) == (0, 1, 32)
    assert counts.tolist() == np.histogram(numbers, edges)[0].tolist()
    edges, counts = binned(np.append(numbers, [1.0, -1.0]), []).shown((0.0, 1.0))
    assert edges[0] == -1
    assert counts.sum() == 5002
    assert len(binned(np.arange(1e6), [])._counts) <= MOST


@given(st.lists(st.sampled_from(["a", "b", "", "é"]), max_size=60), cuts)
def test_names_are_counted_in_any_batches(names: list[str], places: list[int]) -> None:
    counted = Categories()
    for part in parts(names, places):
        counted.add(pa.array(part, pa.string()))
    expected = sorted(((n, names.count(n)) for n in set(names)), key=lambda p: (-p[1], p[0]))
    assert counted.most(10) == expected
    assert (counted.rows, len(counted)) == (len(names), len(set(names)))


def test_names_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(categories, "MOST_NAMES", 3)
    counted = Categories()
    counted.add(pa.array(["a", "b", "c", "d", "d", "a"]))
    assert (counted.rows, counted.most(5)) == (6, [("a", 2), ("b", 1), ("c", 1)])


def test_calibration_is_scikit_learn_s() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    scores = np.concatenate([random.random(3000) ** 2, np.arange(11) / 10])
    right = random.random(len(scores)) < scores * 0.8
    counted = Calibration()
    for own, is_right in zip(parts(scores, [5, 900]), parts(right, [5, 900]), strict=True):
        counted.add(own, is_right)
    accuracy, mean = calibration.calibration_curve(right, scores, n_bins=BINS)
    known = counted.rows > 0
    np.testing.assert_allclose(counted.accuracies[known], accuracy, rtol=1e-12)
    np.testing.assert_allclose(counted.mean_scores[known], mean, rtol=1e-12)
    expected = sum(
        abs(right[own].mean() - scores[own].mean()) * own.mean()
        for b in range(BINS)
        if (own := (scores > b / 10 * (b > 0) - (b == 0)) & (scores <= (b + 1) / 10)).any()
    )
    assert counted.expected_error == pytest.approx(expected, rel=1e-9)
    counted.add(np.array([1.5, -0.1]), np.array([True, False]))
    assert counted.outside == 2
    assert math.isnan(Calibration().expected_error)


def test_figures_of_labels_are_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truths = [f"l{i}" for i in random.integers(0, 6, 800)]
    answers = [t if random.random() < 0.7 else f"l{random.integers(0, 8)}" for t in truths]
    counted = Confusion()
    for own, given_ in zip(parts(truths, [1, 500]), parts(answers, [1, 500]), strict=True):
        counted.add(pa.array(own, pa.string()), pa.array(given_, pa.string()))
    assert counted.accuracy == pytest.approx(metrics.accuracy_score(truths, answers))
    expected = metrics.f1_score(truths, answers, average="weighted")
    assert counted.weighted_f1 == pytest.approx(expected, rel=1e-12)
    rows = counted.by_label(20)
    names = [row["label"] for row in rows]
    figures = metrics.precision_recall_fscore_support(
        truths, answers, labels=names, zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1", "expected"), figures, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist(), rel=1e-12)
    shown, counts = counted.grid(3, "other")
    assert shown == [*names[:3], "other"]
    merged = [[n if n in names[:3] else "other" for n in side] for side in (truths, answers)]
    assert counts.tolist() == metrics.confusion_matrix(*merged, labels=shown).tolist()
    assert len(counted.grid(20, "other")[0]) == len(names)


def repeated(text: str) -> float:
    words = text.split()
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


@given(st.lists(st.lists(st.sampled_from(["a", "b", "É", " ", "\t\n"]), max_size=30), max_size=8))
def test_repetition_is_counted_word_by_word(drawn: list[list[str]]) -> None:
    texts = [" ".join(words) for words in drawn]
    shares, words = repeated_shares(pa.array(texts, pa.string()))
    np.testing.assert_allclose(shares, [repeated(text) for text in texts], rtol=1e-12)
    assert words.tolist() == [len(text.split()) for text in texts]


def test_repetition_of_long_texts() -> None:
    long = " ".join(map(str, random.integers(0, 30_000, 50_000)))
    texts = ["a b c d a b c d", long, "", *(f"{i} x y z" for i in range(3000)), long + " " + long]
    shares, _ = repeated_shares(pa.array(texts))
    np.testing.assert_allclose(shares, [repeated(text) for text in texts], rtol=1e-12)


@pytest.mark.parametrize(("rows", "width"), [(300, 12), (40, 60), (2, 3), (5, 1)])
def test_components_are_scikit_learn_s(rows: int, width: int) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors = random.normal(size=(rows, width)) * np.linspace(3, 1, width) + 100
    counted = Moments()
    for part in parts(vectors, [1, 1, 37]):
        counted.add(part)
    np.testing.assert_allclose(counted.mean, vectors.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        counted.scatter / (rows - 1), np.cov(vectors.T).reshape(width, width), rtol=1e-8, atol=1e-8
    )
    count = min(2, width, rows)
    expected = decomposition.PCA(count, svd_solver="full").fit(vectors)
    for directions, shares in (counted.components(2), components_of(vectors, 2)):
        assert shares[:count] == pytest.approx(expected.explained_variance_ratio_, abs=1e-9)
        for own, theirs, size in zip(
            directions, expected.components_, expected.explained_variance_ratio_, strict=False
        ):
            if size > 1e-6:
                assert abs(own @ theirs) == pytest.approx(1, abs=1e-9)
                assert own[np.abs(own).argmax()] > 0


@given(st.lists(st.integers(0, 200), max_size=6))
def test_a_sample_is_the_same_in_any_batches(places: list[int]) -> None:
    vectors = np.arange(400.0).reshape(200, 2)
    tags = pa.array([str(i) for i in range(200)], pa.large_string())
    sample, once = Sample(20), Sample(20)
    once.add(vectors, tags)
    start = 0
    for part in parts(vectors, places):
        sample.add(part, tags.slice(start, len(part)))
        start += len(part)
    assert sample.numbers.tolist() == once.numbers.tolist()
    assert sample.tags.to_pylist() == [str(n) for n in sample.numbers]
    assert sample.vectors.tolist() == vectors[sample.numbers].tolist()
    assert len(sample.numbers) == 20


def near(vectors: NDArray[np.float64], places: Sequence[int] = ()) -> NearPairs:
    found = NearDuplicates()
    for part in parts(vectors, places):
        found.add(part)
    return found.found(lambda: parts(vectors, [7, 31]))


def some_alike(rows: int, width: int) -> NDArray[np.float64]:
    vectors = random.normal(size=(rows, width))
    vectors[100:200] = vectors[:100] + random.normal(size=(100, width)) * 0.2
    vectors[200:210] = vectors[:10]
    return vectors


def test_every_pair_of_a_few_vectors_is_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics.pairwise")
    vectors = some_alike(2500, 48)
    cosines = metrics.cosine_similarity(vectors)
    np.fill_diagonal(cosines, -1)
    found = near(vectors, [1000])
    assert found.nearest is not None
    np.testing.assert_allclose(found.nearest, cosines.max(axis=1), atol=1e-6)
    assert found.near == int((cosines.max(axis=1) >= near_duplicates.NEAR).sum())
    assert found.pairs == int((cosines >= near_duplicates.NEAR).sum()) // 2
    assert (found.identical, found.rows, found.recall) == (10, 2500, 1)
    alike = {tuple(sorted(pair)) for *pair, _ in found.most_alike}
    assert len(alike) == 10
    for a, b, cosine in found.most_alike:
        assert cosine == pytest.approx(cosines[a, b], abs=1e-6)


def test_hyperplanes_find_what_is_alike_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = some_alike(3000, 48)
    exact = near(vectors)
    monkeypatch.setattr(near_duplicates, "EXACT", 100)
    found = near(vectors, [50, 800])
    assert found.nearest is None
    assert found.identical == exact.identical
    assert 0.9 * exact.pairs <= found.pairs <= exact.pairs
    assert 0.9 * exact.near <= found.near <= exact.near
    assert found == near(vectors, [50, 800])
    monkeypatch.setattr(near_duplicates, "_KEPT_BYTES", 0)  # the planes judge most of them
    assert 0.7 * exact.pairs <= near(vectors, [50]).pairs <= 1.3 * exact.pairs


def test_many_equal_vectors_are_each_near_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "EXACT", 100)
    vectors = np.tile(random.normal(size=(1, 8)), (5000, 1))
    found = near(vectors)
    assert (found.near, found.identical) == (5000, 4999)
    monkeypatch.setattr(near_duplicates, "MOST", 400)
    assert near(vectors, [300]).rows == 400


ENTITY = st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(4, 6))
ENTITY_ROWS = st.lists(st.tuples(st.lists(ENTITY, max_size=4), st.lists(ENTITY, max_size=4)))


@given(ENTITY_ROWS)
def test_entities_are_counted_by_group_as_sets_are(rows: list[tuple[Any, Any]]) -> None:
    fields = [("entity_group", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
    kind = pa.list_(pa.struct(fields))
    names = [name for name, _ in fields]
    columns = [
        pa.array([[dict(zip(names, one, strict=True)) for one in row[side]] for row in rows], kind)
        for side in (0, 1)
    ]
    found = entities.compare(*columns)
    expected = {
        group: [
            sum(len({e for e in one if e[0] == group}) for one in sides)
            for sides in ([set(a) & set(b) for a, b in rows], *([row[i] for row in rows]
                          for i in (0, 1)))
        ]
        for row in rows for side in row for group, *_ in side
    }  # fmt: skip
    assert dict(zip(found.groups, found.by_group.tolist(), strict=True)) == expected
    assert found.by_group.sum(axis=0).tolist() == [
        int(one.sum()) for one in (found.shared, found.expected, found.actual)
    ]
