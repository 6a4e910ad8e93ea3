"""Decoding: what turns a step graph into sequences. Sees only the Backend protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Generation, Search
from engine.flow import Backend, Ints, Ragged
from engine.generation import loop
from engine.generation.beam import BeamSearch
from engine.generation.greedy import Greedy, Stop
from engine.generation.growing import Growing
from engine.generation.job import Job, left_padded
from engine.generation.loop import Cache, Occupancy
from engine.generation.rules import FILLER, rules
from engine.generation.slots import Slots, capacity

__all__ = ["Occupancy", "capacity", "generate"]

# Batches of the encoder that are decoded together where rows can not come and go one by one.
TOGETHER = 8


def never() -> bool:
    return False


def generate(
    backend: Backend,
    feeds: Mapping[str, Ints],
    settings: Generation,
    search: Search,
    *,
    max_new_tokens: int,
    batch_tokens: int = 1024,
    stop: Stop | None = None,
    tail: int = 64,
    stopped: Callable[[], bool] = never,
    counted: Occupancy | None = None,
) -> tuple[Ragged, NDArray[np.bool_]]:
    """The tokens that transformers' generate() gives for every row in a batch of its own.

    Args:
        backend: Holds the graph `step` or `decoder`, and `encoder` unless the model is causal (see
            `bundle.GRAPHS`).
        feeds: input_ids and attention_mask, int64 (rows, length), padded on the right; at least
            one real token a row.
        settings: Start, end and cache shape.
        search: How tokens are chosen; greedy where num_beams is 1.
        max_new_tokens: Tokens a row may generate, its end token included.
        batch_tokens: Padded tokens that the encoder, or a prompt's first pass, reads at once.
        stop: Ends rows by what they say. Called after each step with the last tokens of every row
            that still runs, the prompt or start token among them; answers which of these rows end
            here, bool. Greedy decoding only: beam search does not ask it.
        tail: Tokens of a row that `stop` is shown at most.
        stopped: Asked before every step; True abandons the rows.
        counted: Where steps and the places taken in them are added up.

    Returns:
        Generated ids, int64, the end token included, start token and prompt not; and whether each
        row ended before the limit cut it off, bool (rows,).

    Raises:
        Stopped: `stopped` said so.
    """
    rows, width = feeds["input_ids"].shape
    size = rows if settings.continuous else max(1, TOGETHER * batch_tokens // max(1, width))
    found = []
    for start in range(0, rows, size):
        some = {name: given[start : start + size] for name, given in feeds.items()}
        job = _job(some, settings, search, max_new_tokens)
        cache = _cache(backend, some, job, batch_tokens)
        own: BeamSearch | Greedy
        own = BeamSearch(job, cache) if search.num_beams > 1 else Greedy(job, cache, stop, tail)
        loop.run(cache, own, len(job.prompt), stopped, counted or Occupancy())
        found.append(own)
    tokens = [Ragged.of_padded(one.ids, one.lengths) for one in found]
    return Ragged.concat(tokens), np.concatenate([one.ended for one in found])


def _job(feeds: Mapping[str, Ints], settings: Generation, search: Search, most: int) -> Job:
    mask = feeds["attention_mask"]
    source = np.where(mask == 1, feeds["input_ids"], FILLER)
    if settings.causal:
        source = prompt = left_padded(feeds["input_ids"], mask)
    else:
        prompt = np.full((len(source), 1), settings.start_id, np.int64)
    return Job(settings, search, rules(search, settings.end_ids, most), prompt, source, most)


def _cache(backend: Backend, feeds: Mapping[str, Ints], job: Job, budget: int) -> Cache:
    beams = job.search.num_beams
    picks = max(2, 1 + len(job.settings.end_ids)) * beams if beams > 1 and not job.rules else 1
    if job.settings.continuous:
        most = job.prompt.shape[1] - 1 + job.max_new_tokens
        return Slots(
            backend, job.settings, feeds, width=beams, most=most, picks=picks, budget=budget
        )
    return Growing(backend, job.settings, feeds, job.prompt, width=beams, picks=picks)
