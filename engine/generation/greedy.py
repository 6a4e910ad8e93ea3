"""Greedy decoding over a cache that stays with the backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.flow import Ints, Ragged
from engine.generation.decoder import FILLER
from engine.generation.job import Job

Stop = Callable[[Ragged], NDArray[np.bool_]]


def greedy_search(job: Job, stop: Stop | None, tail: int) -> tuple[Ragged, NDArray[np.bool_]]:
    """Take the likeliest token at every step until each row has ended. See `generate`."""
    rows, width = job.prompt.shape
    most, pad = job.max_new_tokens, job.settings.pad_id
    ids = np.full((rows, width + most), pad, np.int64)
    ids[:, :width] = last = job.prompt
    lengths = np.full(rows, most, np.int64)
    ended = np.zeros(rows, np.bool_)
    every = np.arange(rows)
    for place in range(width, width + most):
        scores = job.ruled(job.step(last), ids[:, :place], every)
        ids[:, place] = np.where(ended, pad, scores.argmax(axis=-1))
        last = ids[:, place : place + 1]
        ending = ~ended & np.isin(last[:, 0], job.settings.end_ids)
        if stop is not None:
            _ask(stop, ids[:, max(0, place + 1 - tail) : place + 1], ended, ending)
        lengths[ending] = place + 1 - width
        ended |= ending
        if ended.all():
            break
    return Ragged.of_padded(ids[:, width:], lengths), ended


def _ask(stop: Stop, tails: Ints, ended: NDArray[np.bool_], ending: NDArray[np.bool_]) -> None:
    """Add to `ending` the rows that `stop` ends; only those that still run are shown to it."""
    running = np.flatnonzero(~ended & ~ending)
    if not len(running):
        return
    real = tails[running] != FILLER
    ending[running] = stop(Ragged.of(tails[running][real], real.sum(axis=1)))
