"""How far one bundle's answers are from another's, task by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.generation import StepTrace

Figures = dict[str, float]
# A step at which fp32 prefers its token by as many logits, and a row whose best score is as far
# ahead of the second, are no matter of taste.
SURE, LEAD = 1.0, 0.1
_ORDER, _BETA = 6, 2.0


def compared(task: str, plain: pa.Table, made: pa.Table) -> Figures:
    """What the answers' figures are; `plain` are fp32's."""
    return _MEASURES[task](plain, made)


def _embeddings(plain: pa.Table, made: pa.Table) -> Figures:
    cosines = _cosine(_matrix(plain["embedding"]), _matrix(made["embedding"]))
    return {"mean cosine": float(cosines.mean()), "worst cosine": float(cosines.min())}


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(np.stack(column.to_numpy()), np.float64)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # What is no number is no answer.
    return np.asarray(np.nan_to_num((a * b).sum(axis=1) / np.maximum(size, 1e-30)))


def _labels(plain: pa.Table, made: pa.Table) -> Figures:
    """Labels in the order of their scores."""
    ours, theirs = (_pairs(t["labels"], t["scores"]) for t in (plain, made))
    return _agreement(ours, theirs, "label")


def _candidates(plain: pa.Table, made: pa.Table) -> Figures:
    """fill-mask: the tokens of each text's one mask in the order of their scores; none where it
    was cut off."""
    rows = (t["candidates"].to_pylist() for t in (plain, made))
    ours, theirs = (
        [([c["token"] for c in row], [c["score"] for c in row]) for row in found] for found in rows
    )
    return _agreement(ours, theirs, "token")


def _pairs(names: pa.ChunkedArray, scores: pa.ChunkedArray) -> list[tuple[Any, Any]]:
    return list(zip(names.to_pylist(), scores.to_pylist(), strict=True))


_Ranked = Sequence[tuple[Sequence[Any], Sequence[float]]]


def _agreement(plain: _Ranked, made: _Ranked, what: str) -> Figures:
    """Of rows of names and scores, best first: do the best agree, and how far are the scores?"""
    same = np.array([a[0][:1] == b[0][:1] for a, b in zip(plain, made, strict=True)])
    shift = np.array([_shift(a, b) for a, b in zip(plain, made, strict=True)])
    # What is no probability is measured by how large it gets.
    shift = shift / max([1.0, *(abs(scores[0]) for _, scores in plain if scores)])
    leads = np.array([scores[0] - scores[1] if len(scores) > 1 else 1.0 for _, scores in plain])
    figures = {f"same {what}": float(same.mean()), "mean score shift": float(shift.mean())}
    if (sure := leads > LEAD).any():
        figures[f"same {what} where fp32 is sure"] = float(same[sure].mean())
    return figures


def _shift(plain: tuple[Sequence[Any], Sequence[float]], made: Any) -> float:
    """How far the score of fp32's best is from what it is now; what is no number is far off."""
    if not plain[0]:
        return 0.0
    name, score = plain[0][0], plain[1][0]
    now = dict(zip(*made, strict=True)).get(name, 0.0)
    return float(np.nan_to_num(abs(score - now), nan=1.0))


def _answers(plain: pa.Table, made: pa.Table) -> Figures:
    found = (_pairs(t["answer"], t["score"]) for t in (plain, made))
    ours, theirs = ([([answer], [score]) for answer, score in rows] for rows in found)
    return _agreement(ours, theirs, "span")


def _entities(plain: pa.Table, made: pa.Table) -> Figures:
    """F1 of the spans with their groups, and how far the scores of those found by both differ."""
    ours, theirs = (_spans(table) for table in (plain, made))
    both = ours.keys() & theirs.keys()
    shift = [abs(ours[span] - theirs[span]) for span in both]
    f1 = 2 * len(both) / max(1, len(ours) + len(theirs)) if ours or theirs else 1.0
    return {"same span": f1, "mean score shift": float(np.mean(shift)) if shift else 0.0}


def _spans(table: pa.Table) -> dict[tuple[Any, ...], float]:
    return {
        (row, e["start"], e["end"], e.get("entity_group", e.get("entity"))): e["score"]
        for row, entities in enumerate(table["entities"].to_pylist())
        for e in entities
    }


def _texts(plain: pa.Table, made: pa.Table) -> Figures:
    ours, theirs = (table[_text_column(table)].to_pylist() for table in (plain, made))
    same = np.mean([a == b for a, b in zip(ours, theirs, strict=True)])
    return {"same answer": float(same), "chrF": chrf(ours, theirs)}


def _text_column(table: pa.Table) -> str:
    return str(next(name for name in table.column_names if name.endswith("_text")))


def chrf(references: Sequence[str], answers: Sequence[str]) -> float:
    """chrF2 over a corpus, 0 to 100: F-score of character n-grams up to 6, spaces left out.

    M. Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015.
    """
    found = np.zeros((_ORDER, 3))
    for reference, answer in zip(references, answers, strict=True):
        for n in range(_ORDER):
            a, b = (_grams("".join(text.split()), n + 1) for text in (reference, answer))
            # An answer's n-grams only count where the reference has some, as in sacrebleu.
            found[n] += ((a & b).total(), a.total(), b.total() if a else 0)
    both, wanted, made = found[(found[:, 1:] > 0).all(axis=1)].T
    if not len(both):
        return 100.0 if list(references) == list(answers) else 0.0
    precision, recall = (both / made).mean(), (both / wanted).mean()
    if not precision + recall:
        return 0.0
    weight = _BETA**2
    return float(100 * (1 + weight) * precision * recall / (weight * precision + recall))


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def forced(plain: StepTrace, made: StepTrace) -> Figures:
    """How often the top token is fp32's, where fp32's own answers are fed to both."""
    steps = np.arange(plain.tokens.shape[1]) < plain.lengths[:, None]
    same = (plain.tokens == made.tokens)[steps]
    sure = plain.margins[steps] > SURE
    figures = {"same top token": float(same.mean())}
    if sure.any():
        figures["same top token where fp32 is sure"] = float(same[sure].mean())
    return figures


def apart(together: pa.Table, alone: pa.Table) -> float:
    """How much answers differ that a row gets among others and by itself.

    Returns:
        The largest absolute difference of a number in them; 1 at least where a text differs.
    """
    pairs = zip(together.to_pylist(), alone.to_pylist(), strict=True)
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
    "token-classification": _entities,
    "question-answering": _answers,
    "fill-mask": _candidates,
    "translation": _texts,
    "summarization": _texts,
    "text2text-generation": _texts,
    "text-generation": _texts,
}


@dataclass(frozen=True)
class Limit:
    """What a figure has to be.

    Attributes:
        name: Of the figure.
        value: Of the limit.
        most: Whether the figure may be `value` at most; else it must be at least that.
    """

    name: str
    value: float
    most: bool = False

    def holds(self, figure: float) -> bool:
        """Written so that a NaN does not."""
        return figure <= self.value if self.most else figure >= self.value
