"""The rows of a decoder's batches in a journal: each is found again in whatever batch it comes.

A record has the results of rows that were finished at about the same time, and among them, as an
array of its own, the key of each row: a digest of all that its answer depends on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.bundle import batching
from engine.core.types import Arrays, Batch, Ints, Ragged
from engine.runner.journal import Journal

Keys = NDArray[np.uint8]
"""Of rows, uint8 (rows, 16)."""
_NAME = "row keys"
_BYTES = 16
# Rows that finish within so many seconds share a record: one for each step's would take a hundredth
# of a small decoder's time.
RECORD_SECONDS = 0.1


class Known(NamedTuple):
    """Rows of a batch that a journal has: their positions in it, and their results."""

    rows: Ints
    arrays: Sequence[Arrays]


class RowIndex:
    """Where a journal has the rows that earlier starts have finished.

    Args:
        journal: Of a decoder's split.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal, self._records = journal, list(journal.keys())
        places = list(self._places())
        keys = np.concatenate([np.empty((0, _BYTES), np.uint8), *(keys for _, keys in places)])
        counts = [len(keys) for _, keys in places]
        records = np.repeat([number for number, _ in places], counts).astype(np.int64)
        positions = np.concatenate([np.empty(0, np.int64), *map(np.arange, counts)])
        order = np.argsort(_heads(keys), kind="stable")
        self._keys, self._record, self._position = keys[order], records[order], positions[order]

    def find(self, keys: Keys) -> Known:
        """The rows with these keys that are there."""
        rows: list[Ints] = []
        arrays: list[Arrays] = []
        if not len(self._keys):
            return Known(np.empty(0, np.int64), arrays)
        at = np.searchsorted(_heads(self._keys), _heads(keys)).clip(max=len(self._keys) - 1)
        found = np.flatnonzero((self._keys[at] == keys).all(axis=1))
        for record in np.unique(self._record[at[found]]):
            inside = found[self._record[at[found]] == record]
            results = self._journal.find(self._records[record])
            if results is not None:
                rows.append(inside)
                arrays.append(_take(results, self._position[at[inside]]))
        return Known(np.concatenate([np.empty(0, np.int64), *rows]), arrays)

    def _places(self) -> Iterator[tuple[int, Keys]]:
        """The number of each record of rows, and their keys."""
        for number, key in enumerate(self._records):
            results = self._journal.find(key) or {}
            if isinstance(keys := results.get(_NAME), np.ndarray):
                yield number, keys


class RowRecorder:
    """Records the rows of one batch as they are finished.

    Args:
        journal: Of the batch's split.
        batch: It, or those rows of it that are computed.
    """

    def __init__(self, journal: Journal, batch: Batch) -> None:
        self._journal, self._keys = journal, row_keys(batch)
        self._ends = batching.rows_ending(batch)
        self._left = np.ones(len(self._keys), bool)
        self._waiting: list[tuple[Ints, Arrays]] = []
        self._written = time.monotonic()

    def finished(self, rows: Ints, arrays: Arrays) -> None:
        """A `Context.finished`."""
        self._waiting.append((rows, arrays))
        if time.monotonic() - self._written >= RECORD_SECONDS:
            self.write()

    def write(self) -> None:
        """Record the rows that wait."""
        if self._waiting:
            rows = np.concatenate([rows for rows, _ in self._waiting])
            arrays = batching.joined([arrays for _, arrays in self._waiting])
            self._record(rows, arrays)
        self._waiting.clear()
        self._written = time.monotonic()

    def complete(self, arrays: Arrays) -> None:
        """Record the rows of a finished batch that nobody has told of."""
        self.write()
        if len(rows := np.flatnonzero(self._left)):
            self._record(rows, _take(arrays, rows))

    def _record(self, rows: Ints, arrays: Arrays) -> None:
        keys, self._left[rows] = self._keys[rows], False
        key = hashlib.blake2b(keys.tobytes(), digest_size=_BYTES).digest()
        self._journal.add(key, {_NAME: keys, **arrays}, int(self._ends[rows].sum()))


def row_keys(batch: Batch) -> Keys:
    """A digest of all that a decoder's answer to each row depends on."""
    lengths = batch.feeds["attention_mask"].sum(axis=1).tolist()
    seeds = np.zeros(len(lengths), np.uint64) if batch.seeds is None else batch.seeds
    drawn = np.stack([batch.numbers.astype(np.int64), seeds.view(np.int64)], axis=1)
    digests = [
        hashlib.blake2b(ids[:length].tobytes() + own.tobytes(), digest_size=_BYTES).digest()
        for ids, length, own in zip(batch.feeds["input_ids"], lengths, drawn, strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _BYTES)


def merged(known: Known, rows: Ints, arrays: Arrays) -> Arrays:
    """The results of a batch, from those that were known and those of the other rows."""
    parts = [*known.arrays, *([arrays] if len(rows) else [])]
    back = np.argsort(np.concatenate([known.rows, rows]), kind="stable")
    names = [name for name in parts[0] if name != _NAME]
    return _take(batching.joined([{n: part[n] for n in names} for part in parts]), back)


def _heads(keys: Keys) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).ravel()


def _take(arrays: Arrays, rows: Ints) -> Arrays:
    return {n: v.take(rows) if isinstance(v, Ragged) else v[rows] for n, v in arrays.items()}
