"""Decoding: what turns a decoder's step graph into sequences. Sees only the Backend protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.device import Device
from engine.core.types import Ints, Ragged
from engine.generation import device_cache, host_cache, scheduler
from engine.generation.beam import BeamSearch
from engine.generation.buffer_pool import BufferPool
from engine.generation.device_cache import DeviceCache
from engine.generation.device_greedy import DeviceGreedySearch
from engine.generation.greedy import Choose, GreedySearch, Stop, likeliest
from engine.generation.host_cache import HostCache
from engine.generation.logits_processors import FILLER
from engine.generation.request import DecodedRows, Request
from engine.generation.sampling import Sampling
from engine.generation.scheduler import Count, KVCache, uncounted, unnoticed
from engine.generation.teacher_forcing import StepTrace, recording, tracing
from engine.runtime.protocol import Backend, T

__all__ = [
    "BufferPool",
    "Count",
    "DecodingOptions",
    "GeneratedSequences",
    "StepTrace",
    "generate",
    "generate_sequences",
    "max_slots",
    "trace_logits",
    "trace_steps",
    "uncounted",
]

_Cache = TypeVar("_Cache", HostCache, DeviceCache)


def never() -> bool:
    return False


def max_slots(decoder: DecoderConfig, device: Device) -> int:
    """Rows that a device decodes at once."""
    return device_cache.MOST if device.is_gpu else host_cache.capacity(decoder)


@dataclass(frozen=True)
class GeneratedSequences:
    """What was generated: `num_return_sequences` a row, one row after the other.

    Attributes:
        tokens: Ids, int64, the end token included, start token and prompt excluded.
        ended: Which sequences ended before the limit cut them off, bool (sequences,).
        scores: Sums of the tokens' log-probabilities, divided by the number of tokens to the power
            of length_penalty, float32 (sequences,); zeros unless wanted.
        logprobs: The log-probability of each token, float32; those of the distribution that it was
            chosen from, as generate() gives them. Empty rows unless wanted.
    """

    tokens: Ragged
    ended: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logprobs: Ragged


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How rows are decoded.

    Attributes:
        max_new_tokens: Tokens a row may generate, its end token included; one number for all rows
            or int64 (rows,).
        batch_tokens: Padded tokens that the encoder, or a prompt's first pass, reads at once.
        stop: Ends rows by their text. Called after each step with the last tokens of every row
            that still runs, the prompt or start token among them; returns which of these rows end
            here, bool. Beam search asks it about every candidate.
        tail: Tokens of a row that `stop` is shown at most.
        stopped: Asked before every step; True abandons the rows.
        count: See `scheduler.Count`.
        spare: Memory of finished calls, to be used again; several threads may share it.
        seed, numbers: What draws are keyed by (see `sampling.Sampling`); the rows count from 0
            where None.
        scored: Whether scores and log-probabilities are wanted.
        finished: Called with rows as soon as they have all of their tokens, and with these; not
            where a row has several sequences, or scores.
    """

    max_new_tokens: int | Ints
    batch_tokens: int = 1024
    stop: Stop | None = None
    tail: int = 64
    stopped: Callable[[], bool] = never
    count: Count = uncounted
    spare: list[BufferPool] = field(default_factory=list)
    seed: int | NDArray[np.uint64] = 0
    numbers: Ints | None = None
    scored: bool = False
    finished: Callable[[Ints, GeneratedSequences], None] | None = None

    def sampling(self, rows: int, copies: int) -> Sampling:
        """Of rows of which each stands there as often as it has sequences."""
        numbers = np.arange(rows) if self.numbers is None else self.numbers
        seeds = self.seed if isinstance(self.seed, int) else np.repeat(self.seed, copies)
        return Sampling(seeds, np.repeat(numbers, copies), np.tile(np.arange(copies), rows))


def generate(
    backend: Backend,
    feeds: Mapping[str, Ints],
    decoder: DecoderConfig,
    config: GenerationConfig,
    **settings: Any,
) -> tuple[Ragged, NDArray[np.bool_]]:
    """The ids that `generate_sequences` gives, and which sequences ended before the limit; takes
    `DecodingOptions` by name."""
    options = DecodingOptions(**settings)
    sequences = generate_sequences(backend, feeds, decoder, config, options)
    return sequences.tokens, sequences.ended


def generate_sequences(
    backend: Backend,
    feeds: Mapping[str, Ints],
    decoder: DecoderConfig,
    config: GenerationConfig,
    options: DecodingOptions,
) -> GeneratedSequences:
    """The tokens that transformers' generate() gives for every row in a batch of its own.

    Args:
        backend: Holds a step graph, and `encoder` unless the model is causal.
        feeds: input_ids and attention_mask, int64 (rows, length), padded on the right; at least
            one real token a row.
        decoder: Start, end and cache shape.
        config: How tokens are chosen: by beam search, by sampling, or else greedily.

    Raises:
        Stopped: `options.stopped` said so.
    """
    texts = len(feeds["input_ids"])
    copies = config.num_return_sequences if config.do_sample else 1
    feeds = {name: np.repeat(array, copies, axis=0) for name, array in feeds.items()}
    limits = np.repeat(np.broadcast_to(options.max_new_tokens, (texts,)), copies)
    request = Request.of(feeds, decoder, config, limits, scored=options.scored)
    choose = options.sampling(texts, copies) if config.do_sample else likeliest

    def decode(ended: Callable[[], bool]) -> DecodedRows:
        pool, count = _take(options.spare), options.count
        work = _Work(
            backend, feeds, request, request.picks, request.reads_logits, pool,
            options.batch_tokens, count,
        )  # fmt: skip
        cache, search = work.search(choose, options.stop, options.tail)
        retired: scheduler.Retired = unnoticed
        if options.finished and config.num_return_sequences == 1 and not options.scored:
            retired = _telling(options.finished, search.output)
        scheduler.run(cache, search, texts * copies, ended, count, retired)
        options.spare.append(pool)
        return search.output

    output = _serialized(backend, decode, options.stopped)
    if options.scored and config.num_beams == 1:
        output.add_up(config.length_penalty)
    logprobs = Ragged.of_padded(output.logprobs, output.lengths * options.scored)
    return GeneratedSequences(output.tokens, output.ended, output.scores, logprobs)


def _telling(
    finished: Callable[[Ints, GeneratedSequences], None], output: DecodedRows
) -> scheduler.Retired:
    """What calls `finished` with the tokens of rows that are retired."""

    def retired(rows: Ints) -> None:
        lengths = output.lengths[rows]
        tokens = Ragged.of_padded(output.ids[rows], lengths)
        logprobs = Ragged(output.logprobs[0, :0], np.zeros(len(rows) + 1, np.int64))
        finished(
            rows, GeneratedSequences(tokens, output.ended[rows], output.scores[rows], logprobs)
        )

    return retired


def _take(spare: list[BufferPool]) -> BufferPool:
    """A pool that no other thread has."""
    try:
        return spare.pop()
    except IndexError:
        return BufferPool()


def trace_steps(
    backend: Backend,
    feeds: Mapping[str, Ints],
    decoder: DecoderConfig,
    steps: int,
    along: StepTrace | None = None,
) -> StepTrace:
    """Decode greedily without logits processors, or along another trace's tokens.

    Args:
        backend, feeds, decoder: As `generate` takes them.
        steps: Of a row at most.
        along: Its tokens are fed, whatever is likeliest here.
    """
    request = Request.of(feeds, decoder, GenerationConfig(), steps)
    trace = StepTrace.empty(len(request.prompt), steps)
    _forced(_Work(backend, feeds, request, picks=2, whole=False), tracing(trace, along))
    return trace


def trace_logits(
    backend: Backend,
    feeds: Mapping[str, Ints],
    decoder: DecoderConfig,
    forced: Ints,
    slots: int,
) -> NDArray[np.float32]:
    """The logits of every decode step along given tokens.

    Args:
        backend, feeds, decoder: As `generate` takes them.
        forced: The token behind each step, int64 (rows, steps); a negative one ends its row.
        slots: Rows decoded at once at most.

    Returns:
        float32 (rows, steps, vocabulary); zeros behind a row's end.
    """
    rows, steps = forced.shape
    request = Request.of(feeds, replace(decoder, end_ids=(FILLER,)), GenerationConfig(), steps)
    logits = np.zeros((rows, steps, decoder.vocabulary), np.float32)
    _forced(_Work(backend, feeds, request, picks=1, max_slots=slots), recording(logits, forced))
    return logits


def _forced(work: _Work, choose: Choose) -> None:
    def decode(ended: Callable[[], bool]) -> None:
        cache = work.cache()
        search = GreedySearch(work.request, cache, choose)
        scheduler.run(cache, search, len(work.request.prompt), ended, uncounted)

    _serialized(work.backend, decode, never)


@dataclass(frozen=True)
class _Work:
    """Rows to decode, and what their cache is made of; see `host_cache.HostCache`."""

    backend: Backend
    feeds: Mapping[str, Ints]
    request: Request
    picks: int
    whole: bool = True
    pool: BufferPool = field(default_factory=BufferPool)
    budget: int = 1024
    count: Count = uncounted
    max_slots: int = 0

    def search(
        self, choose: Choose, stop: Stop | None, tail: int
    ) -> tuple[KVCache, BeamSearch | GreedySearch | DeviceGreedySearch]:
        """A cache, and the search over it."""
        request = self.request
        if request.config.num_beams > 1:
            cache = self.cache()
            return cache, BeamSearch(request, cache, stop, tail)
        plain = choose is likeliest and not request.processors and not request.scored
        if self._on_device and plain and stop is None:
            device = self._open(DeviceCache)
            return device, DeviceGreedySearch(request, device)
        cache = self.cache()
        return cache, GreedySearch(request, cache, choose, stop, tail)

    def cache(self) -> KVCache:
        if self._on_device:
            return self._open(DeviceCache)
        return self._open(HostCache, whole=self.whole)

    @property
    def _on_device(self) -> bool:
        return "device_step" in self.backend.roles

    def _open(self, kind: type[_Cache], **more: Any) -> _Cache:
        beams = self.request.config.num_beams
        return kind(
            self.backend,
            self.request.decoder,
            self.feeds,
            width=beams,
            positions=self.request.positions,
            picks=self.picks,
            # Beams add up log-probabilities; sampling needs logits, and greedy search either.
            scored=beams > 1 or (self.request.scored and not self.request.config.do_sample),
            pool=self.pool,
            budget=self.budget,
            count=self.count,
            max_slots=self.max_slots,
            **more,
        )


def _serialized(
    backend: Backend, call: Callable[[Callable[[], bool]], T], stopped: Callable[[], bool]
) -> T:
    """call(whether to stop) through `Backend.serially`. If this thread is interrupted while the
    call runs on another, the call stops there, too."""
    abandoned = False
    try:
        return backend.serially(lambda: call(lambda: abandoned or stopped()))
    except BaseException:
        abandoned = True
        raise
