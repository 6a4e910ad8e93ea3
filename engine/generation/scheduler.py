"""Admit, step, retire: rows pass through a fixed number of places, and a place that is free is
taken at once. What a row is answered does not depend on when it came in or who stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.errors import Stopped

Flags = NDArray[np.bool_]
Scores = NDArray[np.float32]
# Called after every step with `places`, how many there are, and `taken`, those that had a row; and
# with `padded`, the tokens of a batch of the encoder, filler included.
Count = Callable[..., None]


def uncounted(**counts: int) -> None:
    pass


# Once no row waits, places that are free are given up when they are this share of all.
IDLE = 0.25


class Cache(Protocol):
    """What a decoder remembers of the rows under way, slot by slot.

    A place of the loop has `width` slots: one for each beam.
    """

    @property
    def slots(self) -> int:
        """How many there are."""

    @property
    def refills(self) -> bool:
        """Whether a row can begin while others are under way; else all begin together."""

    @property
    def narrows(self) -> bool:
        """Whether it is worth having fewer slots once no row waits."""

    def admit(self, slots: Ints, rows: Ints) -> None:
        """Let each row begin in its slot: all of its prompt is cached but the last token."""

    def retire(self, slots: Ints) -> None:
        """These rows are finished."""

    def step(self, tokens: Ints) -> None:
        """Append a token to every slot, int64 (slots,); those without a row have any."""

    def best(self) -> tuple[Ints, Scores]:
        """The likeliest next tokens of every slot, best first, and what they score."""

    def logits(self) -> Scores:
        """float32 (slots, vocabulary); of the latest step, until the next."""

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        """Make the cache of each of `slots`, from a position on, that of its source.

        No slot is both a target and a source.
        """

    def keep(self, order: Ints) -> None:
        """Have len(order) slots from now on: the i-th is the one that was at order[i].

        Each stays where it is, or moves into a slot that is not in `order`.
        """


class SearchStrategy(Protocol):
    """How tokens are chosen: greedy, beams or by chance."""

    @property
    def width(self) -> int:
        """Slots of a place."""

    @property
    def tokens(self) -> Ints:
        """What every slot is fed next, int64 (slots,)."""

    def begin(self, places: Ints, rows: Ints) -> None:
        """Rows have been admitted."""

    def advance(self, places: Ints, rows: Ints) -> Flags:
        """Choose from the latest step for the places that have rows; which of them are finished."""

    def keep(self, order: Ints) -> None:
        """As `Cache.keep`, by place."""


def run(
    cache: Cache, search: SearchStrategy, rows: int, stopped: Callable[[], bool], count: Count
) -> None:
    """Take rows 0 to `rows` - 1 through the places, in this order.

    Raises:
        Stopped: `stopped` said so.
    """
    owners = np.full(cache.slots // search.width, -1)
    waiting = 0
    while True:
        free = np.flatnonzero(owners < 0)[: rows - waiting]
        if len(free) and (cache.refills or len(free) == min(len(owners), rows - waiting)):
            came = np.arange(waiting, waiting + len(free))
            cache.admit(slots_of(free, search.width), np.repeat(came, search.width))
            search.begin(free, came)
            owners[free] = came
            waiting += len(free)
        places = np.flatnonzero(owners >= 0)
        if not len(places):
            return
        idle = len(places) <= (1 - IDLE) * len(owners)
        if waiting == rows and cache.narrows and idle:
            owners = _narrowed(cache, search, owners, places)
            places = np.arange(len(owners))
        if stopped():
            raise Stopped("stopped while decoding")
        cache.step(search.tokens)
        count(places=len(owners), taken=len(places))
        through = places[search.advance(places, owners[places])]
        cache.retire(slots_of(through, search.width))
        owners[through] = -1


def slots_of(places: Ints, width: int) -> Ints:
    """The slots of each place, one place behind the other."""
    return np.asarray((places[:, None] * width + np.arange(width)).ravel())


def _narrowed(cache: Cache, search: SearchStrategy, owners: Ints, places: Ints) -> Ints:
    """Give up the free places: rows at the end move into holes at the front. The new owners."""
    order = np.arange(len(places))
    holes = owners[: len(places)] < 0
    order[holes] = places[places >= len(places)]
    cache.keep(slots_of(order, search.width))
    search.keep(order)
    return owners[order]
