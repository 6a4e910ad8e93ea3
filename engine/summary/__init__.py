"""What came out of a run, by task, as sections of a page: `engine report`.

Rows are read in batches, and what is kept of them grows neither with the rows nor with their texts.
No text of a row is shown unless examples are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import SettingsError
from engine.pages.blocks import Section
from engine.summary.answers import Answers, Batch, open_answers
from engine.summary.embeddings import EmbeddingSummary
from engine.summary.entities import EntitySummary
from engine.summary.examples import Examples
from engine.summary.figures import pairs, share
from engine.summary.generated import GeneratedSummary
from engine.summary.labels import DocumentSummary, LabelSummary
from engine.summary.looks import Summary
from engine.summary.spans import SpanSummary
from engine.summary.tokens import TokenSummary
from engine.summary.truths import PLAIN, TruthSummary, check_type

__all__ = ["summarize"]

SHOWN = 6
"""Kept columns that examples show."""

_SUMMARIES: Mapping[str, Callable[[Answers, str], Summary]] = {
    "labels": lambda answers, _: LabelSummary(are_shown=not _reads_labels(answers)),
    "documents": lambda *_: DocumentSummary(),
    "spans": lambda *_: SpanSummary(),
    "entities": lambda *_: EntitySummary(),
    "tokens": lambda *_: TokenSummary(),
    "texts": lambda answers, _: GeneratedSummary(_source(answers)),
    "embeddings": EmbeddingSummary,
}


def summarize(
    out: str | Path, *, truth: str = "", examples: int = 0, colour: str = ""
) -> list[Section]:
    """What the answers of a run are like.

    Args:
        out: Its folder, its file or its URL; of a run that has not finished, the parts that are
            there.
        truth: A kept column that has what is true.
        examples: How many rows to show of the least sure, the longest, the wrong and the bad ones,
            with their text.
        colour: Of embeddings, a kept column by whose values points are coloured.

    Raises:
        OutputError: No run is there.
        ColumnError: A column is missing, or has no truths.
        SettingsError: The answers are not compared with truths, or are no points.
        InputError: A part is damaged.
    """
    answers = open_answers(out)
    for name, flag in ((truth, "--truth"), (colour, "--colour")):
        if name:
            answers.check(name, flag)
    if colour and answers.kind not in ("", "embeddings"):
        raise SettingsError(
            f"--colour: {answers.kind} are not drawn as points",
            "leave --colour out; it is for embeddings",
        )
    if colour and answers.kind:
        check_type(colour, answers.kept[colour], flag="--colour")
    if not answers.kind:
        return [Section("Answers", (), "No part of the run is there yet.")]
    work = _Work(answers, truth, examples, colour)
    for batch in answers.batches(work.kept):
        work.add(batch)
    return work.sections()


class _Work:
    """What is looked at while rows are read."""

    def __init__(self, answers: Answers, truth: str, examples: int, colour: str) -> None:
        self._answers, self._truth = answers, truth
        self._summary = _SUMMARIES[answers.kind](answers, colour)
        self._truths = TruthSummary(answers.kind, truth, answers.kept[truth]) if truth else None
        self._examples = Examples(examples) if examples else None
        self._rows = self._nulls = 0

    @property
    def kept(self) -> list[str]:
        """The kept columns that are read."""
        shown = [n for n, t in self._answers.kept.items() if _is_plain(t)][:SHOWN]
        truth = [self._truth] if self._truth else []
        named = [*(shown if self._examples else []), *truth, *self._summary.reads]
        return list(dict.fromkeys(named))

    def add(self, batch: Batch) -> None:
        """Look at rows."""
        self._rows += len(batch.results)
        is_valid = pc.is_valid(batch.results[0])
        answered = pc.sum(is_valid).as_py() or 0
        self._nulls += len(is_valid) - answered
        if answered:
            self._look(batch, is_valid if answered < len(is_valid) else None)

    def _look(self, batch: Batch, answered: pa.ChunkedArray | None) -> None:
        if answered is not None:
            batch = batch.filtered(answered)
        look = self._summary.add(batch)
        verdicts = None
        if self._truths:
            truths = batch.kept[self._truth]
            verdicts = self._truths.add(truths, batch.results[0], look.sureness)
        if self._examples:
            self._examples.add(batch, look, verdicts)

    def sections(self) -> list[Section]:
        """All that was seen."""
        facts = pairs({"rows": self._rows, "null answers": share(self._nulls, self._rows)})
        note = "" if self._answers.is_finished else "The run has not finished: of the parts so far."
        own = [Section("Answers", [facts], note)]
        if self._rows > self._nulls:
            own += self._summary.sections()
            own += self._truths.sections() if self._truths else []
        return own + (self._examples.sections(self._answers) if self._examples else [])


def _reads_labels(answers: Answers) -> bool:
    """Whether labels are of a column of the input, as zero-shot classification may have them."""
    return any(column["holds"] == "texts" for column in answers.inputs)


def _source(answers: Answers) -> str:
    """The kept column of the texts that were read; "" where none was kept or is plain text."""
    name = str(answers.inputs[0]["name"]) if answers.inputs else ""
    kind = answers.kept.get(name, pa.null())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return name if is_text else ""


def _is_plain(kind: pa.DataType) -> bool:
    return any(of(kind) for of in PLAIN)
