"""Admit, step, retire: rows pass through a fixed number of slots, and a free one is taken at once.
A row's answer depends neither on when it was admitted nor on the rows decoded with it.

A *slot* holds the KV cache of one sequence. A *group* is the slots of one row: one, or one for each
beam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.errors import Stopped

Flags = NDArray[np.bool_]
Scores = NDArray[np.float32]
Count = Callable[..., None]
"""Called with `group_steps`, steps × groups, and `busy`, those that had a row; and with `padded`,
the tokens of an encoder's batch, padding included."""
# The owner of a group without a row.
FREE = -1


Retired = Callable[[Ints], None]
"""Called with rows, in ascending groups, that have all of their tokens."""


def uncounted(**counts: int) -> None:
    pass


def unnoticed(rows: Ints) -> None:
    pass


class KVCache(Protocol):
    """Keys and values of the rows being decoded, slot by slot."""

    @property
    def slots(self) -> int:
        """How many there are."""

    def admit(self, slots: Ints, rows: Ints) -> None:
        """Begin each row in its slot: all of its prompt is cached but the last token."""

    def retire(self, slots: Ints) -> None:
        """These rows are finished."""

    def step(self, tokens: Ints) -> None:
        """Append a token to every slot, int64 (slots,); free slots take any."""

    def best(self) -> tuple[Ints, Scores]:
        """The likeliest next tokens of every slot, best first, and their scores."""

    def logits(self) -> Scores:
        """Of the latest step, float32 (slots, vocabulary); valid until the next."""

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        """Make the cache of each of `slots`, from a position on, that of its source.

        No slot is both a target and a source.
        """

    def narrowed(self, used: int) -> int:
        """How many slots to go on with when no row waits and `used` slots have one."""

    def keep(self, order: Ints) -> None:
        """Go on with len(order) slots: the i-th is the one that was at order[i].

        No slot comes twice. Each stays where it is, or moves into a slot that is not in `order`.
        """


class StepResult(NamedTuple):
    """What a call of `SearchStrategy.step` has done.

    Attributes:
        finished: Which of the rows are, bool (rows,).
        tokens: That all rows together have been given.
        steps: Decode steps taken.
    """

    finished: Flags
    tokens: int
    steps: int = 1


class SearchStrategy(Protocol):
    """How tokens are chosen, by the host or by the device itself."""

    @property
    def width(self) -> int:
        """Slots of a group."""

    def admit(self, groups: Ints, rows: Ints) -> None:
        """Begin rows, ascending, in free groups of the cache."""

    def step(self, groups: Ints, rows: Ints) -> StepResult:
        """Advance the rows, each in its group, by a token or several."""

    def keep(self, order: Ints) -> None:
        """As `KVCache.keep`, by group."""


def run(
    cache: KVCache,
    search: SearchStrategy,
    rows: int,
    stopped: Callable[[], bool],
    count: Count,
    retired: Retired = unnoticed,
) -> None:
    """Decode rows 0 to `rows` - 1, admitted in this order.

    Raises:
        Stopped: `stopped` said so.
    """
    owners = np.full(cache.slots // search.width, FREE)
    groups = running = np.empty(0, np.int64)
    admitted, changed = 0, True
    while True:
        # Between two rows that come or go a step has nothing to look for.
        if changed:
            admitted += _admit(search, owners, admitted, rows)
            before = len(owners)
            if admitted == rows and (owners != FREE).any():
                owners = _narrow(cache, search, owners)
            groups, changed = np.flatnonzero(owners != FREE), len(owners) != before
            running = owners[groups]
            if not len(groups):
                return
        if stopped():
            raise Stopped("stopped while decoding")
        result = search.step(groups, running)
        count(group_steps=result.steps * len(owners), busy=result.tokens)
        if result.finished.any():
            finished, changed = groups[result.finished], True
            cache.retire(slots_of(finished, search.width))
            retired(owners[finished])
            owners[finished] = FREE


def _admit(search: SearchStrategy, owners: Ints, admitted: int, rows: int) -> int:
    """Begin the next rows in the free groups; how many."""
    free = np.flatnonzero(owners == FREE)[: rows - admitted]
    if len(free):
        owners[free] = np.arange(admitted, admitted + len(free))
        search.admit(free, owners[free])
    return len(free)


def slots_of(groups: Ints, width: int) -> Ints:
    """The slots of each group, one group after the other."""
    return np.asarray((groups[:, None] * width + np.arange(width)).ravel())


def _narrow(cache: KVCache, search: SearchStrategy, owners: Ints) -> Ints:
    """Give up free groups where the cache would: rows at the end move to free groups at the front.

    Returns:
        The new owners.
    """
    groups = np.flatnonzero(owners != FREE)
    size = cache.narrowed(len(groups) * search.width) // search.width
    if size == len(owners):
        return owners
    order = np.arange(size)
    moved = groups[groups >= size]
    order[np.flatnonzero(owners[:size] == FREE)[: len(moved)]] = moved
    cache.keep(slots_of(order, search.width))
    search.keep(order)
    return owners[order]
