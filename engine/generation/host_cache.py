"""The step graph and the buffers it is bound to: a cache whose rows come and go one by one.

Every slot has a length of its own, so a row begins in a slot that has just become free without a
word to the others, and nothing is padded, shifted or allocated on the way. The encoder runs over
the rows that wait, some ahead of need, and its keys and values are put into a row's slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig
from engine.core.types import Ints
from engine.generation.scheduler import Count, Scores, uncounted
from engine.runtime.protocol import Backend, Value

PARTS = ("key", "value")
# Multiplications that a step should have for what surrounds it not to matter: 48 slots of t5-small.
# More than that gain nothing, and their last rows leave more of them free.
WORK = 48 * 36_000_000
SLOTS = range(48, 513)
# Positions that a cache has at first. It doubles when a row needs more: a limit of 256 tokens would
# else take ten times the memory that rows of 20 fill.
POSITIONS = 32
# Padded tokens of the encoder that are as fast, each, as in a larger batch; beyond them a row must
# be nearly as long as the batch is wide.
ENOUGH, NEARLY = 256, 0.9


def capacity(settings: DecoderConfig) -> int:
    """Slots that keep a processor busy."""
    width = settings.heads * settings.head_dim
    # Of a usual layer: 4 width² for each attention and 8 for the feed-forward part.
    each = 16 * settings.layers * width * width + settings.vocabulary * width
    return min(max(WORK // each, SLOTS.start), SLOTS.stop - 1)


def together(lengths: Ints, budget: int, enough: int = 0) -> tuple[int, int]:
    """How many of the next rows are encoded in one batch, and its width.

    Args:
        lengths: Of the rows that wait, in their order.
        budget: Padded tokens of a batch at most, unless one row has more.
        enough: Padded tokens up to which rows need not be alike; 0 takes `ENOUGH`.
    """
    widths = np.maximum.accumulate(lengths)
    tokens = widths * np.arange(1, len(widths) + 1)
    alike = (tokens <= (enough or ENOUGH)) | (np.minimum.accumulate(lengths) >= NEARLY * widths)
    rows = max(1, int(np.argmin(np.append((tokens <= budget) & alike, False))))
    return rows, int(widths[rows - 1])


class HostCache:
    """See `loop.Cache`.

    Args:
        backend: Holds the graphs `encoder` and `step`.
        settings: Shape of the cache.
        feeds: input_ids and attention_mask of all rows, int64 (rows, length).
        width: Slots of a place.
        most: Positions that a row may fill.
        picks: How many of the likeliest tokens `best` gives.
        scored: Whether with their log-probabilities rather than with logits.
        memory: Buffers by name that may be used again, from caches that are finished; taken over.
        budget: Padded tokens of one batch of the encoder at most.
        count: Told of the `padded` tokens of each of them.
    """

    refills = True
    narrows = True

    def __init__(
        self,
        backend: Backend,
        settings: DecoderConfig,
        feeds: Mapping[str, Ints],
        *,
        width: int,
        most: int,
        picks: int,
        scored: bool = False,
        memory: dict[str, Value] | None = None,
        budget: int = 1024,
        count: Count = uncounted,
    ) -> None:
        self.backend, self.settings, self.feeds, self.width = backend, settings, feeds, width
        self.budget, self.count = budget, count
        self.memory: dict[str, Value] = {} if memory is None else memory
        self.sources = feeds["attention_mask"].sum(axis=1)
        self.encoded: tuple[int, int] = (0, 0)
        self.ahead: dict[str, NDArray[Any]] = {}
        self.slots = self._count(most)
        self.most, self.room = most, min(most, max(POSITIONS, self._spared()))
        self.host: dict[str, NDArray[Any]] = {}
        self.held: dict[str, Value] = {}
        for name, (shape, dtype) in self._shapes(picks).items():
            self._hold(name, shape, dtype)
        # A slot without a row is as short as can be.
        for name in {"lengths", "source_last"} & set(self.host):
            self.host[name][:] = 0
        self.host["picks"][:] = picks
        self.host["scored"][...] = scored
        if settings.causal:
            self.host["asked"][:] = np.arange(self.slots)
        else:
            self.host["source_total"][...] = self.feeds["input_ids"].shape[1]
        # Positions that were cached when a row began.
        self.bases = np.zeros(self.slots, np.int64)
        # Whether a slot has a row, 0 or 1.
        self.taken = np.zeros(self.slots, np.int32)
        self._bind()

    def admit(self, slots: Ints, rows: Ints) -> None:
        if self.settings.causal:
            self._reserve(int(self.sources[rows].max()))
        for first in range(0, len(rows), self.width):
            self._encode(int(rows[first]))
            self._place(slots[first : first + self.width], int(rows[first]))
        if self.settings.causal:
            self.bases[slots] = self.sources[rows] - 1
        else:
            self.host["source_last"][slots] = self.sources[rows] - 1
        self.host["lengths"][slots] = self.bases[slots]
        self.taken[slots] = 1

    def retire(self, slots: Ints) -> None:
        self.taken[slots] = self.host["lengths"][slots] = 0

    def set_lengths(self, slots: Ints, lengths: Ints) -> None:
        """Say how many positions of each slot are cached."""
        self.host["lengths"][slots] = lengths

    def step(self, tokens: Ints) -> None:
        lengths = self.host["lengths"]
        self.host["tokens"].reshape(-1)[:] = tokens
        self._reserve(int(lengths.max()) + 1)
        self.host["total"][...] = lengths.max() + 1
        self.run()
        lengths += self.taken

    def best(self) -> tuple[Ints, Scores]:
        return self.host["best"], self.host["best_scores"]

    def logits(self) -> Scores:
        return self.host["logits"]

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        starts = self.bases[sources] + starts
        stops = self.host["lengths"][sources]
        caches = [self.host[name] for name in self.held if name.startswith("past.")]
        for slot, source, start, stop in zip(
            slots.tolist(), sources.tolist(), starts.tolist(), stops.tolist(), strict=True
        ):
            for cache in caches:
                cache[slot, :, start:stop] = cache[source, :, start:stop]

    def keep(self, order: Ints) -> None:
        moved = np.flatnonzero(order != np.arange(len(order)))
        self._move(moved, order[moved])
        self.slots = len(order)
        for name in self.held:
            if self.host[name].ndim and name != "picks":
                self.held[name] = self.backend.first(self.held[name], self.slots)
                self.host[name] = self.backend.host(self.held[name])
        self.bases, self.taken = self.bases[: self.slots], self.taken[: self.slots]
        self._bind()

    def _move(self, slots: Ints, sources: Ints) -> None:
        """Make `slots` what `sources` are."""
        self.copy(slots, sources, -self.bases[sources])
        self.bases[slots] = self.bases[sources]
        self.taken[slots] = 1
        for name, array in self.host.items():
            if name.startswith("cross."):
                lasts = self.host["source_last"][sources]
                for slot, source, last in zip(slots, sources, lasts, strict=True):
                    array[slot, :, : last + 1] = array[source, :, : last + 1]
            elif name in ("lengths", "source_last") or name.startswith("last."):
                array[slots] = array[sources]

    def _count(self, most: int) -> int:
        """Slots for all rows, or as many as there is room for; whole places."""
        settings = self.settings
        positions = most + (0 if settings.causal else self.feeds["input_ids"].shape[1])
        each = 8 * settings.layers * settings.heads * settings.head_dim * positions
        fit = max(1, min(capacity(settings), self.backend.cache_bytes // each) // self.width)
        return min(fit, len(self.sources)) * self.width

    def _spared(self) -> int:
        """Positions for which there is memory already."""
        if (old := self.memory.get("past.0.key")) is None:
            return 0
        width = self.settings.heads * self.settings.head_dim
        return self.backend.host(old).size // (self.slots * width)

    def _hold(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.held[name] = self.backend.buffer(shape, dtype, self.memory.get(name))
        self.memory[name] = self.held[name]
        self.host[name] = self.backend.host(self.held[name])

    def _reserve(self, positions: int) -> None:
        """See that every slot has room for as many."""
        if positions <= self.room:
            return
        filled, self.room = self.room, min(self.most, max(positions, 2 * self.room))
        for name in [name for name in self.held if name.startswith("past.")]:
            old = self.host[name]
            self._hold(name, (*old.shape[:2], self.room, old.shape[3]), old.dtype)
            # The larger buffer may be over the same memory: NumPy copies as if it were not.
            self.host[name][:, :, :filled] = old[:, :, :filled]
        self._bind()

    def _shapes(self, picks: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of every buffer by its name as an input or output of the graph."""
        s, count = self.settings, self.slots
        own = (count, s.heads, self.room, s.head_dim)
        cross = (count, s.heads, self.feeds["input_ids"].shape[1], s.head_dim)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "tokens": ((count, 1) if s.causal else (count,), np.int64),
            "lengths": ((count,), np.int32),
            "total": ((), np.int32),
            "picks": ((1,), np.int64),
            "scored": ((), np.bool_),
            "logits": ((count, s.vocabulary), np.float32),
            "best": ((count, picks), np.int64),
            "best_scores": ((count, picks), np.float32),
        }
        layers = [f"{n}.{part}" for n in range(s.layers) for part in PARTS]
        shapes |= {f"past.{layer}": (own, np.float32) for layer in layers}
        if s.causal:
            return {**shapes, "asked": ((count,), np.int64)}
        shapes |= {f"cross.{layer}": (cross, np.float32) for layer in layers}
        last = (count, 1, s.heads * s.head_dim)
        shapes |= {f"last.{layer}": (last, np.float32) for layer in layers}
        shapes |= {"source_last": ((count,), np.int32), "source_total": ((), np.int32)}
        return shapes

    def _bind(self) -> None:
        """Bind the graph to the buffers; what it appends to, it reads and writes."""
        graph = self.backend.graph("step")
        renamed = {"present.": "past.", "kept.": "cross."}
        outputs = {}
        for name in graph.outputs:
            held = name
            for made, kept in renamed.items():
                held = held.replace(made, kept)
            outputs[name] = self.held[held]
        self.run = graph.bind({name: self.held[name] for name in graph.inputs}, outputs)

    def _encode(self, row: int) -> None:
        """See that the keys and values of a row are at hand: of it and some rows behind it."""
        first, stop = self.encoded
        if first <= row < stop:
            return
        rows, width = together(self.sources[row : row + self.slots], self.budget)
        self.encoded = row, row + rows
        self.count(padded=rows * width)
        feeds = {name: given[row : row + rows, :width] for name, given in self.feeds.items()}
        self.ahead = self._prompted(feeds) if self.settings.causal else self._read(feeds)

    def _read(self, feeds: Mapping[str, Ints]) -> dict[str, NDArray[Any]]:
        """The encoder's keys and values by the name of the buffer they belong to."""
        names = [name for name in self.held if name.startswith("cross.")]
        found = self.backend.graph("encoder").run(feeds, names)
        return {n: self.backend.host(v) for n, v in zip(names, found, strict=True)}

    def _prompted(self, feeds: Mapping[str, Ints]) -> dict[str, NDArray[Any]]:
        """A causal model's keys and values of all tokens of the prompts but their last ones.

        Places behind a shorter prompt hold what its padding made; they are not put into a slot.
        """
        tokens, settings = feeds["input_ids"][:, :-1], self.settings
        names = [name for name in self.held if name.startswith("past.")]
        if not tokens.shape[1]:
            return {}
        nothing = np.zeros((len(tokens), settings.heads, 0, settings.head_dim), np.float32)
        given = {
            "tokens": tokens,
            "lengths": np.zeros(len(tokens), np.int32),
            "total": np.array(tokens.shape[1], np.int32),
            "asked": np.zeros(1, np.int64),
            "picks": np.ones(1, np.int64),
            "scored": np.array(False),
            **dict.fromkeys(names, nothing),
        }
        fetched = [name.replace("past", "present") for name in names]
        found = self.backend.graph("step").run(given, fetched)
        return {n: self.backend.host(v) for n, v in zip(names, found, strict=True)}

    def _place(self, slots: Ints, row: int) -> None:
        """Put the keys and values at hand of a row into each of its slots."""
        at = row - self.encoded[0]
        length = int(self.sources[row]) - self.settings.causal
        for name, made in self.ahead.items():
            own = made[at, :, :length]
            self.host[name][slots, :, :length] = own
            if not self.settings.causal:
                self.host[name.replace("cross", "last")][slots, 0] = own[:, -1].ravel()
