"""Decoding whose state stays on the device: the resident graph and the buffers it is bound to.

The host writes a slot's state when a row begins, launches steps without waiting for what they say,
and looks a few of them later: which token a slot reads next, whether it is finished, and how many
positions it has cached, the device knows by itself. A slot whose row is finished says nothing until
another one is admitted.

A captured step is kept with the buffers that it is bound to (`kept`), and launched again by the
next batch. Numbers of slots, rooms and widths are powers of two, and the last of the rooms is in
quarters between two of them, that there are few of all. Rows' own keys and values have two pieces
of memory: one is read while they move to the other, with more room or in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import STATE_WIDTH, SYNC_EVERY, DecoderConfig
from engine.core.graphs import Role
from engine.core.types import Ints
from engine.errors import Stopped
from engine.generation.buffer_pool import BoundStep, BufferPool
from engine.generation.host_cache import PARTS, together
from engine.generation.request import Request
from engine.generation.scheduler import Count, Flags, Scores, uncounted
from engine.runtime.protocol import Backend, Value

# Slots at most: a GPU's products are as fast as they get from some hundreds of rows on.
MOST = 512
# When no row waits any more and a quarter of the slots is enough, the others are given up: down to
# as many, which are no slower than fewer.
FEWEST = 64
# Positions that a cache has at first; it doubles when a row needs more.
POSITIONS = 32
# Source positions at least.
SOURCES = 16
# Padded tokens of an encoder's batch up to which rows need not be alike: only their keys and values
# are padded there.
ENOUGH = 16384
TOKEN, LENGTH, LEFT, SOURCE = range(STATE_WIDTH)


class DeviceCache:
    """See `loop.Cache`.

    Args:
        backend: Holds the graph `device_step` and those around it, and `encoder` unless the model
            is causal.
        settings, feeds, width, most, picks, scored, budget, count: As `slots.HostCache` takes them.
        memory: What earlier calls have left here, `Kept`, and what this one leaves.
    """

    refills, narrows = True, False

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
        memory: dict[str, Any] | None = None,
        budget: int = 1024,
        count: Count = uncounted,
    ) -> None:
        self.backend, self.settings, self.feeds, self.width = backend, settings, feeds, width
        self.picks, self.scored, self.budget, self.count = picks, scored, budget, count
        self.kept: BufferPool = ({} if memory is None else memory).setdefault(
            "resident", BufferPool()
        )
        self.graph = backend.graph("device_step")
        self.sources = feeds["attention_mask"].sum(axis=1)
        self.most = most
        self.source = 0 if settings.causal else _power(feeds["input_ids"].shape[1], SOURCES)
        self.slots = self._count()
        # A prompt is read at once, and needs room for all of it.
        first = int(self.sources.max()) if settings.causal else 1
        self.room, self.side = self._rounded(first), 0
        self.held = self._hold()
        self.encoded: tuple[int, int] = (0, 0)
        self.ahead: list[Value] = []
        # What the host knows of the states; between launches it is what they are.
        self.state = np.zeros((self.slots, STATE_WIDTH), np.int64)
        self.forced = np.full((self.slots, self.room if settings.causal else 0), -1, np.int64)
        self.bases = np.zeros(self.slots, np.int64)
        self.taken = np.zeros(self.slots, np.bool_)

    def admit(self, slots: Ints, rows: Ints) -> None:
        if self.settings.causal:
            self._read(slots, rows)
            self.bases[slots] = self.sources[rows] - 1
        else:
            self._encode(slots, rows)
            self.state[slots, SOURCE] = self.sources[rows]
        self.state[slots, LENGTH] = self.bases[slots]
        self.taken[slots] = True

    def begin(self, slots: Ints, rows: Ints, tokens: Ints, most: int) -> None:
        """Let rows begin that say up to `most` tokens by themselves; a causal model reads the
        prompt on the way."""
        if self.settings.causal:
            self._force(slots, rows)
            self.state[slots, TOKEN] = self.feeds["input_ids"][rows, 0]
            self.state[slots, LENGTH] = 0
            self.taken[slots] = True
        else:
            self.admit(slots, rows)
            self.state[slots, TOKEN] = tokens
        self.state[slots, LEFT] = most

    def launch(self, steps: int) -> tuple[Ints, Ints]:
        """Take that many steps, `SYNC_EVERY` at most, and only then look.

        Returns:
            What each slot said, int64 (slots, steps), -1 where nothing; and how many tokens it may
            still say, int64 (slots,), 0 where its row is finished.
        """
        self.reserve(int(self.state[self.taken, LENGTH].max(initial=0)) + steps)
        self._put()
        for _ in range(steps):
            self.held.step()
        said = self.backend.host(self.held.buffers["said"])[:, SYNC_EVERY - steps :]
        self.state = self.backend.host(self.held.buffers["state"]).copy()
        return said.copy(), self.state[:, LEFT]

    def retire(self, slots: Ints) -> None:
        self.taken[slots] = False
        self.state[slots, LENGTH] = self.state[slots, LEFT] = 0

    def set_lengths(self, slots: Ints, lengths: Ints) -> None:
        """Say how many positions of each slot are cached."""
        self.state[slots, LENGTH] = lengths

    def step(self, tokens: Ints) -> None:
        self.state[:, TOKEN] = tokens
        # Whatever it says, the host says what is read next.
        self.state[:, LEFT] = np.where(self.taken, 2, 0)
        if self.settings.causal:
            self.forced[:] = -1
        self.reserve(int(self.state[self.taken, LENGTH].max(initial=0)) + 1)
        self._put()
        self.held.step()
        self.state[self.taken, LENGTH] += 1

    def best(self) -> tuple[Ints, Scores]:
        feeds = {"logits": self.held.buffers["logits"], "picks": np.array([self.picks])}
        names = ["best", "best_scores" if self.scored else "best_logits"]
        tokens, scores = self.backend.graph("pick").run(feeds, names)
        return self.backend.host(tokens), np.asarray(self.backend.host(scores), np.float32)

    def logits(self) -> Scores:
        return np.asarray(self.backend.host(self.held.buffers["logits"]), np.float32)

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        order = np.arange(self.slots)
        order[slots] = sources
        self._turned("move", "moved.", {"sources": order})
        self.state[slots, LENGTH] = self.state[sources, LENGTH]
        self.bases[slots] = self.bases[sources]

    def keep(self, order: Ints) -> None:
        """Is not asked: beams do not narrow."""

    def narrow(self, slots: Ints) -> bool:
        """Go on with these slots alone, as the first of fewer, where a quarter of all is enough."""
        fewer = self.slots // 4
        if fewer < max(FEWEST, len(slots)):
            return False
        sources = np.zeros(fewer, np.int64)
        sources[: len(slots)] = slots
        if not self.settings.causal:
            # They have one side only: what is read and written must not be the same memory.
            caches = self._caches("cross.")
            feeds = {name.replace("cross.", "past."): value for name, value in caches.items()}
            made = [name.replace("cross.", "moved.") for name in self._crosses()]
            self.ahead = self.backend.graph("move").run({**feeds, "sources": sources}, made)
        self.slots = fewer
        self._turned("move", "moved.", {"sources": sources})
        if not self.settings.causal:
            self.wide = self.source
            self._place(np.arange(fewer), np.arange(fewer))
        real = np.arange(fewer) < len(slots)
        self.state = np.where(real[:, None], self.state[sources], 0)
        self.taken, self.bases = self.taken[sources] & real, self.bases[sources]
        self.forced = self.forced[sources]
        return True

    def reserve(self, positions: int) -> None:
        """See that every slot has room for as many."""
        if (room := self._rounded(min(positions, self.most))) <= self.room:
            return
        before, self.room = self.room, room
        pads = np.array([0, 0, 0, 0, 0, 0, room - before, 0])
        self._turned("grow", "grown.", {"pads": pads})
        if self.settings.causal:
            more = np.full((self.slots, room - before), -1, np.int64)
            self.forced = np.concatenate([self.forced, more], axis=1)

    def _put(self) -> None:
        self.backend.put(self.held.buffers["state"], self.state)
        if self.settings.causal:
            self.backend.put(self.held.buffers["forced"], self.forced)

    def _encode(self, slots: Ints, rows: Ints) -> None:
        """Put the encoder's keys and values of rows, ascending, into their slots."""
        at = 0
        while at < len(rows):
            self._look_ahead(int(rows[at]))
            first, stop = self.encoded
            here = at + int(np.searchsorted(rows[at:], stop))
            self._place(slots[at:here], rows[at:here] - first)
            at = here

    def _look_ahead(self, row: int) -> None:
        """See that the keys and values of a row are at hand: of it and some rows behind it."""
        first, stop = self.encoded
        if first <= row < stop:
            return
        waiting = self.sources[row : row + self.slots]
        rows, width = together(waiting, self.budget, min(ENOUGH, self.budget))
        # Attention with a bias has a fused kernel for lengths that 8 divides.
        width = min(-(-width // 8) * 8, self.feeds["input_ids"].shape[1])
        self.encoded = row, row + rows
        self.count(padded=rows * width)
        feeds = {name: given[row : row + rows, :width] for name, given in self.feeds.items()}
        self.ahead = self.backend.graph("encoder").run(feeds, self._crosses())
        self.wide = width

    def _place(self, slots: Ints, taken: Ints) -> None:
        """Write them into the caches as they are."""
        feeds: dict[str, Value] = {
            "slots": slots.reshape(-1, 1, 1, 1),
            "taken": taken,
            "places": np.arange(self.wide).reshape(1, 1, -1, 1),
        }
        for name, value in zip(self._crosses(), self.ahead, strict=True):
            feeds[name.replace("cross.", "given.")] = value
        caches = self._caches("cross.")
        outputs = {n.replace("cross.", "held."): value for n, value in caches.items()}
        self.backend.graph("admit").bind({**feeds, **caches}, outputs)()

    def _read(self, slots: Ints, rows: Ints) -> None:
        """Have prompts cached but for their last tokens, a step a token, while the others wait."""
        lengths = self.sources[rows] - 1
        # The others write where they will write next: that must be within their caches.
        under_way = self.state[self.taken, LENGTH].max(initial=0)
        self.reserve(1 + int(max(under_way, lengths.max())))
        self.forced[:] = -1
        self._force(slots, rows)
        kept = self.state.copy()
        # A row whose prompt is at an end says a token, which nobody hears, and stops there.
        kept[:, LEFT] = 0
        kept[slots, TOKEN], kept[slots, LENGTH] = self.feeds["input_ids"][rows, 0], 0
        kept[slots, LEFT] = lengths > 0
        self.backend.put(self.held.buffers["state"], kept)
        self.backend.put(self.held.buffers["forced"], self.forced)
        for _ in range(int(lengths.max())):
            self.held.step()

    def _force(self, slots: Ints, rows: Ints) -> None:
        """Say what follows each place of the prompts."""
        ids = self.feeds["input_ids"][rows]
        self.reserve(int(self.sources[rows].max()))
        self.count(padded=int(self.sources[rows].sum()))
        self.forced[slots] = -1
        real = np.arange(1, ids.shape[1]) < self.sources[rows][:, None]
        following = np.where(real, ids[:, 1:], -1)
        width = min(following.shape[1], self.room)
        self.forced[slots, :width] = following[:, :width]

    def _turned(self, graph: Role, made: str, feeds: Mapping[str, Value]) -> None:
        """Run a graph that makes other caches of rows' own: from one side to the other."""
        old, self.side = self._caches("past."), 1 - self.side
        self.held = self._hold()
        outputs = {n.replace("past.", made): value for n, value in self._caches("past.").items()}
        self.backend.graph(graph).bind({**feeds, **old}, outputs)()

    def _caches(self, kind: str) -> dict[str, Value]:
        return {n: value for n, value in self.held.buffers.items() if n.startswith(kind)}

    def _crosses(self) -> list[str]:
        return [f"cross.{n}.{part}" for n in range(self.settings.layers) for part in PARTS]

    def _count(self) -> int:
        """Slots for all rows, or as many as there is room for: places to the next power of two.
        What earlier calls have left does not matter, or a row's answer might hang on them."""
        s, own = self.settings, 2 * _graded(self.most)
        each = 2 * s.layers * s.heads * s.head_dim * (own + self.source) * self._size() * self.width
        fit = max(1, min(MOST // self.width, self.backend.cache_bytes // max(1, each)))
        return min(_power(len(self.sources)), _power(fit + 1) // 2) * self.width

    def _rounded(self, positions: int) -> int:
        return min(_power(positions, POSITIONS), _graded(self.most))

    def _size(self) -> int:
        """Bytes of a number in a cache."""
        return int(np.dtype(self.graph.dtypes["past.0.key"]).itemsize)

    def _hold(self) -> BoundStep:
        """Buffers of the present shape, bound by an earlier call or now."""
        key = f"{self.slots}.{self.room}.{self.source}.{self.side}"
        if key not in self.kept.held:
            self.kept.held[key] = self._made()
        return self.kept.held[key]

    def _piece(self, name: str, shape: tuple[int, ...]) -> str:
        """The piece of memory that a buffer lies in: what the host reads or writes has its own."""
        if name.startswith("past."):
            return f"{name}.{self.side}"
        return name if name.startswith("cross.") else f"{name}.{shape}"

    def _made(self) -> BoundStep:
        shapes = self._shapes()
        pieces = {name: self._piece(name, shape) for name, (shape, _) in shapes.items()}
        buffers = {n: self.kept.buffer(self.backend, pieces[n], *shapes[n]) for n in shapes}
        for name in {"places", "source_places"} & shapes.keys():
            self.backend.put(buffers[name], np.arange(shapes[name][0][0]))
        self.backend.put(buffers["ends"], np.array(self.settings.end_ids, np.int64))
        outputs = {}
        for name in self.graph.outputs:
            outputs[name] = buffers[name.replace("present.", "past.").removeprefix("next_")]
        step = self.graph.bind({name: buffers[name] for name in self.graph.inputs}, outputs)
        # A call that is captured is carried out more than once the first time: over idle slots it
        # changes nothing. Whoever launches it next says first how they are.
        self.backend.put(buffers["state"], np.zeros((self.slots, STATE_WIDTH), np.int64))
        step()
        return BoundStep(buffers, pieces, step)

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of every buffer by its name as an input or output of the graph."""
        s, count, dtypes = self.settings, self.slots, self.graph.dtypes
        own = (count, s.heads, self.room, s.head_dim)
        cross = (count, s.heads, self.source, s.head_dim)
        layers = [f"{n}.{part}" for n in range(s.layers) for part in PARTS]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "state": ((count, STATE_WIDTH), np.int64),
            "said": ((count, SYNC_EVERY), np.int64),
            "places": ((self.room,), np.int64),
            "ends": ((len(s.end_ids),), np.int64),
            "logits": ((count, s.vocabulary), dtypes["logits"]),
            **{f"past.{layer}": (own, dtypes["past.0.key"]) for layer in layers},
        }
        if s.causal:
            return {**shapes, "forced": ((count, self.room), np.int64)}
        shapes |= {f"cross.{layer}": (cross, dtypes["cross.0.key"]) for layer in layers}
        return {**shapes, "source_places": ((self.source,), np.int64)}


def _power(number: int, least: int = 1) -> int:
    """The next power of two, from `least` on."""
    return max(least, 1 << max(0, number - 1).bit_length())


def _graded(number: int) -> int:
    """The next of four grades between powers of two."""
    grade = max(1, _power(number) // 8)
    return -(-number // grade) * grade


def decode(
    cache: DeviceCache, job: Request, stopped: Callable[[], bool], count: Count
) -> tuple[NDArray[np.int64], Ints, Flags]:
    """Take all rows of a job through the slots, each saying its likeliest tokens.

    Returns:
        Tokens, int64 (rows, max_new_tokens), behind a row's length its padding; lengths (rows,),
        the end token included; and which rows ended before the limit.

    Raises:
        Stopped: `stopped` said so.
    """
    rows, most = len(job.prompt), job.max_new_tokens
    ids = np.full((rows, most), job.settings.pad_id, np.int64)
    lengths = np.zeros(rows, np.int64)
    owners = np.full(cache.slots, -1)
    waiting = 0
    while True:
        free = np.flatnonzero(owners < 0)[: rows - waiting]
        if len(free):
            came = np.arange(waiting, waiting + len(free))
            cache.begin(free, came, job.prompt[came, -1], most)
            owners[free] = came
            waiting += len(free)
        places = np.flatnonzero(owners >= 0)
        if not len(places):
            break
        if waiting == rows and cache.narrow(places):
            owners = np.append(owners[places], np.full(cache.slots - len(places), -1))
            places = np.arange(len(places))
        if stopped():
            raise Stopped("stopped while decoding")
        said, left = cache.launch(SYNC_EVERY)
        heard = said[places] >= 0
        at = lengths[owners[places], None] + heard.cumsum(axis=1) - 1
        ids[np.broadcast_to(owners[places, None], at.shape)[heard], at[heard]] = said[places][heard]
        lengths[owners[places]] += heard.sum(axis=1)
        count(places=SYNC_EVERY * len(owners), taken=int(heard.sum()))
        through = places[left[places] == 0]
        cache.retire(through)
        owners[through] = -1
    ends = np.array(job.settings.end_ids, np.int64)
    last = ids[np.arange(rows), np.maximum(lengths - 1, 0)]
    return ids, lengths, np.isin(last, ends)
