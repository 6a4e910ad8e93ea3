"""Decoding: what turns a step graph into sequences. Sees only the Backend protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.types import Ints, Ragged
from engine.generation import scheduler
from engine.generation.beam import BeamSearch
from engine.generation.concat_cache import ConcatCache
from engine.generation.device_cache import MOST, DeviceCache, decode
from engine.generation.greedy import Greedy, Stop, likeliest
from engine.generation.host_cache import HostCache, capacity
from engine.generation.logits_processors import FILLER, rules
from engine.generation.request import Request, left_padded
from engine.generation.sampling import Sampling
from engine.generation.scheduler import Cache, Count, uncounted
from engine.generation.teacher_forcing import StepTrace, TeacherForcedSearch
from engine.runtime.protocol import Backend, T, Value

__all__ = ["MOST", "Count", "StepTrace", "capacity", "generate", "uncounted", "walk"]

# Batches of the encoder that are decoded together where rows cannot come and go one by one.
TOGETHER = 8


def never() -> bool:
    return False


def generate(
    backend: Backend,
    feeds: Mapping[str, Ints],
    settings: DecoderConfig,
    search: GenerationConfig,
    *,
    max_new_tokens: int,
    batch_tokens: int = 1024,
    stop: Stop | None = None,
    tail: int = 64,
    stopped: Callable[[], bool] = never,
    count: Count = uncounted,
    spare: list[dict[str, Value]] | None = None,
    seed: int = 0,
    numbers: Ints | None = None,
) -> tuple[Ragged, NDArray[np.bool_]]:
    """The tokens that transformers' generate() gives for every row in a batch of its own.

    Args:
        backend: Holds the graph `step` or `decoder`, and `encoder` unless the model is causal (see
            `bundle.GRAPHS`).
        feeds: input_ids and attention_mask, int64 (rows, length), padded on the right; at least
            one real token a row.
        settings: Start, end and cache shape.
        search: How tokens are chosen: by beams, drawn, or else greedily.
        max_new_tokens: Tokens a row may generate, its end token included.
        batch_tokens: Padded tokens that the encoder, or a prompt's first pass, reads at once.
        stop: Ends rows by what they say. Called after each step with the last tokens of every row
            that still runs, the prompt or start token among them; answers which of these rows end
            here, bool. Beam search does not ask it.
        tail: Tokens of a row that `stop` is shown at most.
        stopped: Asked before every step; True abandons the rows.
        count: See `loop.Count`.
        spare: Buffers of calls that are finished, to be used again; several threads may share it.
        seed, numbers: What draws are keyed by (see `sampling.Sampling`); the rows count from 0
            where None.

    Returns:
        Generated ids, int64, the end token included, start token and prompt not; and whether each
        row ended before the limit cut it off, bool (rows,).

    Raises:
        Stopped: `stopped` said so.
    """
    rows, width = feeds["input_ids"].shape
    numbers = np.arange(rows) if numbers is None else numbers
    spare = [] if spare is None else spare
    size = rows if settings.continuous else max(1, TOGETHER * batch_tokens // max(1, width))

    def decoded(start: int, memory: dict[str, Value], ended: Callable[[], bool]) -> _Answers:
        some = {name: given[start : start + size] for name, given in feeds.items()}
        job = _job(some, settings, search, max_new_tokens)
        sizes = {"budget": batch_tokens, "memory": memory, "count": count}
        cache = _cache(backend, some, job, _picks(job), **sizes)
        plain = not (search.num_beams > 1 or search.do_sample or job.rules or stop)
        if isinstance(cache, DeviceCache) and plain:
            return _Found(*decode(cache, job, ended, count))
        draw = Sampling(seed, numbers[start : start + size])
        own: BeamSearch | Greedy
        if search.num_beams > 1:
            own = BeamSearch(job, cache)
        else:
            own = Greedy(job, cache, stop, tail, draw if search.do_sample else likeliest)
        scheduler.run(cache, own, len(job.prompt), ended, count)
        return own

    def every(ended: Callable[[], bool]) -> list[_Answers]:
        try:
            memory = spare.pop()
        except IndexError:
            memory = {}
        found = [decoded(start, memory, ended) for start in range(0, rows, size)]
        spare.append(memory)
        return found

    found = _alone(backend, every, stopped)
    tokens = [Ragged.of_padded(one.ids, one.lengths) for one in found]
    return Ragged.concat(tokens), np.concatenate([one.ended for one in found])


def _alone(
    backend: Backend, call: Callable[[Callable[[], bool]], T], stopped: Callable[[], bool]
) -> T:
    """call(whether to stop) through `Backend.serially`. If this thread is interrupted while the
    call runs on another, the call stops there, too."""
    left = False
    try:
        return backend.serially(lambda: call(lambda: left or stopped()))
    except BaseException:
        left = True
        raise


@dataclass(frozen=True)
class _Found:
    """What `resident.decode` gives."""

    ids: Ints
    lengths: Ints
    ended: NDArray[np.bool_]


_Answers = BeamSearch | Greedy | _Found


def walk(
    backend: Backend,
    feeds: Mapping[str, Ints],
    settings: DecoderConfig,
    steps: int,
    along: StepTrace | None = None,
) -> StepTrace:
    """Decode greedily without any rule, or along another walk's tokens.

    Args:
        backend, feeds, settings: As `generate` takes them.
        steps: Of a row at most.
        along: Whose tokens are fed, and whose lengths are gone, whatever seems likeliest here.
    """

    def walked(ended: Callable[[], bool]) -> StepTrace:
        job = _job(feeds, settings, GenerationConfig(), steps)
        led = TeacherForcedSearch(job, cache := _cache(backend, feeds, job, 2), along)
        scheduler.run(cache, led, len(job.prompt), ended, uncounted)
        return led.found

    return _alone(backend, walked, never)


def _job(
    feeds: Mapping[str, Ints], settings: DecoderConfig, search: GenerationConfig, most: int
) -> Request:
    mask = feeds["attention_mask"]
    source = np.where(mask == 1, feeds["input_ids"], FILLER)
    if settings.causal:
        source = prompt = left_padded(feeds["input_ids"], mask)
    else:
        prompt = np.full((len(source), 1), settings.start_id, np.int64)
    return Request(settings, search, rules(search, settings.end_ids, most), prompt, source, most)


def _cache(
    backend: Backend,
    feeds: Mapping[str, Ints],
    job: Request,
    picks: int,
    **sizes: Any,
) -> Cache:
    given: dict[str, Any] = {"width": job.search.num_beams, "picks": picks}
    # Beams add up log-probabilities; for the other searches logits will do.
    given["scored"] = job.search.num_beams > 1
    if job.settings.continuous:
        most = job.prompt.shape[1] - 1 + job.max_new_tokens
        kind = DeviceCache if "device_step" in backend.roles else HostCache
        return kind(backend, job.settings, feeds, most=most, **given, **sizes)
    return ConcatCache(backend, job.settings, feeds, job.prompt, **given)


def _picks(job: Request) -> int:
    """How many of a step's likeliest tokens the search looks at; of rules it wants all logits."""
    search, vocabulary = job.search, job.settings.vocabulary
    if job.rules:
        return 1
    if search.num_beams > 1:
        return max(2, 1 + len(job.settings.end_ids)) * search.num_beams
    if search.do_sample and search.top_k:
        return min(search.top_k, vocabulary or search.top_k)
    return 1
