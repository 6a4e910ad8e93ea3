"""Greedy decoding of an encoder-decoder over a cache that stays with the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Generation
from engine.errors import Stopped
from engine.flow import Backend, Ints, Ragged, Value


def never() -> bool:
    return False


def greedy(
    backend: Backend,
    feeds: Mapping[str, Ints],
    settings: Generation,
    *,
    max_new_tokens: int,
    stopped: Callable[[], bool] = never,
) -> tuple[Ragged, NDArray[np.bool_]]:
    """Take the likeliest token at every step until each row has ended.

    Args:
        backend: Holds the graphs `encoder` and `decoder` (see `bundle.GRAPHS`).
        feeds: input_ids and attention_mask, int64 (rows, length).
        settings: Start, end and cache shape.
        max_new_tokens: Tokens a row may generate, its end token included.
        stopped: Asked before every step; True abandons the batch.

    Returns:
        Generated ids, int64, the end token included and the start token not; and whether each row
        ended by itself, bool (rows,).

    Raises:
        Stopped: `stopped` said so.
    """
    rows = len(feeds["input_ids"])
    cache = _cross(backend, feeds, settings) | _empty_past(rows, settings)
    tokens = np.full((rows, max_new_tokens), settings.pad_id, np.int64)
    lengths = np.full(rows, max_new_tokens, np.int64)
    ended = np.zeros(rows, np.bool_)
    last = np.full((rows, 1), settings.start_id, np.int64)
    for step in range(max_new_tokens):
        if stopped():
            raise Stopped("stopped while decoding")
        logits, cache = _step(backend, last, feeds["attention_mask"], cache, settings)
        tokens[:, step] = np.where(ended, settings.pad_id, logits.argmax(axis=-1))
        ending = ~ended & np.isin(tokens[:, step], settings.end_ids)
        lengths[ending] = step + 1
        ended |= ending
        if ended.all():
            break
        last = tokens[:, step : step + 1]
    return Ragged.of_padded(tokens, lengths), ended


def _names(kind: str, layers: int) -> list[str]:
    return [f"{kind}.{n}.{part}" for n in range(layers) for part in ("key", "value")]


def _cross(backend: Backend, feeds: Mapping[str, Ints], settings: Generation) -> dict[str, Value]:
    """Keys and values of the encoded rows, computed once for all steps."""
    names = _names("cross", settings.layers)
    return dict(zip(names, backend.graph("encoder").run(feeds, names), strict=True))


def _empty_past(rows: int, settings: Generation) -> dict[str, Value]:
    nothing = np.zeros((rows, settings.heads, 0, settings.head_dim), np.float32)
    return dict.fromkeys(_names("past", settings.layers), nothing)


def _step(
    backend: Backend,
    last: Ints,
    mask: Ints,
    cache: dict[str, Value],
    settings: Generation,
) -> tuple[NDArray[np.float32], dict[str, Value]]:
    """Logits (rows, vocabulary) after one more token, and the cache grown by it."""
    fetch = ["logits", *_names("present", settings.layers)]
    feeds = {"input_ids": last, "encoder_attention_mask": mask, **cache}
    logits, *present = backend.graph("decoder").run(feeds, fetch)
    grown = dict(zip(_names("past", settings.layers), present, strict=True))
    return backend.host(logits)[:, -1], cache | grown
