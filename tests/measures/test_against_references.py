"""The figures are those of scikit-learn, sacrebleu, SciPy and NumPy on the same rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.measures import entities, spans, texts, vectors
from engine.measures.confusion import MOST_LABELS, Confusion
from engine.measures.distribution import Distribution
from engine.measures.rankings import Rankings, same_best, shifts
from engine.measures.significance import bootstrap_interval, mcnemar

random = np.random.default_rng(5)


def labels(rows: int, noise: float) -> tuple[list[str], list[str]]:
    a = random.integers(0, 7, rows)
    b = np.where(random.random(rows) < noise, random.integers(0, 8, rows), a)
    return [f"l{i}" for i in a], [f"l{i}" for i in b]


def confusion(a: list[str], b: list[str], step: int = 97) -> Confusion:
    counted = Confusion()
    for i in range(0, len(a), step):
        counted.add(pa.array(a[i : i + step]), pa.array(b[i : i + step]))
    return counted


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_kappa_confusion_and_f1_are_scikit_learn_s(noise: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = labels(1000, noise)
    counted = confusion(a, b)
    assert counted.kappa == pytest.approx(metrics.cohen_kappa_score(a, b), rel=1e-12)
    assert counted.macro_f1 == pytest.approx(metrics.f1_score(a, b, average="macro"), rel=1e-12)
    names = counted.labels
    expected = metrics.confusion_matrix(a, b, labels=names)
    assert (counted.matrix == expected).all()


def test_one_label_alone_has_no_kappa() -> None:
    assert math.isnan(confusion(["x"] * 5, ["x"] * 5).kappa)


def test_texts_that_are_no_labels_do_not_fill_the_memory() -> None:
    many = [str(i) for i in range(MOST_LABELS + 1)]
    counted = confusion(many, many, step=5000)
    assert counted.overflows
    assert not counted.pairs


WORDS = ["die", "Katze", "sitzt", "ñandú", "\U0001f600", "日本語", "a\u00a0b", "", "x", "\u3000"]


def lines(rows: int, seed: int) -> tuple[list[str], list[str]]:
    own = np.random.default_rng(seed)
    a = [" ".join(own.choice(WORDS, own.integers(0, 12))) for _ in range(rows)]
    b = [t if own.random() < 0.3 else " ".join(own.permutation(t.split(" "))[:8]) for t in a]
    return a, b


@pytest.mark.parametrize("seed", range(4))
def test_chrf_is_sacrebleu_s_of_the_corpus_and_of_each_row(seed: int) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    a, b = lines(300, seed)
    expected = sacrebleu.corpus_chrf(b, [a]).score
    assert texts.chrf(a, b) == pytest.approx(expected, rel=1e-12)
    rows = texts.score(texts.ngram_counts(pa.array(a), pa.array(b)))
    each = [sacrebleu.sentence_chrf(y, [x]).score for x, y in zip(a, b, strict=True)]
    assert rows.tolist() == pytest.approx(each, rel=1e-9)


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=8))
def test_chrf_of_any_text_is_sacrebleu_s(pairs: list[tuple[str, str]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    counts = texts.ngram_counts(pa.array(a), pa.array(b)).sum(axis=0)
    expected = sacrebleu.corpus_chrf(b, [a]).score
    assert float(texts.score(counts)) == pytest.approx(expected, rel=1e-9)


def test_both_ways_to_count_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (pa.array(side) for side in lines(300, 11))
    by_ranks, by_one_sort = [], []
    for name, calls in (("_by_ranks", by_ranks), ("_by_one_sort", by_one_sort)):
        count = getattr(texts, name)
        monkeypatch.setattr(texts, name, lambda *x, c=count, n=calls: n.append(1) or c(*x))
    whole = texts.ngram_counts(a, b)
    assert by_one_sort
    monkeypatch.setattr(texts, "_ranks", lambda codes: (codes.astype(np.int64) + 1, 21))
    assert (texts.ngram_counts(a, b) == whole).all()
    assert by_ranks


def test_long_texts_are_counted_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = lines(200, 9)
    whole = texts.ngram_counts(pa.array(a), pa.array(b))
    monkeypatch.setattr(texts, "_CHARACTERS", 100)
    assert (texts.ngram_counts(pa.array(a), pa.array(b)) == whole).all()
    sliced = [pa.array(["zz", *t]).slice(1) for t in (a, b)]
    assert (texts.ngram_counts(*sliced) == whole).all()


@pytest.mark.parametrize("counts", [(0, 0), (5, 5), (3, 12), (40, 11), (700, 800), (1, 100_000)])
def test_mcnemar_is_scipy_s(counts: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    only_a, only_b = counts
    found = mcnemar(only_a, only_b)
    rows = only_a + only_b
    if not rows:
        assert found == {"p_exact": 1.0, "chi2": 0.0, "p_chi2": 1.0}
        return
    assert found["p_exact"] == pytest.approx(stats.binomtest(only_a, rows).pvalue, rel=1e-8)
    chi2 = (abs(only_a - only_b) - 1) ** 2 / rows
    assert found["chi2"] == chi2
    assert found["p_chi2"] == pytest.approx(stats.chi2.sf(chi2, 1), rel=1e-9)


def test_the_interval_is_near_scipy_s_bootstrap_and_the_same_each_time() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = (random.random(2000) < 0.93).astype(float)
    rows = np.array([int(values.sum()), int(2000 - values.sum())])
    found = bootstrap_interval(np.array([1.0, 0.0]), rows)
    assert found == bootstrap_interval(np.array([1.0, 0.0]), rows)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000).confidence_interval  # fmt: skip  # noqa: E501
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_a_distribution_is_numpy_s_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = random.normal(0.9, 0.02, 5000)
    kept = Distribution()
    for start in range(0, 5000, 701):
        kept.add(values[start : start + 701])
    assert kept.mean == pytest.approx(values.mean(), rel=1e-12)
    expected = dict(zip(("p1", "p5", "p50", "p95", "p99"),
                        np.percentile(values, (1, 5, 50, 95, 99)), strict=True))  # fmt: skip
    assert kept.percentiles() == expected
    low, high = kept.interval()
    spread = 1.96 * values.std() / math.sqrt(5000)
    assert (low, high) == pytest.approx((kept.mean - spread, kept.mean + spread), abs=spread / 5)
    monkeypatch.setattr("engine.measures.distribution.MOST_VALUES", 1000)
    few = Distribution()
    for start in range(0, 5000, 701):
        few.add(values[start : start + 701])
    assert len(few.values) <= 1701
    assert (few.mean, few.least) == pytest.approx((values.mean(), values.min()), rel=1e-12)
    assert few.percentiles()["p50"] == pytest.approx(np.median(values), abs=0.005)


def test_cosines_are_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = random.normal(size=(2, 50, 12))
    expected = 1 - metrics.paired_cosine_distances(a, b)
    assert vectors.cosines(a, b) == pytest.approx(expected, rel=1e-12)


def test_scores_shift_as_each_row_says() -> None:
    first = Rankings.of(pa.array(["a", "b", "c"]), pa.array([0.9, 0.8, 0.7]))
    second = Rankings.of(pa.array(["a", "a", "c"]), pa.array([0.5, 0.6, float("nan")]))
    assert same_best(first, second).tolist() == [True, False, True]
    assert shifts(first, second) == pytest.approx([0.4, 0.8, 1.0])


def test_spans_overlap() -> None:
    starts, ends = np.array([[0, 5, 3, 0], [2, 5, 9, 4]]), np.array([[4, 5, 6, 4], [6, 5, 12, 8]])
    f1 = spans.overlap_f1((starts[0], starts[1]), (ends[0], ends[1]))
    assert f1.tolist() == [0.5, 1.0, 0.0, 0.0]


def test_entities_of_rows_are_those_of_sets() -> None:
    kind = pa.list_(pa.struct({"entity_group": pa.string(), "start": pa.int64(),
                               "end": pa.int64(), "score": pa.float64()}))  # fmt: skip

    def row() -> list[dict[str, object]]:
        return [{"entity_group": "PER" if g else "LOC", "start": int(s), "end": int(s) + 2,
                 "score": 0.5} for g, s in random.integers(0, 4, (random.integers(0, 5), 2))
                ]  # fmt: skip

    a, b = [row() for _ in range(200)], [row() for _ in range(200)]
    counts = entities.compare(pa.array(a, kind), pa.array(b, kind))
    sets = [[{(e["entity_group"], e["start"]) for e in r} for r in rows] for rows in (a, b)]
    assert counts.shared.tolist() == [len(x & y) for x, y in zip(*sets, strict=True)]
    assert counts.expected.tolist() == [len(x) for x in sets[0]]
    assert counts.actual.tolist() == [len(x) for x in sets[1]]
