"""A KV cache that stays on the GPU: the device's step graph and the buffers it is bound to.

The host writes a slot's state when a row begins, launches steps without waiting for their tokens,
and synchronizes every few steps. Which token a slot reads next, whether it is finished and how many
positions it has cached, the device keeps track of by itself. A slot whose row is finished emits
nothing until another row is admitted.

A captured step is kept with the buffers that it is bound to (`buffer_pool`), and launched again by
the next batch. Slot counts, cache lengths and widths are rounded up to powers of two (the largest
cache length to quarter steps), so that few distinct shapes are captured. The rows' own keys and
values have two sides: one is read while the other is written, with more positions or in another
order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from engine.bundle.format import STATE_WIDTH, SYNC_EVERY, DecoderConfig
from engine.core.graphs import Role
from engine.core.types import Ints
from engine.generation.buffer_pool import BoundStep, BufferPool, Shape
from engine.generation.encoder_batches import EncoderBatches
from engine.generation.host_cache import PARTS
from engine.generation.scheduler import Count, Scores, uncounted
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
MIXED = 16384
# Attention with a bias has a fused kernel for lengths that 8 divides.
MULTIPLE = 8
# Columns of a slot's state.
TOKEN, LENGTH, BUDGET, SOURCE = range(STATE_WIDTH)


class DeviceCache:
    """See `scheduler.KVCache`.

    Args:
        backend: Holds `device_step` and the graphs around it, and `encoder` unless the model is
            causal.
        decoder, feeds, width, positions, picks, scored, pool, budget, count: As
            `host_cache.HostCache` takes them.
        max_slots: 0 for as many as a GPU makes use of.
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
        pool: BufferPool | None = None,
        budget: int = 1024,
        count: Count = uncounted,
        max_slots: int = 0,
    ) -> None:
        self.backend, self.decoder, self.feeds, self.width = backend, decoder, feeds, width
        self.picks, self.scored, self.count = picks, scored, count
        self.pool = pool or BufferPool()
        self.graph = backend.graph("device_step")
        self.batches = EncoderBatches(
            feeds,
            self._encode,
            budget=budget,
            mixed=min(MIXED, budget),
            count=count,
            multiple=MULTIPLE,
        )
        self.sources = self.batches.lengths
        self.most = positions
        # Source positions of every slot.
        self.source = 0 if decoder.causal else _power_of_two(feeds["input_ids"].shape[1], SOURCES)
        self.slots = self._slot_count(max_slots or MOST)
        # A prompt is cached as a whole.
        first = int(self.sources.max()) if decoder.causal else 1
        self.positions, self.side = self._rounded(first), 0
        self.bound = self._bound_step()
        # Whether the device chooses the tokens.
        self.autonomous = False
        # What the host knows of the states; between launches it is what they are.
        self.state = np.zeros((self.slots, STATE_WIDTH), np.int64)
        forced = self.positions if decoder.causal else 0
        self.forced = np.full((self.slots, forced), -1, np.int64)
        self.bases = np.zeros(self.slots, np.int64)
        self.taken = np.zeros(self.slots, np.bool_)

    def admit(self, slots: Ints, rows: Ints) -> None:
        if self.decoder.causal:
            self._prefill(slots, rows)
            self.bases[slots] = self.sources[rows] - 1
        else:
            for some, at in self.batches.parts(slots, rows, self.slots):
                self._fill(self.batches.values, self.batches.width, some, at)
            self.state[slots, SOURCE] = self.sources[rows]
        self.state[slots, LENGTH] = self.bases[slots]
        self.taken[slots] = True

    def start(self, slots: Ints, rows: Ints, tokens: Ints, budgets: Ints) -> None:
        """Let rows begin for which the device chooses up to `budgets` tokens, after `tokens`; of a
        causal model it reads the prompt on the way. All int64 (n,)."""
        if self.decoder.causal:
            self._force(slots, rows)
            self.state[slots, TOKEN] = self.feeds["input_ids"][rows, 0]
            self.state[slots, LENGTH] = 0
            self.taken[slots] = True
        else:
            self.admit(slots, rows)
            self.state[slots, TOKEN] = tokens
        self.state[slots, BUDGET] = budgets
        self.autonomous = True

    def launch(self, steps: int) -> Ints:
        """Take that many steps, `SYNC_EVERY` at most, and only then look: what each slot has
        emitted, int64 (slots, steps), -1 where nothing. `state` is up to date then."""
        self.reserve(int(self.state[self.taken, LENGTH].max(initial=0)) + steps)
        self._put_state()
        for _ in range(steps):
            self.bound.run()
        emitted = self.backend.host(self.bound.buffers["emitted"])[:, SYNC_EVERY - steps :].copy()
        self.state = self.backend.host(self.bound.buffers["state"]).copy()
        return emitted

    def retire(self, slots: Ints) -> None:
        self.taken[slots] = False
        self.state[slots, LENGTH] = self.state[slots, BUDGET] = 0

    def step(self, tokens: Ints) -> None:
        self.state[:, TOKEN] = tokens
        # Whatever the device chooses, the host chooses what is read next.
        self.state[:, BUDGET] = np.where(self.taken, 2, 0)
        if self.decoder.causal:
            self.forced[:] = -1
        self.reserve(int(self.state[self.taken, LENGTH].max(initial=0)) + 1)
        self._put_state()
        self.bound.run()
        self.state[self.taken, LENGTH] += 1

    def best(self) -> tuple[Ints, Scores]:
        feeds = {"logits": self.bound.buffers["logits"], "picks": np.array([self.picks])}
        names = ["best", "best_scores" if self.scored else "best_logits"]
        tokens, scores = self.backend.graph("pick").run(feeds, names)
        return self.backend.host(tokens), np.asarray(self.backend.host(scores), np.float32)

    def logits(self) -> Scores:
        return np.asarray(self.backend.host(self.bound.buffers["logits"]), np.float32)

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        order = np.arange(self.slots)
        order[slots] = sources
        self._reorder(order)
        self.state[slots, LENGTH] = self.state[sources, LENGTH]
        self.bases[slots] = self.bases[sources]

    def narrowed(self, used: int) -> int:
        """A quarter where that is enough, but only where the device chooses the tokens: elsewhere
        it has not been measured."""
        fewer = self.slots // 4
        return fewer if self.autonomous and fewer >= max(FEWEST, used) else self.slots

    def keep(self, order: Ints) -> None:
        # Sources have one side only: they must not be read and written at once.
        sources = {} if self.decoder.causal else self._reordered_sources(order)
        taken = self.taken[order]
        self.slots = len(order)
        self._rewrite("move", "moved.", {"sources": order})
        if sources:
            every = np.arange(self.slots)
            self._fill(sources, self.source, every, every)
        self.state = np.where(taken[:, None], self.state[order], 0)
        self.taken, self.bases, self.forced = taken, self.bases[order], self.forced[order]

    def reserve(self, positions: int) -> None:
        """See that every slot holds as many."""
        if (rounded := self._rounded(min(positions, self.most))) <= self.positions:
            return
        before, self.positions = self.positions, rounded
        pads = np.array([0, 0, 0, 0, 0, 0, rounded - before, 0])
        self._rewrite("grow", "grown.", {"pads": pads})
        if self.decoder.causal:
            more = np.full((self.slots, rounded - before), -1, np.int64)
            self.forced = np.concatenate([self.forced, more], axis=1)

    def _put_state(self) -> None:
        self.backend.put(self.bound.buffers["state"], self.state)
        if self.decoder.causal:
            self.backend.put(self.bound.buffers["forced_tokens"], self.forced)

    def _encode(self, feeds: Mapping[str, Ints]) -> dict[str, Value]:
        names = list(self._caches("cross."))
        return dict(zip(names, self.backend.graph("encoder").run(feeds, names), strict=True))

    def _fill(self, values: Mapping[str, Value], width: int, slots: Ints, at: Ints) -> None:
        """Write an encoder's keys and values of rows `at` into slots."""
        caches = self._caches("cross.")
        feeds: dict[str, Value] = {
            "slots": slots.reshape(-1, 1, 1, 1),
            "rows": at,
            "positions": np.arange(width).reshape(1, 1, -1, 1),
            **{name.replace("cross.", "encoded."): value for name, value in values.items()},
            **caches,
        }
        outputs = {name.replace("cross.", "filled."): value for name, value in caches.items()}
        self.backend.graph("admit").bind(feeds, outputs)()

    def _reordered_sources(self, order: Ints) -> dict[str, Value]:
        """Copies of the encoder's keys and values, the i-th slot's those of order[i]."""
        caches = self._caches("cross.")
        feeds = {name.replace("cross.", "past."): value for name, value in caches.items()}
        outputs = [name.replace("cross.", "moved.") for name in caches]
        values = self.backend.graph("move").run({**feeds, "sources": order}, outputs)
        return dict(zip(caches, values, strict=True))

    def _prefill(self, slots: Ints, rows: Ints) -> None:
        """Cache prompts but for their last tokens, a step a token, while the other rows wait."""
        lengths = self.sources[rows] - 1
        # The others write where they will write next: that must be within their caches.
        under_way = self.state[self.taken, LENGTH].max(initial=0)
        self.reserve(1 + int(max(under_way, lengths.max())))
        self.forced[:] = -1
        self._force(slots, rows)
        state = self.state.copy()
        # A row at the end of its prompt emits a token, which is ignored, and stops there.
        state[:, BUDGET] = 0
        state[slots, TOKEN], state[slots, LENGTH] = self.feeds["input_ids"][rows, 0], 0
        state[slots, BUDGET] = lengths > 0
        self.backend.put(self.bound.buffers["state"], state)
        self.backend.put(self.bound.buffers["forced_tokens"], self.forced)
        for _ in range(int(lengths.max())):
            self.bound.run()

    def _force(self, slots: Ints, rows: Ints) -> None:
        """Set the token that follows each position of the prompts."""
        ids = self.feeds["input_ids"][rows]
        self.reserve(int(self.sources[rows].max()))
        self.count(padded=int(self.sources[rows].sum()))
        self.forced[slots] = -1
        real = np.arange(1, ids.shape[1]) < self.sources[rows][:, None]
        following = np.where(real, ids[:, 1:], -1)
        width = min(following.shape[1], self.positions)
        self.forced[slots, :width] = following[:, :width]

    def _reorder(self, order: Ints) -> None:
        """Make the rows' own caches those of the slots `order`, int64 (slots,); beams do so at
        nearly every step, so what is bound stays so."""
        key = f"move.{self._key}"
        old, before = self._caches("past."), self.bound
        self.side = 1 - self.side
        self.bound = self._bound_step()
        if key not in self.pool.steps:
            self.pool.steps[key] = self._bound_move(old, before)
        move = self.pool.steps[key]
        self.backend.put(move.buffers["sources"], order)
        move.run()

    def _bound_move(self, old: Mapping[str, Value], before: BoundStep) -> BoundStep:
        name = f"sources.{self.slots}"
        sources = self.pool.buffer(self.backend, name, (self.slots,), np.int64)
        outputs = {
            n.replace("past.", "moved."): value for n, value in self._caches("past.").items()
        }
        run = self.backend.graph("move").bind({"sources": sources, **old}, outputs)
        both = {
            f"{side}.{n}": a
            for side, step in enumerate((before, self.bound))
            for n, a in step.allocations.items()
        }
        return BoundStep({"sources": sources}, {"sources": name, **both}, run)

    def _rewrite(self, graph: Role, prefix: str, feeds: Mapping[str, Value]) -> None:
        """Run a graph that makes new caches of the rows' own: from one side to the other."""
        old, self.side = self._caches("past."), 1 - self.side
        self.bound = self._bound_step()
        outputs = {n.replace("past.", prefix): value for n, value in self._caches("past.").items()}
        self.backend.graph(graph).bind({**feeds, **old}, outputs)()

    def _caches(self, prefix: str) -> dict[str, Value]:
        return {n: value for n, value in self.bound.buffers.items() if n.startswith(prefix)}

    def _slot_count(self, most: int) -> int:
        """Slots for all rows, or as many as fit into memory: groups to the next power of two.
        Memory of earlier calls does not count, or a row's answer might depend on them."""
        d, own = self.decoder, 2 * _quarter_step(self.most)
        size = np.dtype(self.graph.dtypes["past.0.key"]).itemsize
        each = 2 * d.layers * d.cache_heads * d.head_dim * (own + self.source) * size * self.width
        groups = max(1, min(most // self.width, self.backend.cache_bytes // max(1, each)))
        return min(_power_of_two(len(self.sources)), _power_of_two(groups + 1) // 2) * self.width

    def _rounded(self, positions: int) -> int:
        return min(_power_of_two(positions, POSITIONS), _quarter_step(self.most))

    def _bound_step(self) -> BoundStep:
        """Buffers of the present shape, bound by an earlier call or now."""
        if self._key not in self.pool.steps:
            self.pool.steps[self._key] = self._bind()
        return self.pool.steps[self._key]

    @property
    def _key(self) -> str:
        """Of a shape of the caches, and the side that is read."""
        return f"{self.slots}.{self.positions}.{self.source}.{self.side}"

    def _allocation(self, name: str, shape: Shape) -> str:
        """That a buffer lies in. What the host reads or writes has one for each shape."""
        if name.startswith("past."):
            return f"{name}.{self.side}"
        return name if name.startswith("cross.") else f"{name}.{shape}"

    def _bind(self) -> BoundStep:
        shapes = self._shapes()
        names = {name: self._allocation(name, shape) for name, (shape, _) in shapes.items()}
        buffers = {n: self.pool.buffer(self.backend, names[n], *shapes[n]) for n in shapes}
        for name in {"cache_positions", "source_positions"} & shapes.keys():
            self.backend.put(buffers[name], np.arange(shapes[name][0][0]))
        self.backend.put(buffers["eos_ids"], np.array(self.decoder.end_ids, np.int64))
        outputs = {}
        for name in self.graph.outputs:
            outputs[name] = buffers[name.replace("present.", "past.").removeprefix("next_")]
        run = self.graph.bind({name: buffers[name] for name in self.graph.inputs}, outputs)
        # A step that is captured runs more than once at its first call: over free slots, where it
        # changes nothing. Whoever runs it next sets the states first.
        self.backend.put(buffers["state"], np.zeros((self.slots, STATE_WIDTH), np.int64))
        run()
        return BoundStep(buffers, names, run)

    def _shapes(self) -> dict[str, tuple[Shape, DTypeLike]]:
        """Shape and dtype of every buffer by its name as an input or output of the graph."""
        d, count, dtypes = self.decoder, self.slots, self.graph.dtypes
        past = (count, d.cache_heads, self.positions, d.head_dim)
        cross = (count, d.cache_heads, self.source, d.head_dim)
        layers = [f"{n}.{part}" for n in range(d.layers) for part in PARTS]
        shapes: dict[str, tuple[Shape, DTypeLike]] = {
            "state": ((count, STATE_WIDTH), np.int64),
            "emitted": ((count, SYNC_EVERY), np.int64),
            "cache_positions": ((self.positions,), np.int64),
            "eos_ids": ((len(d.end_ids),), np.int64),
            "logits": ((count, d.vocabulary), dtypes["logits"]),
            **{f"past.{layer}": (past, dtypes["past.0.key"]) for layer in layers},
        }
        if d.causal:
            return {**shapes, "forced_tokens": ((count, self.positions), np.int64)}
        shapes |= {f"cross.{layer}": (cross, dtypes["cross.0.key"]) for layer in layers}
        return {**shapes, "source_positions": ((self.source,), np.int64)}


def _power_of_two(number: int, least: int = 1) -> int:
    """The next power of two, from `least` on."""
    return max(least, 1 << max(0, number - 1).bit_length())


def _quarter_step(number: int) -> int:
    """The next of four steps between powers of two."""
    step = max(1, _power_of_two(number) // 8)
    return -(-number // step) * step
