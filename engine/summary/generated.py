"""Generated texts: how long, how they end, how much they repeat, and how much shorter they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.measures.categories import Categories
from engine.measures.rankings import is_list
from engine.measures.repetition import ORDER, repeated_shares
from engine.pages.blocks import Block, Section
from engine.summary.answers import Batch
from engine.summary.figures import Spread, bars, pairs, share, spread_table
from engine.summary.labels import PROBABILITY
from engine.summary.looks import Floats, Look

LOOPING = 0.5
"""A text that repeats more than this share of its 4-grams goes round in circles."""


class GeneratedSummary:
    """Texts, one a row or several, with what the task says of them.

    Args:
        source: The kept column that has the text from which each was made, "" for none.
    """

    def __init__(self, source: str) -> None:
        self.reads = (source,) if source else ()
        self._tokens = Spread(is_whole=True, unit="tokens")
        self._words = Spread(is_whole=True, unit="words")
        self._characters = Spread(is_whole=True, unit="characters")
        self._scores, self._repeated = Spread(), Spread()
        self._ratio, self._shortened = Spread(), Spread()
        self._reasons = Categories()
        self._texts = self._empty = self._looping = 0

    def add(self, batch: Batch) -> Look:
        answers = batch.results
        flat = {name: _flat(answers[name]) for name in answers.column_names}
        texts = next(iter(flat.values())).cast(pa.large_string())
        self._add_texts(texts.drop_null())
        tokens = _numbers(flat["output_tokens"])
        self._tokens.add(tokens)
        self._reasons.add(flat["finish_reason"].drop_null())
        rows = len(answers)
        count = len(texts) // rows if rows else 1
        scores = _numbers(flat["score"]) if "score" in flat else np.full(len(texts), np.nan)
        self._scores.add(scores)
        most = tokens.reshape(rows, count).max(axis=1)
        if "prompt_tokens" in flat:
            prompts = np.repeat(_numbers(flat["prompt_tokens"]), count)
            self._ratio.add(_ratio(tokens, prompts))
        for name in self.reads:
            read = _numbers(pc.utf8_length(batch.kept[name].cast(pa.large_string())))
            self._shortened.add(_ratio(_numbers(pc.utf8_length(texts)), np.repeat(read, count)))
        return Look(scores.reshape(rows, count).max(axis=1), most, "tokens" * (count > 1))

    def _add_texts(self, texts: pa.LargeStringArray) -> None:
        shares, words = repeated_shares(texts)
        self._repeated.add(shares)
        self._looping += int((shares > LOOPING).sum())
        self._texts += len(texts)
        self._empty += int((words == 0).sum())
        self._words.add(words.astype(np.float64))
        self._characters.add(_numbers(pc.utf8_length(texts)))

    def sections(self) -> list[Section]:
        lengths = {
            "tokens": self._tokens,
            "words": self._words,
            "characters": self._characters,
            "tokens for each token of the prompt": self._ratio,
            "characters for each of the input": self._shortened,
        }
        blocks: list[Block] = [
            self._tokens.histogram("Tokens of each text."),
            spread_table(lengths),
        ]
        empty = pairs({"texts": self._texts, "empty ones": share(self._empty, self._texts)})
        reasons = bars(self._reasons, "Texts of each finish_reason.", "texts")
        note = "stop: the text ended by itself; length: it was cut at the largest number of tokens."
        return [
            Section("Output lengths", [*blocks, empty]),
            Section("How texts end", [reasons], note),
            self._repetition(),
            *self._score_section(),
        ]

    def _repetition(self) -> Section:
        looping = {f"texts that repeat over {LOOPING:.0%}": share(self._looping, self._texts)}
        note = (
            f"The share of a text's {ORDER}-grams of words that it has had before (seq-rep-{ORDER})"
            f"; texts of fewer than {ORDER} words have none."
        )
        blocks: list[Block] = [
            self._repeated.histogram("Repeated share of each text.", PROBABILITY),
            spread_table({"repeated share": self._repeated}),
            pairs(looping),
        ]
        return Section("Repetition", blocks, note)

    def _score_section(self) -> list[Section]:
        if not self._scores.count:
            return []
        histogram = self._scores.histogram("Scores of texts.")
        return [Section("Scores", [histogram, spread_table({"score": self._scores})])]


def _ratio(written: Floats, read: Floats) -> Floats:
    """How much was written for how much was read, where anything was."""
    return np.asarray(written[read > 0] / read[read > 0])


def _flat(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.flatten() if is_list(whole.type) else whole


def _numbers(column: pa.Array | pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
