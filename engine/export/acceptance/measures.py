"""How far a bundle's answers to a task are from those they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.generation import StepTrace
from engine.measures import entities, rankings, vectors
from engine.measures.rankings import Rankings
from engine.measures.texts import chrf

Figures = dict[str, float]
# Margins (in logits of a step, in score of a row) above which a changed answer counts as an error
# rather than a near-tie.
SURE_LOGITS, SURE_SCORE = 1.0, 0.1


def compare_answers(task: str, expected: pa.Table, actual: pa.Table) -> Figures:
    """The figures of a task's answers, by name; `expected` are fp32's."""
    return _MEASURES[task](expected, actual)


def _embeddings(expected: pa.Table, actual: pa.Table) -> Figures:
    cosines = vectors.cosines(*(vectors.matrix(t["embedding"]) for t in (expected, actual)))
    return {"mean cosine": float(cosines.mean()), "worst cosine": float(cosines.min())}


def _labels(expected: pa.Table, actual: pa.Table) -> Figures:
    """Labels in the order of their scores."""
    return _agreement("label", *(Rankings.of(t["labels"], t["scores"]) for t in (expected, actual)))


def _documents(expected: pa.Table, actual: pa.Table) -> Figures:
    """Documents of each query in the order of their scores."""
    documents = (Rankings.of(t["order"], t["scores"]) for t in (expected, actual))
    return _agreement("document", *documents)


def _candidates(expected: pa.Table, actual: pa.Table) -> Figures:
    """fill-mask: the tokens of each text's one mask in the order of their scores; none where the
    mask was cut off."""
    columns = (t["candidates"].combine_chunks() for t in (expected, actual))
    return _agreement("token", *map(Rankings.of_candidates, columns))


def _answers(expected: pa.Table, actual: pa.Table) -> Figures:
    return _agreement("span", *(Rankings.of(t["answer"], t["score"]) for t in (expected, actual)))


def _agreement(what: str, expected: Rankings, actual: Rankings) -> Figures:
    """Do the best names agree, and how far are the scores?"""
    same = rankings.same_best(expected, actual)
    # Scores that are no probabilities are measured by how large they get.
    largest = np.abs(expected.best_scores[~expected.is_empty]).max(initial=1.0)
    shift = rankings.shifts(expected, actual) / largest
    figures = {f"same {what}": float(same.mean()), "mean score shift": float(shift.mean())}
    if (sure := expected.leads > SURE_SCORE).any():
        figures[f"same {what} where fp32 is sure"] = float(same[sure].mean())
    return figures


def _entities(expected: pa.Table, actual: pa.Table) -> Figures:
    """F1 of the spans with their groups, and the mean score shift of the spans in both."""
    counts = entities.compare(expected["entities"], actual["entities"])
    f1 = entities.f1(*(int(n.sum()) for n in (counts.shared, counts.expected, counts.actual)))
    shift = counts.shifts
    return {"same span": f1, "mean score shift": float(shift.mean()) if len(shift) else 0.0}


def _texts(expected: pa.Table, actual: pa.Table) -> Figures:
    references, answers = (t[_text_column(t)].combine_chunks() for t in (expected, actual))
    same = pc.mean(pc.equal(references, answers).cast(pa.float64())).as_py()
    return {"same answer": same, "chrF": chrf(references, answers)}


def _text_column(table: pa.Table) -> str:
    return str(next(name for name in table.column_names if name.endswith("_text")))


def compare_steps(expected: StepTrace, actual: StepTrace) -> Figures:
    """How often the top token is fp32's, both teacher-forced along fp32's own answers."""
    steps = np.arange(expected.tokens.shape[1]) < expected.lengths[:, None]
    same = (expected.tokens == actual.tokens)[steps]
    sure = expected.margins[steps] > SURE_LOGITS
    figures = {"same top token": float(same.mean())}
    if sure.any():
        figures["same top token where fp32 is sure"] = float(same[sure].mean())
    return figures


def batch_effect(batched: pa.Table, alone: pa.Table) -> float:
    """How much a row's answer in a batch differs from its answer alone.

    Returns:
        The largest absolute difference of a number in them; 1 at least where a text differs.
    """
    pairs = zip(batched.to_pylist(), alone.to_pylist(), strict=True)
    return max((_difference(a, b) for a, b in pairs), default=0.0)


def _difference(a: Any, b: Any) -> float:
    if isinstance(a, float) and isinstance(b, float):
        return float(np.nan_to_num(abs(a - b), nan=1.0))
    if isinstance(a, Mapping):
        return max((_difference(a[name], b[name]) for name in a), default=0.0)
    if isinstance(a, list) and len(a) == len(b):
        return max(map(_difference, a, b), default=0.0)
    return 0.0 if a == b else 1.0


_MEASURES: Mapping[str, Callable[[pa.Table, pa.Table], Figures]] = {
    "feature-extraction": _embeddings,
    "text-classification": _labels,
    "zero-shot-classification": _labels,
    "rerank": _documents,
    "token-classification": _entities,
    "question-answering": _answers,
    "fill-mask": _candidates,
    "translation": _texts,
    "summarization": _texts,
    "text2text-generation": _texts,
    "text-generation": _texts,
}
