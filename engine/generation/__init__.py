"""Decoding: what turns a step graph into sequences. Sees only the Backend protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Generation, Search
from engine.flow import Backend, Ints, Ragged
from engine.generation.beam import beam_search
from engine.generation.decoder import FILLER, open_decoder
from engine.generation.greedy import Stop, greedy_search
from engine.generation.job import Job, left_padded
from engine.generation.rules import rules

__all__ = ["generate"]


def never() -> bool:
    return False


def generate(
    backend: Backend,
    feeds: Mapping[str, Ints],
    settings: Generation,
    search: Search,
    *,
    max_new_tokens: int,
    stop: Stop | None = None,
    tail: int = 64,
    stopped: Callable[[], bool] = never,
) -> tuple[Ragged, NDArray[np.bool_]]:
    """The tokens that transformers' generate() gives for every row in a batch of its own.

    Args:
        backend: Holds the graph `decoder`, and `encoder` unless the model is causal (see
            `bundle.GRAPHS`).
        feeds: input_ids and attention_mask, int64 (rows, length), padded on the right; at least
            one real token a row.
        settings: Start, end and cache shape.
        search: How tokens are chosen; greedy where num_beams is 1.
        max_new_tokens: Tokens a row may generate, its end token included.
        stop: Ends rows by what they say. Called after each step with the last tokens of every row
            that still runs, the prompt or start token among them; answers which of these rows end
            here, bool. Greedy decoding only: beam search does not ask it.
        tail: Tokens of a row that `stop` is shown at most.
        stopped: Asked before every step; True abandons the batch.

    Returns:
        Generated ids, int64, the end token included, start token and prompt not; and whether each
        row ended before the limit cut it off, bool (rows,).

    Raises:
        Stopped: `stopped` said so.
    """
    mask = feeds["attention_mask"]
    source = np.where(mask == 1, feeds["input_ids"], FILLER)
    if settings.causal:
        source = prompt = left_padded(feeds["input_ids"], mask)
    else:
        prompt = np.full((len(source), 1), settings.start_id, np.int64)
    job = Job(
        decoder=open_decoder(backend, feeds, settings),
        settings=settings,
        search=search,
        rules=rules(search, settings.end_ids, max_new_tokens),
        prompt=prompt,
        source=source,
        max_new_tokens=max_new_tokens,
        stopped=stopped,
    )
    return beam_search(job) if search.num_beams > 1 else greedy_search(job, stop, tail)
