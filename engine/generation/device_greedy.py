"""Greedy search that the device carries out by itself: the host reads a few steps at a time."""

from __future__ import annotations

import numpy as np

from engine.bundle.format import SYNC_EVERY
from engine.core.types import Ints
from engine.generation.device_cache import BUDGET, DeviceCache
from engine.generation.request import DecodedRows, Request
from engine.generation.scheduler import StepResult


class DeviceGreedySearch:
    """See `scheduler.SearchStrategy`. `output` is the answer."""

    width = 1

    def __init__(self, request: Request, cache: DeviceCache) -> None:
        self.request, self.cache = request, cache
        self.output = DecodedRows.empty(request)

    def admit(self, groups: Ints, rows: Ints) -> None:
        tokens = self.request.prompt[rows, -1]
        self.cache.start(groups, rows, tokens, self.request.limits[rows])

    def step(self, groups: Ints, rows: Ints) -> StepResult:
        emitted = self.cache.launch(SYNC_EVERY)[groups]
        is_token = emitted >= 0
        output = self.output
        at = output.lengths[rows, None] + is_token.cumsum(axis=1) - 1
        row_of = np.broadcast_to(rows[:, None], at.shape)
        output.ids[row_of[is_token], at[is_token]] = emitted[is_token]
        output.lengths[rows] += is_token.sum(axis=1)
        finished = self.cache.state[groups, BUDGET] == 0
        output.mark_ended(rows[finished], self.request.decoder.end_ids)
        return StepResult(finished, int(is_token.sum()), SYNC_EVERY)

    def keep(self, order: Ints) -> None:
        """All that it knows of a slot is in the cache."""
