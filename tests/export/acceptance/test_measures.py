"""Measures: what each figure counts, and that NaN never passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import hardware
from engine.export.acceptance.limits import BATCH_EFFECT, LIMITS, Limit
from engine.export.acceptance.measures import (
    SURE_LOGITS,
    SURE_SCORE,
    batch_effect,
    compare_answers,
    compare_steps,
)
from engine.generation import StepTrace
from engine.measures.texts import chrf
from engine.measures.vectors import relative_error

NAN = float("nan")


def approx(figures: dict[str, float]) -> Any:
    return pytest.approx(figures, abs=1e-6)


# --- numbers


def test_the_relative_error_is_a_share_of_the_expected_norm() -> None:
    expected = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert relative_error(expected, expected) == 0
    assert relative_error(expected, expected + np.array([[0, 1], [0, 0]])) == pytest.approx(0.2)
    assert relative_error(expected, 2 * expected) == pytest.approx(1)
    assert math.isnan(relative_error(expected, expected * NAN))
    assert relative_error(np.zeros(2), np.ones(2)) > 1e20


def vectors(*rows: Sequence[float]) -> pa.Table:
    return pa.table({"embedding": pa.array([list(map(float, r)) for r in rows])})


def test_embeddings_are_compared_by_their_direction() -> None:
    expected = vectors([1, 0], [0, 2], [1, 1])
    actual = vectors([3, 0], [0, -1], [1, 0])
    figures = compare_answers("feature-extraction", expected, actual)
    assert figures == approx({"mean cosine": math.sqrt(0.5) / 3, "worst cosine": -1})
    zero = compare_answers("feature-extraction", expected, vectors([0, 0], [0, NAN], [1, 1]))
    assert zero == approx({"mean cosine": 1 / 3, "worst cosine": 0})


# --- rankings


def labels(*rows: dict[str, float]) -> pa.Table:
    return pa.table({"labels": [list(row) for row in rows], "scores": [list(row.values())
                    for row in rows]})  # fmt: skip


@pytest.mark.parametrize("task", ["text-classification", "zero-shot-classification"])
def test_labels_agree_in_the_best_and_near_ties_are_not_sure(task: str) -> None:
    expected = labels({"a": 0.9, "b": 0.1}, {"a": 0.52, "b": 0.48}, {"b": 0.7, "a": 0.3})
    actual = labels({"a": 0.8, "b": 0.2}, {"b": 0.55, "a": 0.45}, {"a": 0.6, "b": 0.4})
    figures = compare_answers(task, expected, actual)
    shift = (0.1 + 0.07 + 0.3) / 3
    wanted = {"same label": 1 / 3, "mean score shift": shift, "same label where fp32 is sure": 0.5}
    assert figures == approx(wanted)


def test_a_lead_of_just_sure_score_is_a_near_tie() -> None:
    expected, actual = labels({"a": SURE_SCORE, "b": 0.0}), labels({"b": 1.0, "a": 0.0})
    figures = compare_answers("text-classification", expected, actual)
    assert "same label where fp32 is sure" not in figures
    sure = compare_answers("text-classification", labels({"a": 0.55, "b": 0.4}), actual)
    assert sure["same label where fp32 is sure"] == 0
    alone = compare_answers("text-classification", labels({"a": 0.02}), labels({"a": 0.02}))
    assert alone["same label where fp32 is sure"] == 1  # nothing else to take


def test_scores_that_are_no_probabilities_are_a_share_of_the_largest() -> None:
    expected = labels({"a": -4.0, "b": -5.0}, {"a": 2.0, "b": 1.0})
    actual = labels({"a": -3.0, "b": -5.0}, {"a": 2.0, "b": 1.0})
    figures = compare_answers("text-classification", expected, actual)
    assert figures["mean score shift"] == pytest.approx(1 / 4 / 2)


def test_a_score_that_is_missing_or_nan_is_far_off() -> None:
    expected = labels({"a": 0.75, "b": 0.25})
    missing = compare_answers("text-classification", expected, labels({"b": 1.0}))
    assert missing["mean score shift"] == pytest.approx(0.75)
    wrong = compare_answers("text-classification", expected, labels({"a": NAN, "b": 0.25}))
    assert wrong["mean score shift"] == 1


def candidates(*rows: dict[int, float]) -> pa.Table:
    kind = pa.list_(pa.struct({"token": pa.int64(), "score": pa.float64()}))
    cells = [[{"token": token, "score": s} for token, s in row.items()] for row in rows]
    return pa.table({"candidates": pa.array(cells, kind)})


def test_candidates_of_a_mask_are_compared_by_token() -> None:
    expected = candidates({7: 0.6, 8: 0.2}, {5: 0.4, 6: 0.39}, {})
    actual = candidates({7: 0.4, 9: 0.3}, {6: 0.5, 5: 0.3}, {})
    figures = compare_answers("fill-mask", expected, actual)
    wanted = {"same token": 2 / 3, "mean score shift": 0.1, "same token where fp32 is sure": 1}
    assert figures == approx(wanted)


def test_masks_that_are_all_cut_off_are_compared_too() -> None:
    none = candidates({}, {})
    figures = compare_answers("fill-mask", none, none)
    assert (figures["same token"], figures["mean score shift"]) == (1, 0)


def test_answers_are_compared_by_their_text() -> None:
    expected = pa.table({"answer": ["Rome", "1969"], "score": [0.5, 0.8]})
    actual = pa.table({"answer": ["Rome", "1970"], "score": [0.3, 0.9]})
    figures = compare_answers("question-answering", expected, actual)
    assert figures["same span"] == 0.5
    assert figures["mean score shift"] == pytest.approx((0.2 + 0.8) / 2)


# --- spans and texts


def entities(*rows: list[tuple[str, int, int, float]], name: str = "entity_group") -> pa.Table:
    kind = pa.list_(
        pa.struct(
            {name: pa.string(), "start": pa.int64(), "end": pa.int64(), "score": pa.float64()}
        )
    )
    cells = [[{name: g, "start": s, "end": e, "score": p} for g, s, e, p in row] for row in rows]
    return pa.table({"entities": pa.array(cells, kind)})


@pytest.mark.parametrize("name", ["entity_group", "entity"])
def test_entities_agree_in_row_group_and_place(name: str) -> None:
    expected = entities([("A", 0, 3, 0.9), ("B", 5, 8, 0.8)], [("A", 0, 3, 0.7)], name=name)
    actual = entities([("A", 0, 3, 0.6), ("A", 5, 8, 0.8)], [("A", 0, 3, 0.8)], name=name)
    figures = compare_answers("token-classification", expected, actual)
    assert figures == approx({"same span": 4 / 6, "mean score shift": 0.2})
    moved = compare_answers("token-classification", expected, entities([], [], name=name))
    assert moved == approx({"same span": 0, "mean score shift": 0})
    for start, end in ((1, 3), (0, 2)):
        shifted = entities([("A", start, end, 0.9)], [], name=name)
        assert compare_answers("token-classification", expected, shifted)["same span"] == 0


def test_no_entities_at_all_are_the_same() -> None:
    none = entities([], [])
    assert compare_answers("token-classification", none, none)["same span"] == 1


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("translation", "translation_text"),
        ("summarization", "summary_text"),
        ("text2text-generation", "generated_text"),
        ("text-generation", "generated_text"),
    ],
)
def test_texts_are_equal_or_alike(task: str, column: str) -> None:
    expected, actual = (
        pa.table({"output_tokens": [2] * 3, column: texts})
        for texts in (["abc", "x", "y"], ["abd", "x", "y"])
    )
    figures = compare_answers(task, expected, actual)
    assert figures["same answer"] == pytest.approx(2 / 3)
    assert figures["chrF"] == pytest.approx(chrf(["abc", "x", "y"], ["abd", "x", "y"]))
    assert 0 < figures["chrF"] < 100


# By hand: means of precision and recall over the orders that both have, F with beta 2.
@pytest.mark.parametrize(
    ("references", "answers", "score"),
    [
        (["abc"], ["abd"], 100 * (2 / 3 + 1 / 2) / 3),
        (["abcd"], ["ab"], 47.169811),
        (["ab"], ["abcd"], 78.125),
        (["a", "abc"], ["xyz", "abc"], 89.869281),
        (["a b"], ["ab"], 100),
        (["abcdefgh"], ["abcdefgx"], 100 * (7 / 8 + 6 / 7 + 5 / 6 + 4 / 5 + 3 / 4 + 2 / 3) / 6),
        (["a"], ["b"], 0),
        ([""], ["x"], 0),
        ([""], [""], 100),
    ],
)
def test_chrf_by_hand(references: list[str], answers: list[str], score: float) -> None:
    assert chrf(references, answers) == pytest.approx(score)


def test_chrf_is_sacrebleu_s() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    ours = ["the cat sat on the mat", "a dog", "", "x"]
    theirs = ["the cat sits on a mat", "a dog", "something", "yes"]
    expected = sacrebleu.corpus_chrf(theirs, [ours]).score
    assert chrf(ours, theirs) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_chrf_of_equal_texts_is_100(texts: list[str]) -> None:
    assert chrf(texts, texts) == pytest.approx(100)


# --- decode steps


def trace(tokens: list[list[int]], lengths: list[int], margins: list[list[float]]) -> StepTrace:
    return StepTrace(np.array(tokens), np.array(lengths), np.array(margins, np.float32))


def test_tokens_after_an_answer_s_end_do_not_count() -> None:
    expected = trace([[5, 1, 9], [4, 4, 4]], [2, 3], [[2] * 3] * 2)
    actual = replace(expected, tokens=np.array([[5, 1, 0], [4, 4, 3]]))
    figures = compare_steps(expected, actual)
    assert figures == {"same top token": 0.8, "same top token where fp32 is sure": 0.8}


def test_a_margin_of_just_sure_logits_is_a_near_tie() -> None:
    tie = trace([[5, 6]], [2], [[SURE_LOGITS, 3]])
    other = replace(tie, tokens=np.array([[4, 6]]))
    assert compare_steps(tie, other) == {
        "same top token": 0.5,
        "same top token where fp32 is sure": 1,
    }
    unsure = replace(tie, margins=np.zeros((1, 2), np.float32))
    assert compare_steps(unsure, other) == {"same top token": 0.5}


# --- a row in a batch and alone


def test_the_batch_effect_is_the_largest_difference_of_a_number() -> None:
    def rows(*values: float) -> pa.Table:
        return pa.table({"x": [{"list": [0.5, v], "n": 3} for v in values]})

    assert batch_effect(rows(1, 2, 3), rows(1, 2, 3)) == 0
    assert batch_effect(rows(1, 2, 3), rows(1, 2.25, 2.5)) == 0.5
    assert batch_effect(rows(1, 2, 3), rows(1, 2.5, 3)) == 0.5
    assert batch_effect(rows(1, 2), rows(1, NAN)) == 1
    assert batch_effect(rows().slice(0, 0), rows().slice(0, 0)) == 0


def test_rows_without_an_answer_are_the_same() -> None:
    empty = pa.table({"x": pa.array([[]], pa.list_(pa.float64()))})
    assert batch_effect(empty, empty) == 0


@pytest.mark.parametrize(
    ("batched", "alone"), [("a", "b"), ([1.0], [1.0, 2.0]), (3, 4), ([], [1.0]), (None, 0.5)]
)
def test_another_answer_counts_as_one(batched: Any, alone: Any) -> None:
    tables = [pa.table({"x": pa.array([value])}) for value in (batched, alone)]
    assert batch_effect(*tables) == 1


# --- limits


def test_nan_does_not_pass() -> None:
    expected, actual = vectors([1, 0], [0, 1]), vectors([1, 0], [NAN, NAN])
    assert compare_answers("feature-extraction", expected, actual)["worst cosine"] == 0
    assert batch_effect(expected, actual) == 1
    limit = Limit("mean cosine", 0.9)
    assert not limit.holds(NAN)
    assert not replace(limit, is_maximum=True).holds(NAN)


def test_a_limit_is_a_bound_that_may_be_reached() -> None:
    least, most = Limit("x", 0.9), Limit("x", 0.9, is_maximum=True)
    assert [least.holds(v) for v in (0.89, 0.9, 0.91)] == [False, True, True]
    assert [most.holds(v) for v in (0.89, 0.9, 0.91)] == [True, True, False]


@pytest.mark.parametrize(
    ("recipe", "cosine", "worst", "sure", "same", "shift", "text"),
    [
        ("int8", 0.99, 0.95, 0.97, 0.93, 0.04, 60),
        ("int8-tensor", 0.99, 0.95, 0.97, 0.93, 0.04, 60),
        ("int8-weight", 0.99, 0.95, 0.97, 0.93, 0.04, 60),
        ("int4-weight", 0.97, 0.85, 0.95, 0.85, 0.08, 40),
        ("fp16", 0.9995, 0.999, 0.995, 0.98, 0.005, 90),
    ],
)
def test_a_recipe_is_held_to_these_limits(
    recipe: str, cosine: float, worst: float, sure: float, same: float, shift: float, text: float
) -> None:
    names = ("label", "document", "token", "top token")
    least = {"mean cosine": cosine, "worst cosine": worst, "same span": same, "chrF": text}
    least |= {f"same {what} where fp32 is sure": sure for what in names}
    least["same top token"] = same
    batch = 0 if "avx2" in hardware.cpu()[1] else 1e-4
    most = {"mean score shift": shift} | ({BATCH_EFFECT: batch} if recipe == "int8" else {})
    assert {limit.name: limit.value for limit in LIMITS[recipe]} == least | most
    assert {limit.name for limit in LIMITS[recipe] if limit.is_maximum} == most.keys()


def test_every_recipe_has_limits() -> None:
    from engine.export.recipes.table import RECIPES

    assert LIMITS.keys() == RECIPES.keys() - {"fp32"}
