"""The values that travel from stage to stage.

    Split ─► Rows ─► Encoded ─► Batch ─► Output ─► Answers

Columns all the way: NumPy arrays and Arrow arrays, never one Python object a row. A *window* is the
rows that travel together from the source to the sink; batches are cut out of one window, so that a
window's bytes do not depend on timing or on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths in one flat array.

    `values` has shape (total, ...); row i is values[offsets[i]:offsets[i + 1]]; offsets has shape
    (rows + 1,), int64, and starts at 0.
    """

    values: NDArray[Any]
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    @classmethod
    def of(cls, values: NDArray[Any], lengths: NDArray[Any]) -> Ragged:
        """From flat values and the length of each row."""
        return cls(values, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))

    @classmethod
    def of_padded(cls, padded: NDArray[Any], lengths: NDArray[Any]) -> Ragged:
        """From an array of shape (rows, width, ...), keeping the first lengths[i] of row i."""
        mask = np.arange(padded.shape[1]) < np.asarray(lengths)[:, None]
        return cls.of(padded[mask], lengths)

    def take(self, index: Ints) -> Ragged:
        """The rows `index`, in that order."""
        lengths = self.lengths[index]
        out = Ragged.of(self.values[:0], lengths)
        shift = np.repeat(self.offsets[index] - out.offsets[:-1], lengths)
        return Ragged(self.values[np.arange(len(shift)) + shift], out.offsets)

    def padded(self, width: int, filler: int) -> NDArray[Any]:
        """As a matrix of shape (rows, width), padded on the right with `filler`."""
        out = np.full((len(self), width), filler, self.values.dtype)
        out[np.arange(width) < self.lengths[:, None]] = self.values
        return out

    def last(self, count: int) -> Ragged:
        """The last `count` values of each row."""
        ends = np.repeat(self.offsets[1:], self.lengths)
        mask = ends - np.arange(len(ends)) <= count
        return Ragged.of(self.values[mask], np.minimum(self.lengths, count))

    def firsts(self) -> Ints:
        """Of each row the first row with the same values, int64 (rows,)."""
        values = np.ascontiguousarray(self.values)
        offsets = self.offsets * values.itemsize
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
        rows = pa.Array.from_buffers(pa.large_binary(), len(self), buffers)
        kinds = rows.dictionary_encode().indices.to_numpy()
        _, first = np.unique(kinds, return_index=True)
        return np.asarray(first[kinds], np.int64)

    @staticmethod
    def join_rows(parts: Sequence[Ragged]) -> Ragged:
        """Row i is row i of every part, one after the other."""
        rows, count = len(parts[0]), len(parts)
        order = np.arange(rows * count).reshape(count, rows).T.ravel()
        joined = Ragged.concat(parts).take(order)
        return Ragged(joined.values, joined.offsets[::count])

    @staticmethod
    def concat(parts: Sequence[Ragged]) -> Ragged:
        return Ragged.of(
            np.concatenate([p.values for p in parts]), np.concatenate([p.lengths for p in parts])
        )


@dataclass(frozen=True, slots=True)
class Column:
    """An input column of a task.

    Attributes:
        name: What the column is called unless the person says otherwise.
        holds: "text", "texts" (a list of them in each row) or "either".
        needed: Whether the task cannot do without it.
    """

    name: str
    holds: str = "text"
    needed: bool = True


TEXT = Column("text")


@dataclass(frozen=True, slots=True)
class Split:
    """The unit of work, of output and of resume: a file or a range of one.

    Attributes:
        path: The input file, absolute.
        kind: A key of `source.READERS`.
        ordinal: Position of this split within its file, from 0.
        name: Part files are called after it; depends on path and ordinal only.
        start, stop: Bytes of the file that are this split's own (stop is exclusive).
        row_groups: Row groups [first, end) of a Parquet file.
        first_row: Number of the split's first row within the file.
    """

    path: Path
    kind: str
    ordinal: int
    name: str
    start: int
    stop: int
    row_groups: tuple[int, int] = (0, 0)
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Rejects:
    """Rows that cannot be answered: numbers int64 (n,), reason codes and messages."""

    rows: Ints
    codes: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


NO_REJECTS = Rejects(np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Rows:
    """A window of good rows, with the bad ones of the same stretch set aside.

    Attributes:
        split: Where they come from; None for rows given in memory.
        texts: The task's input columns: strings, or lists of strings without nulls among them.
        kept: The input columns that go to the output beside the results; as many rows as `texts`.
        numbers: Of each row, its number within the file or the list it comes from, int64 (rows,);
            None: they are its first.
        last: No more rows come from this split.
    """

    split: Split | None
    texts: tuple[pa.Array, ...]
    kept: pa.RecordBatch | None = None
    rejects: Rejects = NO_REJECTS
    last: bool = True
    numbers: Ints | None = None

    def __len__(self) -> int:
        return len(self.texts[0])


@dataclass(frozen=True, slots=True)
class Tokens:
    """Whole texts as tokens, none of them special.

    Attributes:
        ids: Of each text, int64.
        chars: First character of every token and the one behind its last, in its text or, for
            rows of words, in its word; int64 (tokens, 2).
        words: Number of every token's word in its text, -1 for none; int64 (tokens,).
    """

    ids: Ragged
    chars: Ints
    words: Ints


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tokenizer puts its special tokens.

    Attributes:
        special: Ids and type ids of those before, between and behind the texts, int64 (n, 2) each;
            one more than there are texts.
        types: Type id of each text's own tokens.
    """

    special: tuple[Ints, ...]
    types: tuple[int, ...]

    @property
    def count(self) -> int:
        """Special tokens of a row."""
        return sum(map(len, self.special))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A window as token ids: a row may have one sequence, several (pieces of a long text, a pair
    for each label) or none.

    Attributes:
        rows: The window.
        ids, type_ids: Of each sequence, int64; type ids are None where the model reads none.
        truncated: Which rows were cut, bool (rows,).
        owners: The row of each sequence, int64 (sequences,), ascending.
        aside: What the task lays by for `finish`, by name; the model does not see it.
        firsts: Of each sequence the first one that equals it, int64 (sequences,): only those are
            computed. None where each is computed.
    """

    rows: Rows
    ids: Ragged
    type_ids: Ragged | None
    truncated: NDArray[np.bool_]
    owners: Ints
    aside: Mapping[str, Any] = field(default_factory=dict)
    firsts: Ints | None = None

    @property
    def computed(self) -> Ints:
        """The sequences that are computed, ascending."""
        every = np.arange(len(self.ids), dtype=np.int64)
        return every if self.firsts is None else every[self.firsts == every]

    @classmethod
    def one_each(
        cls, rows: Rows, ids: Ragged, type_ids: Ragged | None, truncated: NDArray[np.bool_]
    ) -> Encoded:
        """One sequence a row."""
        return cls(rows, ids, type_ids, truncated, np.arange(len(ids), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one window, padded to one length.

    Attributes:
        window: The window they were cut from.
        index: Positions among the window's sequences, int64 (sequences,).
        feeds: Graph inputs by name, int64 (sequences, length).
        tokens: Real tokens among sequences × length.
        padded: Tokens that are computed for them, filler included; 0 where the task cuts batches of
            its own out of this one, and counts.
        last: The window's last batch; may be empty for a window without sequences.
    """

    window: Encoded
    index: Ints
    feeds: Mapping[str, Ints]
    tokens: int
    padded: int
    last: bool

    @property
    def shape(self) -> tuple[int, int]:
        rows, length = next(iter(self.feeds.values())).shape
        return rows, length

    @property
    def numbers(self) -> Ints:
        """As `Rows.numbers`, of the row that each sequence belongs to; int64 (sequences,)."""
        rows, numbers = self.window.owners[self.index], self.window.rows.numbers
        return rows if numbers is None else numbers[rows]


Arrays = Mapping[str, "NDArray[Any] | Ragged"]
"""Results by name; the first axis runs over sequences."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the model said about one batch."""

    batch: Batch
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class Answers:
    """A finished window: result columns in input order, one row for each row of `rows`."""

    rows: Rows
    columns: pa.RecordBatch
    tokens: int
    truncated: int
    output_tokens: int
