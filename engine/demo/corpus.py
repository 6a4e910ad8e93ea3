"""Writes the sample corpus: two Parquet shards and one of JSON lines, with some bad rows.

Columns: id (from 0, over all shards), text (a number in Spanish), answer (the same in Portuguese).
Each row depends only on the seed and its id, so every call writes the same corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.demo.numerals import portuguese, spanish

SHARDS = (("numbers-a.parquet", 0.4), ("numbers-b.parquet", 0.4), ("numbers-c.jsonl", 0.2))
SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("answer", pa.string())])
_CHUNK = 20_000
_BAD_EVERY = 500
_PARQUET_FAULTS = ("null_text", "invalid_utf8")
_JSONL_FAULTS = ("null_text", "invalid_utf8", "broken_json", "not_text", "not_object")


@dataclass(frozen=True)
class Shard:
    """A file of the corpus.

    Attributes:
        first_id: The id of its row 0.
        rows: Good and bad.
        faults: Reason code of each bad row, by row number.
    """

    path: Path
    first_id: int
    rows: int
    faults: dict[int, str]


def write(folder: Path, rows: int, *, seed: int = 0) -> list[Shard]:
    """Write `rows` rows into three shards; about one in 500 is bad, at least one in each shard."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, first = [], 0
    for name, share in SHARDS:
        last = name == SHARDS[-1][0]
        count = rows - first if last else int(rows * share)
        path = folder / name
        shards.append(Shard(path, first, count, _faults(path, count, seed)))
        (_write_jsonl if path.suffix == ".jsonl" else _write_parquet)(shards[-1], seed)
        first += count
    return shards


def numbers(first: int, count: int, seed: int) -> list[int]:
    """The numbers of the rows with ids first to first + count - 1."""
    values: list[int] = []
    for block in range(first // _CHUNK, (first + count - 1) // _CHUNK + 1):
        drawn = np.random.default_rng((seed, block)).integers(0, 1_000_000, _CHUNK)
        low, high = max(0, first - block * _CHUNK), first + count - block * _CHUNK
        values += drawn[low:high].tolist()
    return values


def _faults(path: Path, rows: int, seed: int) -> dict[int, str]:
    kinds = _JSONL_FAULTS if path.suffix == ".jsonl" else _PARQUET_FAULTS
    random = np.random.default_rng((seed, len(path.name), ord(path.stem[-1])))
    count = min(rows, max(rows // _BAD_EVERY, len(kinds)))
    bad_rows = np.sort(random.choice(rows, count, replace=False)).tolist()
    return {row: kinds[i % len(kinds)] for i, row in enumerate(bad_rows)}


def _chunks(shard: Shard, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Consecutive parts of a shard: the first row and the numbers of each."""
    for row in range(0, shard.rows, _CHUNK):
        count = min(_CHUNK, shard.rows - row)
        yield row, numbers(shard.first_id + row, count, seed)


def _write_parquet(shard: Shard, seed: int) -> None:
    with pq.ParquetWriter(shard.path, SCHEMA, compression="zstd") as writer:
        for row, drawn in _chunks(shard, seed):
            texts: list[bytes | None] = [spanish(n).encode() for n in drawn]
            for fault, code in shard.faults.items():
                if row <= fault < row + len(drawn):
                    texts[fault - row] = None if code == "null_text" else b"\xff\xfe"
            # A string column over unchecked bytes, as faulty writers produce it.
            text = pa.array(texts, pa.binary()).view(pa.string())
            first = shard.first_id + row
            ids = pa.array(range(first, first + len(drawn)), pa.int64())
            answers = pa.array([portuguese(n) for n in drawn])
            writer.write_table(pa.table([ids, text, answers], schema=SCHEMA))


def _write_jsonl(shard: Shard, seed: int) -> None:
    with shard.path.open("wb") as stream:
        for row, drawn in _chunks(shard, seed):
            for i, n in enumerate(drawn, row):
                stream.write(_line(shard.first_id + i, n, shard.faults.get(i, "")) + b"\n")


def _line(number: int, n: int, fault: str) -> bytes:
    row = {"id": number, "text": spanish(n), "answer": portuguese(n)}
    if fault == "broken_json":
        return json.dumps(row).encode()[:-4]
    if fault == "not_object":
        return b"[]"
    if fault == "invalid_utf8":
        return b'{"id": %d, "text": "\xff\xfe", "answer": ""}' % number
    if fault:
        row["text"] = None if fault == "null_text" else n
    return json.dumps(row, ensure_ascii=False).encode()
