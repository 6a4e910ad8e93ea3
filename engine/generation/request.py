"""What is decoded and under which settings, shared by all search strategies; and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.token_limit import TokenLimit
from engine.core.types import Flags, Ints, Ragged
from engine.generation.logits_processors import (
    FILLER,
    LogitsProcessor,
    Scores,
    TokenHistory,
    forced,
    logits_processors,
    only_lower,
)


@dataclass(frozen=True)
class Request:
    """The rows to decode.

    Attributes:
        decoder: Of the bundle.
        config: Of the run.
        processors: The logits processors that `config` asks for.
        prompt: What the decoder starts from: the start token or the prompt, int64 (rows, length),
            FILLER left of shorter rows.
        source: What the encoder reads, or the prompt; int64 (rows, length), FILLER where padded.
        limits: Tokens that each row may generate, int64 (rows,).
        minima: Tokens of each row before the end token is allowed, int64 (rows,).
        scored: Whether scores and log-probabilities are wanted.
    """

    decoder: DecoderConfig
    config: GenerationConfig
    processors: tuple[LogitsProcessor, ...]
    prompt: Ints
    source: Ints
    limits: Ints
    minima: Ints
    scored: bool = False

    @classmethod
    def of(
        cls,
        feeds: Mapping[str, Ints],
        decoder: DecoderConfig,
        config: GenerationConfig,
        max_new_tokens: int | Ints,
        *,
        scored: bool = False,
    ) -> Request:
        """Of rows as `generate` takes them."""
        mask = feeds["attention_mask"]
        if decoder.causal:
            source = prompt = left_padded(feeds["input_ids"], mask)
        else:
            source = np.where(mask == 1, feeds["input_ids"], FILLER)
            prompt = np.full((len(source), 1), decoder.start_id, np.int64)
        rows = len(source)
        limits = np.broadcast_to(np.asarray(max_new_tokens, np.int64), (rows,))
        least = TokenLimit.of(config.min_new_tokens, name="min_new_tokens", least=0)
        minima = least.of_rows(mask.sum(axis=1))
        processors = logits_processors(config, decoder.end_ids, minimum=bool(minima.any()))
        return cls(decoder, config, processors, prompt, source, limits, minima, scored)

    @property
    def most(self) -> int:
        """Tokens that any row may generate at most."""
        return int(self.limits.max(initial=1))

    @property
    def positions(self) -> int:
        """Positions that a row may fill: its last token is never fed."""
        prompts = (self.prompt != FILLER).sum(axis=1)
        return int((prompts + self.limits).max(initial=1)) - 1

    @property
    def picks(self) -> int:
        """How many of a step's likeliest tokens the search looks at; 1 where it reads all logits
        instead. Beams look at twice as many where logits processors may ban some."""
        if self.reads_logits:
            return 1
        if self.config.num_beams > 1:
            wanted = self.candidates * (2 if self.processors else 1)
            return min(wanted, self.decoder.vocabulary)
        if self.config.do_sample and self.config.top_k:
            return min(self.config.top_k, self.decoder.vocabulary)
        return 1

    @property
    def reads_logits(self) -> bool:
        """Whether the search looks at the logits of all tokens in every step."""
        if self.config.num_beams > 1:
            return bool(self.processors) and not only_lower(self.config)
        sampled = self.config.do_sample and not self.config.top_k
        return bool(self.processors) or sampled

    @property
    def candidates(self) -> int:
        """Of a step of beam search: enough for `num_beams` of them not to end the row."""
        return max(2, 1 + len(self.decoder.end_ids)) * self.config.num_beams

    def process(self, scores: Scores, rows: Ints, ids: Ints, lengths: Ints) -> Flags:
        """Let the logits processors change scores, float32 (n, vocabulary), in place.

        Args:
            rows: The row that each of them belongs to, int64 (n,).
            ids, lengths: What was generated, int64 (n, most), and how much of it, (n,).

        Returns:
            Of which all scores are what they are whatever they were, bool (n,).
        """
        prompts = (self.prompt[rows] != FILLER).sum(axis=1)
        history = TokenHistory(
            ids=self.history(rows, ids, lengths),
            source=self.source[rows],
            prompts=prompts,
            generated=lengths,
            limits=self.limits[rows],
            minima=self.minima[rows],
        )
        for processor in self.processors:
            processor(scores, history)
        return forced(self.config, history)

    def history(self, rows: Ints, ids: Ints, lengths: Ints) -> Ints:
        """Prompt and generated tokens of each row, ending together: int64 (n, length), FILLER left
        of shorter ones. Arguments as those of `process`."""
        prompt = self.prompt[rows]
        tokens = np.concatenate([prompt, ids], axis=1)
        width = prompt.shape[1] + int(lengths.max(initial=0))
        position = np.arange(width) - width + prompt.shape[1] + lengths[:, None]
        aligned = np.take_along_axis(tokens, np.maximum(position, 0), axis=1)
        return np.where(position >= 0, aligned, FILLER)


def tails(history: Ints, length: int) -> Ragged:
    """The last `length` tokens of each row of a `Request.history`."""
    last = history[:, -length:]
    real = last != FILLER
    return Ragged.of(last[real], real.sum(axis=1))


@dataclass(frozen=True)
class DecodedRows:
    """The answer, filled in as rows are decoded: one or more sequences a row, one row after the
    other. (`rows` below counts sequences.)

    Attributes:
        ids: Generated tokens, the end token included, then padding; int64 (rows, most).
        lengths: How many each row has, int64 (rows,).
        ended: Which rows ended before the limit cut them off, bool (rows,).
        logprobs: The log-probability of each token, float32 (rows, most); no columns where scores
            are not wanted.
        scores: Of each row, float32 (rows,).
    """

    ids: Ints
    lengths: Ints
    ended: NDArray[np.bool_]
    logprobs: Scores
    scores: Scores

    @classmethod
    def empty(cls, request: Request, sequences: int = 1) -> DecodedRows:
        """Of a request whose rows have as many `sequences` each."""
        rows, most = len(request.prompt) * sequences, request.most
        return cls(
            ids=np.full((rows, most), request.decoder.pad_id, np.int64),
            lengths=np.zeros(rows, np.int64),
            ended=np.zeros(rows, np.bool_),
            logprobs=np.zeros((rows, most if request.scored else 0), np.float32),
            scores=np.zeros(rows, np.float32),
        )

    @property
    def tokens(self) -> Ragged:
        return Ragged.of_padded(self.ids, self.lengths)

    def add_up(self, length_penalty: float) -> None:
        """Score rows as beam search does: the sum of the log-probabilities, divided by the number
        of tokens to the power of `length_penalty`."""
        real = np.arange(self.logprobs.shape[1]) < self.lengths[:, None]
        sums = np.where(real, self.logprobs, 0).sum(axis=1, dtype=np.float64)
        self.scores[:] = sums / np.maximum(self.lengths, 1) ** float(length_penalty)

    def mark_ended(self, rows: Ints, end_ids: tuple[int, ...]) -> None:
        """Note which of these rows, now finished, have an end token as their last."""
        lengths = self.lengths[rows]
        last = self.ids[rows, np.maximum(lengths - 1, 0)]
        # np.isin takes twenty times as long for so few.
        ends = np.array(end_ids, np.int64)[:, None]
        self.ended[rows] = (lengths > 0) & (last == ends).any(axis=0)


def left_padded(ids: Ints, mask: Ints) -> Ints:
    """Rows padded on the right as rows that end together, FILLER on their left and no wider than
    the longest; int64 (rows, length)."""
    lengths = mask.sum(axis=1)
    width = int(lengths.max(initial=0))
    position = np.arange(width) - (width - lengths)[:, None]
    aligned = np.take_along_axis(ids, np.maximum(position, 0), axis=1)
    return np.where(position >= 0, aligned, FILLER)
