"""Damaged files of every kind, read in children with limits: how each of them ends.

A file with checksums never gives another value than was written. Of a file without, the rows that
are read are those of its bytes: nobody can tell a flipped letter from a letter.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from faults.reading_rows import read_all
from faults.sandbox import CRASH, HANG, MIB, OK, TRACEBACK, call_apart
from machine import describe

ROWS = 60
CHECKED = ("parquet", "jsonl.gz", "csv.gz")
"""Kinds whose bytes have checksums here; pyarrow writes zstd without."""


def write(folder: Path) -> dict[str, Path]:
    """A file of each kind with the same rows."""
    draw = random.Random(20)
    texts = [" ".join(draw.choices(["one", "two", "é", '"q"', "a,b"], k=6)) for _ in range(ROWS)]
    table = pa.table(
        {"text": texts, "id": pa.array(range(ROWS)), "score": [i / 7 for i in range(ROWS)]}
    )
    rows = table.to_pylist()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    files = {
        kind: folder / f"corpus.{kind}"
        for kind in (*CHECKED, "jsonl.zst", "arrow", "jsonl", "json", "csv")
    }
    pq.write_table(table, files["parquet"], write_page_checksum=True, row_group_size=20)
    with pa.ipc.new_file(files["arrow"], table.schema) as writer:
        writer.write_table(table, 20)
    pcsv.write_csv(table, files["csv"])
    files["jsonl"].write_bytes(lines)
    files["json"].write_text(json.dumps(rows))
    files["jsonl.gz"].write_bytes(gzip.compress(lines))
    files["csv.gz"].write_bytes(gzip.compress(files["csv"].read_bytes()))
    with pa.output_stream(str(files["jsonl.zst"]), compression="zstd") as stream:
        stream.write(lines)
    return files


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with one bit flipped or, one time in four, without its end."""
    place = draw.randrange(len(content))
    if not draw.randrange(4):
        return content[:place]
    changed = bytearray(content)
    changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def read_many(folder: str, kind: str, content: bytes, seeds: Sequence[int]) -> Counter[str]:
    """How the reading of a file ends, damaged by each seed, in this process."""
    path = Path(folder, f"damaged.{kind}")
    path.write_bytes(content)
    whole, ends = read_all(path), Counter[str]()
    for seed in seeds:
        path.write_bytes(damaged(content, random.Random(seed)))
        outcome = call_apart(read_all, path)
        ends[outcome.state] += 1
        ends["over 1 GB"] += outcome.peak > 1024 * MIB
        if outcome.state == OK:
            rows = outcome.value.rows
            ends["wrong values"] += any(whole.rows.get(n) != row for n, row in rows.items())
            ends["rows missing"] += len(rows) + len(outcome.value.rejects) < len(whole.rows)
        if outcome.state in (CRASH, HANG, TRACEBACK):
            print(kind, seed, outcome.state, outcome.value)
    return ends


def measure(points: int) -> dict[str, Any]:
    """Outcomes of `points` damages, over all kinds."""
    with tempfile.TemporaryDirectory() as scratch:
        files = write(Path(scratch))
        return {
            kind: dict(read_many(scratch, kind, path.read_bytes(), range(points // len(files))))
            for kind, path in files.items()
        }


def faults_of(figures: dict[str, dict[str, int]]) -> list[str]:
    """What must not be, in words."""
    bad = [
        f"{kind}: {name} {ends[name]}"
        for kind, ends in figures.items()
        for name in (CRASH, HANG, TRACEBACK, "over 1 GB")
        if ends.get(name)
    ]
    checked = (kind for kind in CHECKED if figures[kind].get("wrong values"))
    return bad + [f"{kind}: wrong values" for kind in checked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=6000)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = measure(arguments.points)
    result = {"machine": describe(), "damages": figures, "faults": faults_of(figures)}
    text = json.dumps(result, indent=2) + "\n"
    if arguments.save:
        arguments.save.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
