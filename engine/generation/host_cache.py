"""The CPU's step graph and the buffers it is bound to: a KV cache whose rows come and go.

Every slot has a length of its own, so a row begins in a free slot without any change to the others,
and nothing is padded, shifted or allocated on the way. The encoder runs over the rows that wait,
some ahead of need, and its keys and values are copied to where the row's slots read them: all beams
of a row read the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.bundle.format import DecoderConfig
from engine.core.types import Ints
from engine.generation.buffer_pool import BufferPool, Shape
from engine.generation.encoder_batches import EncoderBatches
from engine.generation.long_rows import LongRows
from engine.generation.scheduler import Count, Scores, uncounted
from engine.runtime.protocol import Backend, Value

PARTS = ("key", "value")
# Numbers of a slot that go with its row.
_OF_SLOTS = ("lengths", "rotary_offset")
# What each layer has of its own, and what the slots of a row share.
_OF_LAYERS = ("past.", "cross.", "last.")
_OF_SOURCES = ("source_last", "cross.", "last.")
# Asks a step graph for the logits of all tokens.
_WHOLE = "whole_logits"
# Multiplications that a step should have for its overhead not to matter: 48 slots of t5-small.
# More gain nothing, and their last rows leave more of them free; beams, of which a step writes more
# for each, are 5% faster in twice as many.
WORK = 48 * 36_000_000
SLOTS = range(48, 513)
TIMES_FOR_BEAMS = 2
# Positions that a cache has at first. It grows by half when a row needs more: a limit of 256 tokens
# would else take ten times the memory that rows of 20 fill. Behind longer sources it begins a size
# larger, since most answers would need that; with twice as many t5-small's peak is a sixth higher.
POSITIONS = 32
# Padded tokens of an encoder's batch that are as fast, each, as in a larger one.
MIXED = 256
# Tokens of a prompt that are cached at once, where it is longer.
CHUNK = 512
# Once no row waits, free slots are given up when they are this share of all.
IDLE = 0.25


def capacity(decoder: DecoderConfig) -> int:
    """Slots that keep a processor busy."""
    width = decoder.heads * decoder.head_dim
    # Of a usual layer: 4 width² for each attention and 8 for the feed-forward part.
    each = 16 * decoder.layers * width * width + decoder.vocabulary * width
    return min(max(WORK // each, SLOTS.start), SLOTS.stop - 1)


class HostCache:
    """See `scheduler.KVCache`.

    Args:
        backend: Holds the graph `step`, and `encoder` unless the model is causal.
        decoder: Shape of the cache.
        feeds: input_ids and attention_mask of all rows, int64 (rows, length).
        width: Slots of a row.
        positions: That a row may fill.
        picks: How many of the likeliest tokens `best` gives.
        scored: Whether with their log-probabilities rather than with logits.
        whole: Whether `logits` is called; a graph may spare itself those.
        pool: Memory of earlier calls, and of this one for the next.
        budget: Padded tokens of one batch of the encoder at most.
        count: Told of the `padded` tokens of each of them.
        max_slots: 0 for as many as keep a processor busy.
    """

    def __init__(
        self,
        backend: Backend,
        decoder: DecoderConfig,
        feeds: Mapping[str, Ints],
        *,
        width: int,
        positions: int,
        picks: int,
        scored: bool = False,
        whole: bool = True,
        pool: BufferPool | None = None,
        budget: int = 1024,
        count: Count = uncounted,
        max_slots: int = 0,
    ) -> None:
        self.backend, self.decoder, self.feeds, self.width = backend, decoder, feeds, width
        self.graph = backend.graph("step", width)
        # An older graph always gives all logits.
        self.spares = _WHOLE in self.graph.inputs
        self.whole = whole or not self.spares
        self.pool = pool or BufferPool()
        compute = self._prefill if decoder.causal else self._encode
        self.batches = EncoderBatches(feeds, compute, budget=budget, mixed=MIXED, count=count)
        self.sources = self.batches.lengths
        wanted = capacity(decoder) * (TIMES_FOR_BEAMS if width > 1 else 1)
        self.slots = self._slot_count(positions, max_slots or wanted)
        self.most = positions
        longer = not decoder.causal and feeds["input_ids"].shape[1] > POSITIONS
        first = _grown(POSITIONS) if longer else POSITIONS
        self.positions = min(positions, max(first, self._allocated()))
        self.buffers: dict[str, Value] = {}
        self.host: dict[str, NDArray[Any]] = {}
        self.past = self._hold_past()
        if not decoder.causal:
            length, values = feeds["input_ids"].shape[1], decoder.heads * decoder.head_dim
            sources = (self.groups, decoder.cache_heads, length, decoder.head_dim)
            self.cross = self._hold_layers("cross", sources)
            self.lasts = self._hold_layers("last", (self.groups, 1, values))
        for name, (shape, dtype) in self._shapes(picks).items():
            self._hold(name, shape, dtype)
        # A slot without a row is as short as can be.
        for name in {"lengths", "source_last"} & self.host.keys():
            self.host[name][:] = 0
        self.host["picks"][:] = picks
        self.host["scored"][...] = scored
        if self.spares:
            self.host[_WHOLE][...] = self.whole
        if decoder.causal:
            self.host["logit_rows"][:] = np.arange(self.slots)
        else:
            self.host["source_total"][...] = feeds["input_ids"].shape[1]
        # Positions that were cached when a row began.
        self.bases = np.zeros(self.slots, np.int64)
        # Whether a slot has a row, 0 or 1.
        self.taken = np.zeros(self.slots, np.int32)
        limit = decoder.long_from
        self.long_rows = LongRows(limit, self.slots, positions) if limit else None
        self._bind()

    def admit(self, slots: Ints, rows: Ints) -> None:
        into = slots
        if self.decoder.causal:
            lasts = self.sources[rows] - 1
            self._reserve(int(lasts.max()) + 1)
            self.bases[slots] = lasts
            if self.long_rows:
                self.long_rows.begin(slots, self.feeds["input_ids"][rows])
                self.host["rotary_offset"][slots] = self.long_rows.offsets(lasts + 1)
        else:
            into, rows = self._sources_of(slots), rows[:: self.width]
            self.host["source_last"][into] = self.sources[rows] - 1
        for some, at in self.batches.parts(into, rows, self.slots):
            self._fill(some, at)
        self.host["lengths"][slots] = self.bases[slots]
        self.taken[slots] = 1

    def retire(self, slots: Ints) -> None:
        self.taken[slots] = self.host["lengths"][slots] = 0

    def step(self, tokens: Ints) -> None:
        lengths = self.host["lengths"]
        self.host["tokens"].reshape(-1)[:] = tokens
        total = int(lengths.max()) + 1
        self._reserve(total)
        self.host["total"][...] = total
        if self.long_rows:
            offsets = self.host["rotary_offset"]
            counts = lengths.astype(np.int64)
            for slot in self.long_rows.outgrown(tokens, counts, self.taken, offsets):
                self._cache_again(self.long_rows, slot, int(lengths[slot]))
        self.run()
        lengths += self.taken

    def best(self) -> tuple[Ints, Scores]:
        return self.host["best"], self.host["best_scores"]

    def logits(self) -> Scores:
        return self.host["logits"] if self.whole else self._logits_again()

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        starts = self.bases[sources] + starts
        stops = self.host["lengths"][sources]
        past = self.past
        for slot, source, start, stop in zip(
            slots.tolist(), sources.tolist(), starts.tolist(), stops.tolist(), strict=True
        ):
            past[:, slot, :, start:stop] = past[:, source, :, start:stop]
        if self.long_rows:
            self.long_rows.copy(slots, sources)

    def narrowed(self, used: int) -> int:
        return used if used <= (1 - IDLE) * self.slots else self.slots

    def keep(self, order: Ints) -> None:
        moved = np.flatnonzero(order != np.arange(len(order)))
        self._move(moved, order[moved])
        self.slots = len(order)
        self.past = self.past[:, : self.slots]
        for name, array in list(self.host.items()):
            shape = (self.groups if name.startswith(_OF_SOURCES) else self.slots, *array.shape[1:])
            if name.startswith(_OF_LAYERS):
                self._take(name, self.backend.buffer(shape, array.dtype, self.buffers[name]))
            elif array.ndim and len(array) and name != "picks":
                self._hold(name, shape, array.dtype)
        self.bases, self.taken = self.bases[: self.slots], self.taken[: self.slots]
        self._bind()

    def _logits_again(self) -> Scores:
        """Of the latest step, taken once more: it appends what it has appended."""
        feeds: dict[str, Value] = {name: self.buffers[name] for name in self.graph.inputs}
        feeds["lengths"] = self.host["lengths"] - self.taken
        feeds |= {"scored": np.array(False), _WHOLE: np.array(True)}
        (logits,) = self.graph.run(feeds, ["logits"])
        return self.backend.host(logits)

    def _move(self, slots: Ints, sources: Ints) -> None:
        """Make `slots` what `sources` are."""
        self.copy(slots, sources, -self.bases[sources])
        self.bases[slots] = self.bases[sources]
        self.taken[slots] = self.taken[sources]
        for name in _OF_SLOTS:
            if name in self.host:
                self.host[name][slots] = self.host[name][sources]
        if self.decoder.causal:
            return
        into, of = self._sources_of(slots), self._sources_of(sources)
        source_last, cross = self.host["source_last"], self.cross
        for row, source in zip(into.tolist(), of.tolist(), strict=True):
            stop = int(source_last[source]) + 1
            cross[:, row, :, :stop] = cross[:, source, :, :stop]
        self.lasts[:, into] = self.lasts[:, of]
        source_last[into] = source_last[of]

    def _sources_of(self, slots: Ints) -> Ints:
        """Where slots that come by whole groups have their sources, one for each group."""
        return slots[:: self.width] // self.width

    def _slot_count(self, positions: int, most: int) -> int:
        """Slots for all rows, or as many as fit into memory; whole groups."""
        decoder = self.decoder
        source = 0 if decoder.causal else self.feeds["input_ids"].shape[1]
        each = 8 * decoder.layers * decoder.cache_heads * decoder.head_dim
        each *= positions * self.width + source
        groups = max(1, min(most // self.width, self.backend.cache_bytes // each))
        return min(groups, len(self.sources)) * self.width

    def _allocated(self) -> int:
        """Positions for which there is memory already."""
        if (old := self.pool.allocations.get("past")) is None:
            return 0
        d = self.decoder
        return old.size // (8 * d.layers * self.slots * d.cache_heads * d.head_dim)

    def _hold(self, name: str, shape: Shape, dtype: DTypeLike) -> None:
        self._take(name, self.pool.buffer(self.backend, name, shape, dtype))

    def _take(self, name: str, buffer: Value) -> None:
        self.buffers[name], self.host[name] = buffer, self.backend.host(buffer)

    def _hold_past(self) -> NDArray[np.float32]:
        """Self-attention's keys and values; float32 (2 x layers, slots, heads, positions, size)."""
        d = self.decoder
        return self._hold_layers("past", (self.slots, d.cache_heads, self.positions, d.head_dim))

    def _hold_layers(self, name: str, shape: Shape) -> NDArray[np.float32]:
        """The keys and values of all layers in one buffer, so that a row's are copied at once;
        float32 (2 x layers, *shape)."""
        shape = (2 * self.decoder.layers, *shape)
        whole = self.pool.buffer(self.backend, name, shape, np.float32)
        for layer, part in zip(self._layers, self.backend.parts(whole), strict=True):
            self._take(f"{name}.{layer}", part)
        return self.backend.host(whole)

    def _reserve(self, positions: int) -> None:
        """See that every slot holds as many."""
        if positions <= self.positions:
            return
        filled = self.positions
        self.positions = min(self.most, max(positions, _grown(filled)))
        old, self.past = self.past, self._hold_past()
        # The larger buffer may be over the same memory: NumPy copies as if it were not.
        self.past[:, :, :, :filled] = old[:, :, :, :filled]
        self._bind()

    def _shapes(self, picks: int) -> dict[str, tuple[Shape, DTypeLike]]:
        """Shape and dtype of every buffer that no layer has of its own, by its name as an input or
        output of the graph."""
        d, count = self.decoder, self.slots
        shapes: dict[str, tuple[Shape, DTypeLike]] = {
            "tokens": ((count, 1) if d.causal else (count,), np.int64),
            "lengths": ((count,), np.int32),
            "total": ((), np.int32),
            "picks": ((1,), np.int64),
            "scored": ((), np.bool_),
            "logits": ((count if self.whole else 0, d.vocabulary), np.float32),
            "best": ((count, picks), np.int64),
            "best_scores": ((count, picks), np.float32),
        }
        if self.spares:
            shapes[_WHOLE] = ((), np.bool_)
        if d.long_from:
            shapes["rotary_offset"] = ((count,), np.int64)
        if d.causal:
            return {**shapes, "logit_rows": ((count,), np.int64)}
        return {**shapes, "source_last": ((self.groups,), np.int32), "source_total": ((), np.int32)}

    def _bind(self) -> None:
        """Bind the graph to the buffers; what it appends to, it reads and writes."""
        outputs = {}
        for name in self.graph.outputs:
            held = name.replace("cross_present.", "cross.").replace("present.", "past.")
            outputs[name] = self.buffers[held]
        inputs = {name: self.buffers[name] for name in self.graph.inputs}
        self.run = self.graph.bind(inputs, outputs)

    def _encode(self, feeds: Mapping[str, Ints]) -> dict[str, NDArray[Any]]:
        """The encoder's keys and values by the name of the buffer they belong to."""
        names = [name for name in self.host if name.startswith("cross.")]
        values = self.backend.graph("encoder").run(feeds, names)
        return {n: self.backend.host(v) for n, v in zip(names, values, strict=True)}

    def _prefill(self, feeds: Mapping[str, Ints]) -> dict[str, NDArray[Any]]:
        """A causal model's keys and values of all tokens of the prompts but their last ones.

        At a shorter prompt's padding they are anything.
        """
        tokens, lengths = feeds["input_ids"][:, :-1], feeds["attention_mask"].sum(axis=1)
        if tokens.shape[1] > CHUNK:
            rows = zip(tokens, lengths.tolist(), strict=True)
            values = [self._prefill_long(row, length - 1, length) for row, length in rows]
            return {name: np.concatenate([one[name] for one in values]) for name in values[0]}
        if not tokens.shape[1]:
            return {}
        shape = (len(tokens), self.decoder.cache_heads, 0, self.decoder.head_dim)
        empty = np.zeros(shape, np.float32)
        inputs = self._chunk(tokens, 0, lengths) | dict.fromkeys(self._pasts, empty)
        outputs = [name.replace("past", "present") for name in self._pasts]
        values = self.graph.run(inputs, outputs)
        return {n: self.backend.host(v) for n, v in zip(self._pasts, values, strict=True)}

    def _prefill_long(self, row: Ints, stop: int, length: int) -> dict[str, NDArray[Any]]:
        """The keys and values of a prompt's tokens up to `stop`, chunk by chunk, so that
        attention's scores stay small.

        GroupQueryAttention appends several tokens to one row only.

        Args:
            length: Of the whole row.
        """
        backend, decoder = self.backend, self.decoder
        shape = (1, decoder.cache_heads, len(row), decoder.head_dim)
        caches = {name: backend.buffer(shape, np.float32) for name in self._pasts}
        outputs = {name.replace("past", "present"): cache for name, cache in caches.items()}
        for start in range(0, stop, CHUNK):
            tokens = row[None, start : min(stop, start + CHUNK)]
            chunk = self._chunk(tokens, start, np.array([length]))
            self.graph.bind({**chunk, **caches}, {**self._unread, **outputs})()
        return {name: backend.host(cache) for name, cache in caches.items()}

    def _cache_again(self, rows: LongRows, slot: int, cached: int) -> None:
        """Replace a slot's keys and values by those of the other rotary factors."""
        tokens = rows.tokens[slot, :cached]
        for name, values in self._prefill_long(tokens, cached, cached + 1).items():
            self.host[name][slot, :, :cached] = values[0]

    def _chunk(self, tokens: Ints, start: int, lengths: Ints) -> dict[str, Value]:
        """Inputs of the step graph for tokens (rows, steps) behind `start` cached ones of rows with
        `lengths` tokens in all."""
        inputs = {
            "tokens": np.ascontiguousarray(tokens),
            "lengths": np.full(len(tokens), start, np.int32),
            "total": np.array(start + tokens.shape[1], np.int32),
            "logit_rows": np.zeros(1, np.int64),
            "picks": np.ones(1, np.int64),
            "scored": np.array(False),
        }
        if self.long_rows:
            inputs["rotary_offset"] = self.long_rows.offsets(lengths)
        if self.spares:
            inputs[_WHOLE] = np.array(False)
        return inputs

    @property
    def groups(self) -> int:
        """Rows that are decoded at once."""
        return self.slots // self.width

    @property
    def _layers(self) -> list[str]:
        return [f"{n}.{part}" for n in range(self.decoder.layers) for part in PARTS]

    @property
    def _pasts(self) -> list[str]:
        return [f"past.{layer}" for layer in self._layers]

    @cached_property
    def _unread(self) -> dict[str, Value]:
        """Buffers of what a chunk computes besides keys and values."""
        buffer = self.backend.buffer
        return {
            "logits": buffer((0 if self.spares else 1, self.decoder.vocabulary), np.float32),
            "best": buffer((1, 1), np.int64),
            "best_scores": buffer((1, 1), np.float32),
        }

    def _fill(self, slots: Ints, at: Ints) -> None:
        """Copy keys and values of the latest batch's rows `at`, padding included, into slots or to
        where rows have their sources: what is behind a length is hidden."""
        into, of = _as_slices(slots, at)
        last = None if self.decoder.causal else self.host["source_last"][slots]
        for name, values in self.batches.values.items():
            width = min(values.shape[2], self.host[name].shape[2])
            self.host[name][into, :, :width] = values[of, :, :width]
            if last is not None:
                own = values[at, :, last].reshape(len(at), -1)
                self.host[name.replace("cross", "last")][slots, 0] = own


def _grown(positions: int) -> int:
    return positions + (positions + 1) // 2


def _as_slices(*indices: Ints) -> tuple[Any, ...]:
    """Indices as slices where all of them are consecutive numbers: NumPy copies once then, not
    twice."""
    if all((index[1:] - index[:-1] == 1).all() for index in indices):
        return tuple(slice(int(index[0]), int(index[-1]) + 1) for index in indices)
    return indices
