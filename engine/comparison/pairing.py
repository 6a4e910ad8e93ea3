"""Rows of two outputs side by side: in the order of one corpus, or by a key.

By a key, both sides are first written to disk in partitions by a hash of it, so that memory grows
with one partition alone. Both ways yield batches of equal length, row i beside row i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.comparison.sides import ROWS, Side, as_text
from engine.errors import SettingsError
from engine.runner.records import Entry

KEY = "__key"
_PARTITION = 16 << 20  # bytes of a partition of one side, about
_MOST_PARTITIONS = 256
_HINT = "name the column that tells which rows belong together with --key"


@dataclass
class Unpaired:
    """Rows that are not compared.

    Attributes:
        only_a, only_b: Rows that the other side does not have.
        without_key: Rows of both whose key is null.
        duplicates_a, duplicates_b: Rows of keys that a side has several times.
        duplicate_keys: How many such keys there are; their rows are compared on neither side.
    """

    only_a: int = 0
    only_b: int = 0
    without_key: int = 0
    duplicates_a: int = 0
    duplicates_b: int = 0
    duplicate_keys: int = 0


@dataclass(frozen=True)
class Pairs:
    """Rows side by side.

    Attributes:
        a, b: Tables of the same length.
        keys: large_string: what names each row, its key or its number.
    """

    a: pa.Table
    b: pa.Table
    keys: pa.Array


@dataclass(frozen=True)
class Pairing:
    """How rows are paired.

    Attributes:
        sides: A and B.
        key: The columns of the key, () for order.
        columns: The columns to read of each.
        unpaired: Counted while rows are read.
    """

    sides: tuple[Side, Side]
    key: Sequence[str]
    columns: tuple[Sequence[str], Sequence[str]]
    unpaired: Unpaired = field(default_factory=Unpaired)

    def __iter__(self) -> Iterator[Pairs]:
        if self.key:
            return self._by_key()
        return self._by_corpus() if all(s.entries for s in self.sides) else self._by_position()

    def _by_corpus(self) -> Iterator[Pairs]:
        """Two runs over the same splits, row by row, without rows that one of them rejected."""
        a, b = self.sides
        for first, second in zip(a.entries, b.entries, strict=True):
            numbers = [a.row_numbers(first), b.row_numbers(second)]
            kept = [np.isin(numbers[i], numbers[1 - i], assume_unique=True) for i in (0, 1)]
            self.unpaired.only_a += int((~kept[0]).sum())
            self.unpaired.only_b += int((~kept[1]).sum())
            batches = [
                _masked(side.batches(columns, entry), mask)
                for side, columns, entry, mask in zip(
                    self.sides, self.columns, (first, second), kept, strict=True
                )
            ]
            rows = numbers[0][kept[0]]
            name, colon = (pa.scalar(s, pa.large_string()) for s in (first.input.path, ":"))
            for start, left, right in _zipped(*batches):
                keys = pa.array(rows[start : start + len(left)]).cast(pa.large_string())
                yield Pairs(left, right, pc.binary_join_element_wise(name, keys, colon))

    def _by_position(self) -> Iterator[Pairs]:
        streams = [s.batches(c) for s, c in zip(self.sides, self.columns, strict=True)]
        for start, left, right in _zipped(*streams):
            keys = pa.array(np.arange(start, start + len(left))).cast(pa.large_string())
            yield Pairs(left, right, keys)

    def _by_key(self) -> Iterator[Pairs]:
        with TemporaryDirectory(prefix="engine-compare-") as folder:
            count = min(_MOST_PARTITIONS, 1 + max(_bytes(s) for s in self.sides) // _PARTITION)
            for number, side in enumerate(self.sides):
                self._partition(side, number, Path(folder), count)
            for i in range(count):
                yield from self._joined(*(_read(Path(folder) / f"{n}-{i}") for n in (0, 1)))

    def _partition(self, side: Side, number: int, folder: Path, count: int) -> None:
        """Write the rows of a side in partitions by their keys."""
        extra = [name for name in self.key if name not in self.columns[number]]
        writers: list[pa.ipc.RecordBatchStreamWriter | None] = [None] * count
        try:
            for batch in side.batches([*self.columns[number], *extra]):
                keys = _key_text(batch, self.key)
                table = batch.select(list(self.columns[number])).append_column(KEY, keys)
                with_key = table.filter(pc.is_valid(keys))
                self.unpaired.without_key += len(table) - len(with_key)
                for i, part in _split(with_key, count):
                    writer = writers[i] or pa.ipc.new_stream(
                        str(folder / f"{number}-{i}"), part.schema
                    )
                    writers[i] = writer
                    writer.write_table(part)
        finally:
            for writer in writers:
                if writer:
                    writer.close()

    def _joined(self, a: pa.Table | None, b: pa.Table | None) -> Iterator[Pairs]:
        """The pairs of a partition."""
        if a is None or b is None:
            self.unpaired.only_a += len(a) if a else 0
            self.unpaired.only_b += len(b) if b else 0
            return
        keys = [t[KEY].combine_chunks() for t in (a, b)]
        again = pc.unique(pa.concat_arrays([_repeated(k) for k in keys]))
        self.unpaired.duplicate_keys += len(again)
        sides = []
        for table, key in zip((a, b), keys, strict=True):
            once = pc.invert(pc.is_in(key, value_set=again))
            sides.append(table.filter(once))
        self.unpaired.duplicates_a += len(a) - len(sides[0])
        self.unpaired.duplicates_b += len(b) - len(sides[1])
        at = pc.index_in(sides[0][KEY], value_set=sides[1][KEY].combine_chunks())
        both = pc.is_valid(at)
        left, right = sides[0].filter(both), sides[1].take(at.filter(both))
        self.unpaired.only_a += len(sides[0]) - len(left)
        self.unpaired.only_b += len(sides[1]) - len(right)
        for start in range(0, len(left), ROWS):
            part = left.slice(start, ROWS)
            yield Pairs(
                part.drop_columns(KEY),
                right.slice(start, ROWS).drop_columns(KEY),
                part[KEY].combine_chunks(),
            )


def check_order(a: Side, b: Side, *, by_order: bool) -> None:
    """Refuse to pair rows by their order where it may be another.

    Raises:
        SettingsError: They are no two runs over one corpus, or blank lines hide row numbers.
    """
    if a.entries and b.entries:
        if [_input(e) for e in a.entries] != [_input(e) for e in b.entries]:
            raise SettingsError(
                f"{a.path} and {b.path}: not over the same splits of one corpus", _HINT
            )
        for first, second in zip(a.entries, b.entries, strict=True):
            text = not first.input.path.endswith((".parquet", ".pq", ".arrow", ".feather"))
            if text and not np.array_equal(a.rejected(first), b.rejected(second)):
                raise SettingsError(
                    f"{first.input.path}: the two runs rejected different lines, and which rows "
                    "belong together is not known",
                    "run with --keep _file,_row, or another key, and " + _HINT,
                )
    elif not by_order:
        raise SettingsError(
            f"{a.path} and {b.path}: not two runs of one corpus",
            _HINT + ", or say --by-order where both have the same rows in the same order",
        )


def _input(entry: Entry) -> tuple[object, ...]:
    one = entry.input
    return one.sha256, one.start, one.stop, one.first_row, one.limit


def _bytes(side: Side) -> int:
    """About how many bytes a side has in memory."""
    return 4 * int(side.speed()["bytes"])


def _masked(batches: Iterator[pa.Table], mask: NDArray[np.bool_]) -> Iterator[pa.Table]:
    start = 0
    for batch in batches:
        yield batch.filter(pa.array(mask[start : start + len(batch)]))
        start += len(batch)


def _zipped(
    a: Iterator[pa.Table], b: Iterator[pa.Table]
) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Row number, and rows of both in batches of one length.

    Raises:
        SettingsError: One has more rows.
    """
    left = right = None
    start = 0
    while True:
        left = left if left is not None and len(left) else next((t for t in a if len(t)), None)
        right = right if right is not None and len(right) else next((t for t in b if len(t)), None)
        if left is None or right is None:
            break
        count = min(len(left), len(right))
        yield start, left.slice(0, count), right.slice(0, count)
        start, left, right = start + count, left.slice(count), right.slice(count)
    if left is not None or right is not None:
        raise SettingsError("the two outputs have different numbers of rows", _HINT)


def _key_text(batch: pa.Table, names: Sequence[str]) -> pa.Array:
    """Keys as text; of several columns joined by commas, with those in them escaped, so that no two
    keys have one text."""
    columns = [as_text(batch[name].combine_chunks()) for name in names]
    if len(columns) == 1:
        return columns[0]
    escaped = []
    for column in columns:
        backslashes = pc.replace_substring(column, "\\", "\\\\")
        escaped.append(pc.replace_substring(backslashes, ",", "\\,"))
    return pc.binary_join_element_wise(*escaped, pa.scalar(", ", pa.large_string()))


def _split(table: pa.Table, count: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each partition."""
    if count == 1:
        yield 0, table
        return
    of_row = _hashes(table[KEY].combine_chunks()) % np.uint64(count)
    order = np.argsort(of_row, kind="stable")
    numbers, starts = np.unique(of_row[order], return_index=True)
    ordered = table.take(pa.array(order))
    for number, start, stop in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
        yield int(number), ordered.slice(start, stop - start)


def _hashes(keys: pa.Array) -> NDArray[np.uint64]:
    """A hash of each text, of its bytes and their places: equal texts have equal ones."""
    offsets = np.frombuffer(keys.buffers()[1], np.int64)[keys.offset :][: len(keys) + 1]
    content = keys.buffers()[2]
    flat = np.frombuffer(content, np.uint8) if content else np.zeros(0, np.uint8)
    flat = flat[offsets[0] : offsets[-1]]
    starts = offsets[:-1] - offsets[0]
    place = np.arange(len(flat)) - np.repeat(starts, np.diff(offsets))
    mixed = _mix((place.astype(np.uint64) << np.uint64(8)) | flat)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)))
    return _mix(sums[offsets[1:] - offsets[0]] - sums[starts])


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's mixing: G. Steele, D. Lea, C. Flood, OOPSLA 2014."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _read(file: Path) -> pa.Table | None:
    if not file.exists():
        return None
    with pa.ipc.open_stream(pa.OSFile(str(file))) as reader:
        table = reader.read_all()
    file.unlink()
    return table


def _repeated(keys: pa.Array) -> pa.Array:
    """The keys that come more than once."""
    counts = pc.value_counts(keys)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))
