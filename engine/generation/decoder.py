"""One step graph and its cache: the only place here that talks to the backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Generation
from engine.flow import Backend, Ints, Value

FILLER = -1
"""Stands for no token in ids of rows of different lengths; no rule ever matches it."""


@dataclass
class Decoder:
    """The graph `decoder` over a cache that grows by every step.

    Attributes:
        backend: Holds the graph.
        layers: Of the cache.
        fixed: What a row keeps for all its steps: the encoder's keys, values and mask.
        past: The cache proper.
        mask: Which cached positions are real, int64 (rows, length); None with an encoder, whose
            decoder starts every row with one token.
    """

    backend: Backend
    layers: int
    fixed: dict[str, Value]
    past: dict[str, Value]
    mask: Ints | None

    def step(self, ids: Ints) -> NDArray[np.float32]:
        """Logits (rows, vocabulary) after `ids`, int64 (rows, n), FILLER on the left of short rows;
        the cache grows by n."""
        graph = self.backend.graph("decoder")
        feeds = {"input_ids": np.maximum(ids, 0), **self.fixed, **self.past}
        if self.mask is not None:
            self.mask = np.concatenate([self.mask, (ids != FILLER).astype(np.int64)], axis=1)
            own = {"attention_mask": self.mask, "position_ids": _positions(self.mask, ids.shape[1])}
            feeds |= {name: own[name] for name in own if name in graph.inputs}
        logits, *present = graph.run(feeds, ["logits", *_names("present", self.layers)])
        self.past = dict(zip(_names("past", self.layers), present, strict=True))
        return np.asarray(self.backend.host(logits)[:, -1], np.float32)

    def take(self, order: Ints, *, same_rows: bool) -> None:
        """Make the cache that of the rows `order`, int64 (new rows,), of the present one.

        Args:
            same_rows: Every place keeps its own row of the batch, so what is fixed may stay.
        """
        if same_rows and np.array_equal(order, np.arange(len(order))):
            return
        self.past = {name: self._host(value)[order] for name, value in self.past.items()}
        if same_rows:
            return
        self.fixed = {name: self._host(value)[order] for name, value in self.fixed.items()}
        if self.mask is not None:
            self.mask = self.mask[order]

    def _host(self, value: Value) -> NDArray[Any]:
        return value if isinstance(value, np.ndarray) else self.backend.host(value)


def open_decoder(backend: Backend, feeds: Mapping[str, Ints], settings: Generation) -> Decoder:
    """The decoder before its first step; runs the encoder if there is one.

    Args:
        feeds: input_ids and attention_mask, int64 (rows, length).
    """
    rows = len(feeds["input_ids"])
    nothing = np.zeros((rows, settings.heads, 0, settings.head_dim), np.float32)
    past: dict[str, Value] = dict.fromkeys(_names("past", settings.layers), nothing)
    if settings.causal:
        return Decoder(backend, settings.layers, {}, past, np.zeros((rows, 0), np.int64))
    names = _names("cross", settings.layers)
    fixed = dict(zip(names, backend.graph("encoder").run(feeds, names), strict=True))
    fixed["encoder_attention_mask"] = feeds["attention_mask"]
    return Decoder(backend, settings.layers, fixed, past, None)


def _positions(mask: Ints, last: int) -> Ints:
    """Place of each of the last positions among its row's real ones."""
    return np.asarray(np.maximum(mask.cumsum(axis=1)[:, -last:] - 1, 0))


def _names(kind: str, layers: int) -> list[str]:
    return [f"{kind}.{n}.{part}" for n in range(layers) for part in ("key", "value")]
