"""The values that travel from stage to stage.

    Split ─► Rows ─► Encoded ─► Batch ─► Output ─► Answers

All of them hold columns (NumPy and Arrow arrays), never one Python object for each row. A *window*
is the rows that travel together from reader to writer. A batch holds sequences of one window only,
so that the bytes of a window's answers do not depend on timing or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.core.rejects import NO_REJECTS, Rejects

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


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
        # np.diff takes three times as long for few rows.
        return np.asarray(self.offsets[1:] - self.offsets[:-1])

    @classmethod
    def of(cls, values: NDArray[Any], lengths: NDArray[Any]) -> Ragged:
        """From flat values and the length of each row."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, dtype=np.int64, out=offsets[1:])
        return cls(values, offsets)

    @classmethod
    def of_padded(cls, padded: NDArray[Any], lengths: NDArray[Any]) -> Ragged:
        """From an array of shape (rows, width, ...): the first lengths[i] values of row i."""
        mask = np.arange(padded.shape[1]) < np.asarray(lengths)[:, None]
        return cls.of(padded[mask], lengths)

    def take(self, index: Ints) -> Ragged:
        """The rows `index`, in that order."""
        lengths = self.lengths[index]
        out = Ragged.of(self.values[:0], lengths)
        shift = np.repeat(self.offsets[index] - out.offsets[:-1], lengths)
        return Ragged(self.values[np.arange(len(shift)) + shift], out.offsets)

    def padded(self, width: int, filler: int) -> NDArray[Any]:
        """As an array of shape (rows, width), padded on the right with `filler`."""
        out = np.full((len(self), width), filler, self.values.dtype)
        out[np.arange(width) < self.lengths[:, None]] = self.values
        return out

    def last(self, count: int) -> Ragged:
        """The last `count` values of each row."""
        ends = np.repeat(self.offsets[1:], self.lengths)
        mask = ends - np.arange(len(ends)) <= count
        return Ragged.of(self.values[mask], np.minimum(self.lengths, count))

    def head(self, count: int) -> Ragged:
        """The first `count` values of each row."""
        starts = np.repeat(self.offsets[:-1], self.lengths)
        mask = np.arange(len(starts)) - starts < count
        return Ragged.of(self.values[mask], np.minimum(self.lengths, count))

    def firsts(self) -> Ints:
        """For each row the first row with the same values, int64 (rows,)."""
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
        name: Its name unless a setting gives another.
        holds: "text", "texts" (a list of them in each row), "either", "chat" (a text or a list of
            messages, which have a role and a content), or "key" (a text or a whole number).
        needed: Whether the task requires it.
    """

    name: str
    holds: str = "text"
    needed: bool = True


TEXT = Column("text")
SEED = Column("seed", holds="key", needed=False)


class InputPath(Protocol):
    """What a reader takes: a local path, or an object of a store (`data.object_files`)."""

    def __hash__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...
    def stat(self) -> Any:
        """With st_size and st_mtime_ns."""


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One input file of a corpus.

    Attributes:
        place: An object of a store, a path, or as text the absolute folder below which `name` lies:
            of a million files each path would take as much memory as all else.
        name: Path relative to the input that named it, with `/`; no other file of the corpus has
            it. It stays the same where the corpus is moved or mounted elsewhere.
        kind: A key of `data.kinds.KINDS`.
        partition: Keys and values, still as text, of the folders called key=value on the way to it.
        constants: Columns that the file does not have itself, each with the one value of all its
            rows, a pyarrow.Scalar: those by which a table is partitioned.
    """

    place: InputPath | str
    name: str
    kind: str
    partition: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, Any], ...] = ()

    @property
    def path(self) -> InputPath:
        """Where it is; a new value each time."""
        return self.place if not isinstance(self.place, str) else Path(self.text)

    @property
    def text(self) -> str:
        """Its path in text."""
        return f"{self.place}/{self.name}" if isinstance(self.place, str) else str(self.place)


@dataclass(frozen=True, slots=True)
class Columns:
    """What a run takes from every file of its corpus, settled before the first batch.

    Attributes:
        inputs: The columns that the task takes.
        kept: Names and types of the input columns that are written beside the results, the same in
            every part. A file that lacks one has nulls there.
        given: Those of the kept columns whose types the person gave.
        derived: Those of the kept columns that no file has: they say where a row came from.
        max_row_bytes: Bytes of the input texts of a row at most; 0 for any number.
        reject_text: Whether bad rows carry their text.
        nested: Of those names that reach a field of a nested column, such as `doc.text`, the names
            from the outermost column to it.
    """

    inputs: tuple[Column, ...]
    kept: pa.Schema
    given: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    max_row_bytes: int = 0
    reject_text: bool = False
    nested: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def own(self) -> Columns:
        """These without the derived ones: what is read of a file."""
        kept = pa.schema([field for field in self.kept if field.name not in self.derived])
        return replace(self, kept=kept, derived=frozenset())

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the input columns."""
        return tuple(column.name for column in self.inputs)


@dataclass(frozen=True, slots=True)
class Split:
    """The unit of work, of output and of resume: a file or a range of one.

    Attributes:
        file: The input file.
        ordinal: Position of this split within its file, from 0.
        name: In the names of its part files; depends on the file's name and on ordinal only.
        start, stop: Range of bytes of the file (stop is exclusive).
        row_groups: Row groups [first, end) of a Parquet file.
        first_row: Number of the split's first row within the file.
    """

    file: CorpusFile
    ordinal: int
    name: str
    start: int
    stop: int
    row_groups: tuple[int, int] = (0, 0)
    first_row: int = 0

    def __hash__(self) -> int:
        return hash((self.name, self.ordinal))

    @property
    def path(self) -> InputPath:
        return self.file.path

    @property
    def kind(self) -> str:
        return self.file.kind


@dataclass(frozen=True, slots=True)
class Rows:
    """A window of good rows, and the bad rows found among them.

    Attributes:
        split: Where they come from; None for rows in memory.
        texts: The task's input columns: strings, or lists of strings without nulls, or chats.
        kept: The input columns to write beside the results; as many rows as `texts`.
        rejects: The bad rows.
        last: No more rows come from this split.
        numbers: The number of each row within its file or list, int64 (rows,); None if they count
            from 0.
        reject_text: Whether rows that turn out bad later carry their text.
    """

    split: Split | None
    texts: tuple[pa.Array, ...]
    kept: pa.RecordBatch | None = None
    rejects: Rejects = NO_REJECTS
    last: bool = True
    numbers: Ints | None = None
    reject_text: bool = False

    def __len__(self) -> int:
        return len(self.texts[0])

    def text_bytes(self) -> int:
        """Bytes of memory of the texts."""
        return sum(column.nbytes for column in self.texts)

    def without_texts(self) -> Rows:
        """The rows with nulls for their texts."""
        return replace(self, texts=tuple(pa.nulls(len(column)) for column in self.texts))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Whole texts as tokens, without special tokens.

    Attributes:
        ids: Token ids of each text, int64.
        chars: Start and end (exclusive) of each token in characters of its text or, for rows of
            words, of its word; int64 (tokens, 2).
        words: Number of each token's word in its text, -1 for none; int64 (tokens,).
    """

    ids: Ragged
    chars: Ints
    words: Ints

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """The texts of all parts, one after the other."""
        lengths = np.concatenate([part.ids.lengths for part in parts])
        return cls(
            Ragged.of(np.concatenate([part.ids.values for part in parts]), lengths),
            np.concatenate([part.chars for part in parts]),
            np.concatenate([part.words for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tokenizer puts its special tokens.

    Attributes:
        special: Ids and type ids of the special tokens before, between and after the texts, int64
            (n, 2) each; one array more than there are texts.
        types: Type id of the tokens of each text.
    """

    special: tuple[Ints, ...]
    types: tuple[int, ...]

    @property
    def count(self) -> int:
        """Special tokens of a row."""
        return sum(map(len, self.special))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A window as token ids: a row may have one sequence, several (windows of a long text, a pair
    for each label) or none.

    Attributes:
        rows: The window.
        ids, type_ids: Of each sequence, int64; type_ids is None for a model that reads none.
        truncated: Which rows were truncated, bool (rows,).
        owners: The row of each sequence, int64 (sequences,), ascending.
        extra: What the task needs again in `postprocess`, by name; the model does not see it.
        firsts: For each sequence the first equal one, int64 (sequences,); only those are computed.
            None if every sequence is computed.
    """

    rows: Rows
    ids: Ragged
    type_ids: Ragged | None
    truncated: NDArray[np.bool_]
    owners: Ints
    extra: Mapping[str, Any] = field(default_factory=dict)
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
        """One sequence for each row."""
        return cls(rows, ids, type_ids, truncated, np.arange(len(ids), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one window, padded to one length.

    Attributes:
        window: The window that the sequences belong to.
        index: Their positions among the window's sequences, int64 (sequences,).
        feeds: Graph inputs by name, int64 (sequences, length).
        tokens: Tokens without padding.
        padded: Tokens that are computed, padding included; 0 where the task forms smaller batches
            itself and counts them.
        last: The window's last batch; empty for a window without sequences.
    """

    window: Encoded
    index: Ints
    feeds: Mapping[str, Ints]
    tokens: int
    padded: int
    last: bool

    def take(self, rows: Ints) -> Batch:
        """Some sequences of it, by their positions."""
        feeds = {name: array[rows] for name, array in self.feeds.items()}
        tokens = int(feeds["attention_mask"].sum())
        return replace(self, index=self.index[rows], feeds=feeds, tokens=tokens)

    @property
    def shape(self) -> tuple[int, int]:
        rows, length = next(iter(self.feeds.values())).shape
        return rows, length

    @property
    def seeds(self) -> NDArray[np.uint64] | None:
        """The seed of the row of each sequence where rows have their own, uint64 (sequences,)."""
        seeds = self.window.extra.get("seeds")
        return None if seeds is None else seeds[self.window.owners[self.index]]

    @property
    def numbers(self) -> Ints:
        """`Rows.numbers` of the row of each sequence, int64 (sequences,)."""
        rows, numbers = self.window.owners[self.index], self.window.rows.numbers
        return rows if numbers is None else numbers[rows]


Arrays = Mapping[str, "NDArray[Any] | Ragged"]
"""Results by name; the first axis is the sequences."""


@dataclass(frozen=True, slots=True)
class Output:
    """The model's results for one batch."""

    batch: Batch
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class Answers:
    """A finished window: result columns in input order, one row for each row of `rows`.

    Attributes:
        rows: The window.
        columns: The result columns.
        tokens, output_tokens: Tokens of the sequences, and tokens generated.
        truncated: Rows that were truncated.
    """

    rows: Rows
    columns: pa.RecordBatch
    tokens: int
    truncated: int
    output_tokens: int
