"""Rules that weaken, ban or force tokens: transformers' logits processors, one function each.

A rule changes scores float32 (rows, vocabulary) in place. What it does to a row depends on that row
alone, as if it were decoded by itself.
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
"""Stands for no token in ids of rows of different lengths; no rule ever matches it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What rules look at.

    Attributes:
        ids: The prompt or the start token, then what was generated; int64 (rows, length), FILLER
            left of shorter rows.
        source: What the encoder read, or the prompt; int64 (rows, length), FILLER where padded.
        prompts: Tokens of each row before the first generated one, int64 (rows,).
        generated: Tokens of each row behind it, int64 (rows,).
    """

    ids: Ints
    source: Ints
    prompts: Ints
    generated: Ints


LogitsProcessor = Callable[[Scores, Seen], None]


def rules(
    search: GenerationConfig, end_ids: Sequence[int], max_new_tokens: int
) -> tuple[LogitsProcessor, ...]:
    """The rules that `search` asks for, in the order in which transformers applies them."""
    first, last = search.forced_bos_id, search.forced_eos_id
    table = (
        (search.repetition_penalty != 1, _weakened(search.repetition_penalty)),
        (search.no_repeat_ngram_size > 0, _no_own_ngram(search.no_repeat_ngram_size)),
        (
            search.encoder_no_repeat_ngram_size > 0,
            _no_source_ngram(search.encoder_no_repeat_ngram_size),
        ),
        (bool(search.bad_words_ids), _no_bad_words(search.bad_words_ids, end_ids)),
        (search.min_new_tokens > 0, _no_end_before(search.min_new_tokens, end_ids)),
        (first >= 0, _forced_first(first)),
        (last >= 0, _forced_last(last, max_new_tokens)),
        (bool(search.suppress_ids), _suppressed(search.suppress_ids)),
        (
            bool(search.begin_suppress_ids),
            _suppressed_first(search.begin_suppress_ids, forced=first >= 0),
        ),
    )
    return tuple(rule for wanted, rule in table if wanted)


def _weakened(penalty: float) -> LogitsProcessor:
    def apply(scores: Scores, seen: Seen) -> None:
        rows, places = np.nonzero(seen.ids != FILLER)
        found = rows, seen.ids[rows, places]
        own = scores[found]
        scores[found] = np.where(own < 0, own * penalty, own / penalty)

    return apply


def _no_own_ngram(size: int) -> LogitsProcessor:
    return lambda scores, seen: _ban_ngrams(scores, seen.ids, seen.ids, size)


def _no_source_ngram(size: int) -> LogitsProcessor:
    return lambda scores, seen: _ban_ngrams(scores, seen.ids, seen.source, size)


def _ban_ngrams(scores: Scores, ids: Ints, within: Ints, size: int) -> None:
    """Ban what would make of the last tokens of `ids` an n-gram that `within` has."""
    start = ids.shape[1] + 1 - size
    if start < 0 or within.shape[1] < size:
        return
    grams = sliding_window_view(within, size, axis=1)
    last = ids[:, start:]
    same = (grams[..., :-1] == last[:, None]).all(axis=-1) & (grams[..., -1] != FILLER)
    rows, places = np.nonzero(same & (last != FILLER).all(axis=1, keepdims=True))
    scores[rows, grams[rows, places, -1]] = -np.inf


def _no_bad_words(words: Sequence[Sequence[int]], end_ids: Sequence[int]) -> LogitsProcessor:
    kept = [word for word in words if not (len(word) == 1 and word[0] in end_ids)]
    sizes = sorted({len(word) for word in kept})
    groups = [np.array([word for word in kept if len(word) == size]) for size in sizes]

    def apply(scores: Scores, seen: Seen) -> None:
        width = seen.ids.shape[1]
        for group in groups:
            start = width + 1 - (size := group.shape[1])
            # A word that the next token would make of all tokens so far is let pass there too.
            long_enough = (seen.prompts + seen.generated >= size)[:, None]
            if not long_enough.any():
                continue
            same = (seen.ids[:, None, start:] == group[:, :-1]).all(axis=-1) & long_enough
            rows, which = np.nonzero(same)
            scores[rows, group[which, -1]] = -np.inf

    return apply


def _no_end_before(least: int, end_ids: Sequence[int]) -> LogitsProcessor:
    def apply(scores: Scores, seen: Seen) -> None:
        early = np.flatnonzero(seen.generated < least)
        scores[np.ix_(early, _known(end_ids, scores))] = -np.inf

    return apply


def _forced_first(token: int) -> LogitsProcessor:
    def apply(scores: Scores, seen: Seen) -> None:
        # There the first token is the one behind a single token, whether that is the decoder's
        # start or a prompt.
        _force(scores, seen.prompts + seen.generated == 1, token)

    return apply


def _forced_last(token: int, max_new_tokens: int) -> LogitsProcessor:
    def apply(scores: Scores, seen: Seen) -> None:
        _force(scores, seen.generated == max_new_tokens - 1, token)

    return apply


def _force(scores: Scores, rows: NDArray[np.bool_], token: int) -> None:
    scores[rows] = -np.inf
    scores[rows, token] = 0


def _suppressed(ids: Sequence[int]) -> LogitsProcessor:
    def apply(scores: Scores, seen: Seen) -> None:
        scores[:, _known(ids, scores)] = -np.inf

    return apply


def _suppressed_first(ids: Sequence[int], *, forced: bool) -> LogitsProcessor:
    def apply(scores: Scores, seen: Seen) -> None:
        # Where the first token is forced, the first free one is the second.
        free = np.where((seen.prompts == 1) & forced, 1, 0)
        rows = np.flatnonzero(free == seen.generated)
        scores[np.ix_(rows, _known(ids, scores))] = -np.inf

    return apply


def _known(ids: Sequence[int], scores: Scores) -> Ints:
    """Without those that the model has no score for, which transformers ignores here as well."""
    given = np.asarray(ids, np.int64)
    return np.asarray(given[(given >= 0) & (given < scores.shape[1])])
