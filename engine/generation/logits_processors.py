"""Functions that weaken, ban or force tokens: transformers' logits processors.

A processor changes scores, float32 (rows, vocabulary), in place. What it does to a row depends on
that row alone, as if it were decoded by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from engine.bundle.format import GenerationConfig
from engine.core.types import Ints

Scores = NDArray[np.float32]
FILLER = -1
"""Stands for no token in ids of rows of different lengths; no processor ever matches it."""


@dataclass(frozen=True, slots=True)
class TokenHistory:
    """What processors look at.

    Attributes:
        ids: The prompt or the start token, then what was generated; int64 (rows, length), FILLER
            left of shorter rows.
        source: What the encoder read, or the prompt; int64 (rows, length), FILLER where padded.
        prompts: Tokens of each row before the first generated one, int64 (rows,).
        generated: Tokens that each row has generated, int64 (rows,).
        limits, minima: Tokens that each row may and must generate, int64 (rows,).
    """

    ids: Ints
    source: Ints
    prompts: Ints
    generated: Ints
    limits: Ints
    minima: Ints


LogitsProcessor = Callable[[Scores, TokenHistory], None]


def logits_processors(
    config: GenerationConfig, end_ids: Sequence[int], *, minimum: bool
) -> tuple[LogitsProcessor, ...]:
    """Those that `config` asks for, in the order in which transformers applies them.

    Args:
        minimum: Whether any row must generate tokens before its end token is allowed.
    """
    first, last = config.forced_bos_id, config.forced_eos_id
    table = (
        (config.repetition_penalty != 1, _repetition_penalty(config.repetition_penalty)),
        (config.no_repeat_ngram_size > 0, _no_repeat_ngram(config.no_repeat_ngram_size)),
        (
            config.encoder_no_repeat_ngram_size > 0,
            _encoder_no_repeat_ngram(config.encoder_no_repeat_ngram_size),
        ),
        (bool(config.bad_words_ids), _no_bad_words(config.bad_words_ids, end_ids)),
        (minimum, _min_new_tokens(end_ids)),
        (first >= 0, _forced_bos(first)),
        (last >= 0, _forced_eos(last)),
        (bool(config.suppress_ids), _suppress(config.suppress_ids)),
        (
            bool(config.begin_suppress_ids),
            _begin_suppress(config.begin_suppress_ids, forced=first >= 0),
        ),
    )
    return tuple(processor for wanted, processor in table if wanted)


def only_lower(config: GenerationConfig) -> bool:
    """Whether the processors make no token likelier, but for one that they force."""
    return config.repetition_penalty >= 1


def forced(config: GenerationConfig, history: TokenHistory) -> NDArray[np.bool_]:
    """Rows whose next token is settled whatever their scores are; bool (rows,)."""
    first = (config.forced_bos_id >= 0) & _second(history)
    return np.asarray(first | ((config.forced_eos_id >= 0) & _last(history)))


def _second(history: TokenHistory) -> NDArray[np.bool_]:
    """To transformers the first token is the one behind a single token, be that the decoder's start
    or a prompt."""
    return np.asarray(history.prompts + history.generated == 1)


def _last(history: TokenHistory) -> NDArray[np.bool_]:
    return np.asarray(history.generated == history.limits - 1)


def _repetition_penalty(penalty: float) -> LogitsProcessor:
    def apply(scores: Scores, history: TokenHistory) -> None:
        rows, positions = np.nonzero(history.ids != FILLER)
        index = rows, history.ids[rows, positions]
        before = scores[index]
        scores[index] = np.where(before < 0, before * penalty, before / penalty)

    return apply


def _no_repeat_ngram(size: int) -> LogitsProcessor:
    return lambda scores, history: _ban_ngrams(scores, history.ids, history.ids, size)


def _encoder_no_repeat_ngram(size: int) -> LogitsProcessor:
    return lambda scores, history: _ban_ngrams(scores, history.ids, history.source, size)


def _ban_ngrams(scores: Scores, ids: Ints, within: Ints, size: int) -> None:
    """Ban tokens that would complete, behind the last ones of `ids`, an n-gram of `within`."""
    start = ids.shape[1] + 1 - size
    if start < 0 or within.shape[1] < size:
        return
    grams = sliding_window_view(within, size, axis=1)
    last = ids[:, start:]
    same = (grams[..., :-1] == last[:, None]).all(axis=-1) & (grams[..., -1] != FILLER)
    rows, positions = np.nonzero(same & (last != FILLER).all(axis=1, keepdims=True))
    scores[rows, grams[rows, positions, -1]] = -np.inf


def _no_bad_words(words: Sequence[Sequence[int]], end_ids: Sequence[int]) -> LogitsProcessor:
    banned = [word for word in words if not (len(word) == 1 and word[0] in end_ids)]
    sizes = sorted({len(word) for word in banned})
    by_size = [np.array([word for word in banned if len(word) == size]) for size in sizes]

    def apply(scores: Scores, history: TokenHistory) -> None:
        width = history.ids.shape[1]
        for some in by_size:
            start = width + 1 - (size := some.shape[1])
            # transformers also allows a banned sequence that would equal all tokens so far.
            long_enough = (history.prompts + history.generated >= size)[:, None]
            if not long_enough.any():
                continue
            same = (history.ids[:, None, start:] == some[:, :-1]).all(axis=-1) & long_enough
            rows, which = np.nonzero(same)
            scores[rows, some[which, -1]] = -np.inf

    return apply


def _min_new_tokens(end_ids: Sequence[int]) -> LogitsProcessor:
    def apply(scores: Scores, history: TokenHistory) -> None:
        early = np.flatnonzero(history.generated < history.minima)
        scores[np.ix_(early, _known(end_ids, scores))] = -np.inf

    return apply


def _forced_bos(token: int) -> LogitsProcessor:
    def apply(scores: Scores, history: TokenHistory) -> None:
        _force(scores, _second(history), token)

    return apply


def _forced_eos(token: int) -> LogitsProcessor:
    def apply(scores: Scores, history: TokenHistory) -> None:
        _force(scores, _last(history), token)

    return apply


def _force(scores: Scores, rows: NDArray[np.bool_], token: int) -> None:
    scores[rows] = -np.inf
    scores[rows, token] = 0


def _suppress(ids: Sequence[int]) -> LogitsProcessor:
    def apply(scores: Scores, history: TokenHistory) -> None:
        scores[:, _known(ids, scores)] = -np.inf

    return apply


def _begin_suppress(ids: Sequence[int], *, forced: bool) -> LogitsProcessor:
    def apply(scores: Scores, history: TokenHistory) -> None:
        # Where the first token is forced, the first free one is the second.
        free = np.where((history.prompts == 1) & forced, 1, 0)
        rows = np.flatnonzero(free == history.generated)
        scores[np.ix_(rows, _known(ids, scores))] = -np.inf

    return apply


def _known(ids: Sequence[int], scores: Scores) -> Ints:
    """Without ids outside the vocabulary, which transformers ignores as well."""
    tokens = np.asarray(ids, np.int64)
    return np.asarray(tokens[(tokens >= 0) & (tokens < scores.shape[1])])


def log_softmax(logits: Scores) -> Scores:
    """In the order of torch's operations."""
    # Where every token is banned, all are as likely as none.
    with np.errstate(invalid="ignore"):
        scores = logits - logits.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return np.asarray(scores)
