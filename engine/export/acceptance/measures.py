"""How far outputs, and a bundle's answers to a task, are from those they are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.generation import StepTrace

Figures = dict[str, float]
# Margins (in logits of a step, in score of a row) above which a changed answer counts as an error
# rather than a near-tie.
SURE_LOGITS, SURE_SCORE = 1.0, 0.1
_ORDER, _BETA = 6, 2.0


def relative_error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The norm of the difference over the norm of the expected numbers; NaN where one is NaN."""
    norm = max(float(np.linalg.norm(expected)), 1e-30)
    return float(np.linalg.norm(actual - expected)) / norm


def compare_answers(task: str, expected: pa.Table, actual: pa.Table) -> Figures:
    """The figures of a task's answers, by name; `expected` are fp32's."""
    return _MEASURES[task](expected, actual)


def _embeddings(expected: pa.Table, actual: pa.Table) -> Figures:
    cosines = _cosine(_matrix(expected["embedding"]), _matrix(actual["embedding"]))
    return {"mean cosine": float(cosines.mean()), "worst cosine": float(cosines.min())}


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(np.stack(column.to_numpy()), np.float64)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # NaN counts as orthogonal.
    return np.asarray(np.nan_to_num((a * b).sum(axis=1) / np.maximum(size, 1e-30)))


def _labels(expected: pa.Table, actual: pa.Table) -> Figures:
    """Labels in the order of their scores."""
    rankings = [_pairs(t["labels"], t["scores"]) for t in (expected, actual)]
    return _agreement("label", *rankings)


def _documents(expected: pa.Table, actual: pa.Table) -> Figures:
    """Documents of each query in the order of their scores."""
    rankings = [_pairs(t["order"], t["scores"]) for t in (expected, actual)]
    return _agreement("document", *rankings)


def _candidates(expected: pa.Table, actual: pa.Table) -> Figures:
    """fill-mask: the tokens of each text's one mask in the order of their scores; none where the
    mask was cut off."""
    rankings = [
        [([c["token"] for c in row], [c["score"] for c in row]) for row in rows.to_pylist()]
        for rows in (expected["candidates"], actual["candidates"])
    ]
    return _agreement("token", *rankings)


def _pairs(names: pa.ChunkedArray, scores: pa.ChunkedArray) -> list[tuple[Any, Any]]:
    return list(zip(names.to_pylist(), scores.to_pylist(), strict=True))


_Ranking = tuple[Sequence[Any], Sequence[float]]


def _agreement(what: str, expected: Sequence[_Ranking], actual: Sequence[_Ranking]) -> Figures:
    """Of rows of names and scores, best first: do the best agree, and how far are the scores?"""
    same = np.array([a[0][:1] == b[0][:1] for a, b in zip(expected, actual, strict=True)])
    shift = np.array([_shift(a, b) for a, b in zip(expected, actual, strict=True)])
    # Scores that are no probabilities are measured by how large they get.
    shift = shift / max([1.0, *(abs(scores[0]) for _, scores in expected if scores)])
    leads = np.array([scores[0] - scores[1] if len(scores) > 1 else 1.0 for _, scores in expected])
    figures = {f"same {what}": float(same.mean()), "mean score shift": float(shift.mean())}
    if (sure := leads > SURE_SCORE).any():
        figures[f"same {what} where fp32 is sure"] = float(same[sure].mean())
    return figures


def _shift(expected: _Ranking, actual: _Ranking) -> float:
    """How far the score of fp32's best name moved; 1 where it is NaN now."""
    if not expected[0]:
        return 0.0
    name, score = expected[0][0], expected[1][0]
    now = dict(zip(*actual, strict=True)).get(name, 0.0)
    return float(np.nan_to_num(abs(score - now), nan=1.0))


def _answers(expected: pa.Table, actual: pa.Table) -> Figures:
    rankings = [
        [([answer], [score]) for answer, score in _pairs(t["answer"], t["score"])]
        for t in (expected, actual)
    ]
    return _agreement("span", *rankings)


def _entities(expected: pa.Table, actual: pa.Table) -> Figures:
    """F1 of the spans with their groups, and the mean score shift of the spans in both."""
    wanted, spans = _spans(expected), _spans(actual)
    both = wanted.keys() & spans.keys()
    shift = [abs(wanted[span] - spans[span]) for span in both]
    f1 = 2 * len(both) / (len(wanted) + len(spans)) if wanted or spans else 1.0
    return {"same span": f1, "mean score shift": float(np.mean(shift)) if shift else 0.0}


def _spans(table: pa.Table) -> dict[tuple[Any, ...], float]:
    return {
        (row, e["start"], e["end"], e.get("entity_group", e.get("entity"))): e["score"]
        for row, entities in enumerate(table["entities"].to_pylist())
        for e in entities
    }


def _texts(expected: pa.Table, actual: pa.Table) -> Figures:
    references, answers = (t[_text_column(t)].to_pylist() for t in (expected, actual))
    same = np.mean([a == b for a, b in zip(references, answers, strict=True)])
    return {"same answer": float(same), "chrF": chrf(references, answers)}


def _text_column(table: pa.Table) -> str:
    return str(next(name for name in table.column_names if name.endswith("_text")))


def chrf(references: Sequence[str], answers: Sequence[str]) -> float:
    """chrF2 over a corpus, 0 to 100: F-score of character n-grams up to 6, spaces left out.

    M. Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015.
    """
    counts = np.zeros((_ORDER, 3))
    for reference, answer in zip(references, answers, strict=True):
        for n in range(_ORDER):
            a, b = (_grams("".join(text.split()), n + 1) for text in (reference, answer))
            # An answer's n-grams only count where the reference has some, as in sacrebleu.
            counts[n] += ((a & b).total(), a.total(), b.total() if a else 0)
    shared, in_references, in_answers = counts[(counts[:, 1:] > 0).all(axis=1)].T
    if not len(shared):
        return 100.0 if list(references) == list(answers) else 0.0
    precision, recall = (shared / in_answers).mean(), (shared / in_references).mean()
    if not precision + recall:
        return 0.0
    weight = _BETA**2
    return float(100 * (1 + weight) * precision * recall / (weight * precision + recall))


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


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
