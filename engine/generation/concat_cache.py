"""An exported decoder graph over a cache that grows by every step: for architectures without a
step graph. All rows begin together and those that end leave gaps until there are enough of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig
from engine.core.types import Ints
from engine.generation.beam import log_softmax, top
from engine.generation.logits_processors import FILLER
from engine.generation.scheduler import Scores
from engine.runtime.protocol import Backend, Value


class ConcatCache:
    """See `loop.Cache`.

    Args:
        backend: Holds the graph `decoder`, and `encoder` unless the model is causal.
        feeds: input_ids and attention_mask of the encoder, int64 (rows, length).
        prompt: As `Request.prompt`.
        width: Slots of a place.
        picks: How many of the likeliest tokens `best` gives; at most those that there are.
        scored: Whether with their log-probabilities rather than with logits.
    """

    refills = False
    narrows = True

    def __init__(
        self,
        backend: Backend,
        settings: DecoderConfig,
        feeds: Mapping[str, Ints],
        prompt: Ints,
        *,
        width: int,
        picks: int,
        scored: bool = False,
    ) -> None:
        self.backend, self.settings, self.picks, self.scored = backend, settings, picks, scored
        self.feeds, self.prompt = feeds, prompt
        self.slots = len(prompt) * width
        nothing = np.zeros((len(prompt), settings.heads, 0, settings.head_dim), np.float32)
        self.past: dict[str, Value] = dict.fromkeys(_names("past", settings.layers), nothing)
        self.fixed: dict[str, Value] = {}
        self.scores: Scores = np.zeros((0, 0), np.float32)
        # The row of each slot, until the first step.
        self.coming = np.zeros(0, np.int64)
        # Which cached positions are real; None with an encoder, whose rows have no padding there.
        self.mask: Ints | None = np.zeros((len(prompt), 0), np.int64) if settings.causal else None

    def admit(self, slots: Ints, rows: Ints) -> None:
        if not self.settings.causal:
            names = _names("cross", self.settings.layers)
            made = self.backend.graph("encoder").run(self.feeds, names)
            self.fixed = dict(zip(names, made, strict=True))
            self.fixed["encoder_attention_mask"] = self.feeds["attention_mask"]
        self.coming = rows

    def retire(self, slots: Ints) -> None:
        """Their places are padded on with the others' until they are given up."""

    def step(self, tokens: Ints) -> None:
        if len(self.coming):
            # The first step takes whole prompts, once for all the slots of a place.
            self._append(self.prompt)
            self._take(self.coming, fixed=True)
            self.scores, self.coming = self.scores[self.coming], self.coming[:0]
        else:
            self._append(tokens[:, None])

    def best(self) -> tuple[Ints, Scores]:
        if self.picks == 1:
            tokens = self.scores.argmax(axis=1)[:, None]
            return tokens, np.take_along_axis(self.scores, tokens, axis=1)
        tokens = top(self.scores, min(self.picks, self.scores.shape[1]))
        scores = log_softmax(self.scores) if self.scored else self.scores
        return tokens, np.take_along_axis(scores, tokens, axis=1)

    def logits(self) -> Scores:
        return self.scores

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        order = np.arange(self.slots)
        order[slots] = sources
        self._take(order, fixed=False)

    def keep(self, order: Ints) -> None:
        self._take(order, fixed=True)

    def _append(self, ids: Ints) -> None:
        """Run the graph over `ids`, int64 (slots, n), FILLER on the left of short rows."""
        graph = self.backend.graph("decoder")
        feeds = {"input_ids": np.maximum(ids, 0), **self.fixed, **self.past}
        if self.mask is not None:
            self.mask = np.concatenate([self.mask, (ids != FILLER).astype(np.int64)], axis=1)
            own = {"attention_mask": self.mask, "position_ids": _positions(self.mask, ids.shape[1])}
            feeds |= {name: own[name] for name in own if name in graph.inputs}
        layers = self.settings.layers
        logits, *present = graph.run(feeds, ["logits", *_names("present", layers)])
        self.past = dict(zip(_names("past", layers), present, strict=True))
        self.scores = np.asarray(self.backend.host(logits)[:, -1], np.float32)

    def _take(self, order: Ints, *, fixed: bool) -> None:
        """Make the cache that of the slots `order`; `fixed`: what the encoder made, too."""
        self.slots = len(order)
        if np.array_equal(order, np.arange(len(self._host(next(iter(self.past.values())))))):
            return
        self.past = {name: self._host(value)[order] for name, value in self.past.items()}
        if fixed:
            self.fixed = {name: self._host(value)[order] for name, value in self.fixed.items()}
            if self.mask is not None:
                self.mask = self.mask[order]

    def _host(self, value: Value) -> NDArray[Any]:
        return value if isinstance(value, np.ndarray) else self.backend.host(value)


def _positions(mask: Ints, last: int) -> Ints:
    """Place of each of the last positions among its row's real ones."""
    return np.asarray(np.maximum(mask.cumsum(axis=1)[:, -last:] - 1, 0))


def _names(kind: str, layers: int) -> list[str]:
    return [f"{kind}.{n}.{part}" for n in range(layers) for part in ("key", "value")]
