"""engine compare at a size: wall time and memory of a child process.

    python benchmarks/compare.py [--rows 1000000] [--vectors 200000] [--save]

Writes two synthetic outputs of each kind (labels, texts of about ten words, embeddings of 384
numbers) as Parquet, one in another order, and compares them by key, and in order. With --save it
writes results/compare.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import save
from numpy.typing import NDArray

SEED, WIDTH, BATCH = 7, 384, 20_000
CHILD = """
import json, resource, sys, time
start = time.perf_counter()
import engine
a, b, key = sys.argv[1:]
comparison = engine.compare(a, b, key=key, by_order=not key)
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which begins with what the parent had.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"rows": comparison.rows, "agreement": comparison.agreement, "seconds": seconds,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_rss_mb": int(status["VmHWM"].split()[0]) / 1024}))
"""


def labels(random: np.random.Generator, rows: int) -> tuple[pa.Array, pa.Array]:
    """20 labels, of which 3% are others in B."""
    first = random.integers(0, 20, rows)
    second = np.where(random.random(rows) < 0.03, random.integers(0, 20, rows), first)
    names = pa.array([f"label {i}" for i in range(20)])
    return names.take(pa.array(first)), names.take(pa.array(second))


def texts(random: np.random.Generator, rows: int) -> tuple[pa.Array, pa.Array]:
    """Ten words each, of which one is another in two thirds of B's rows."""
    letters = random.integers(97, 123, (5000, 6)).astype(np.uint8)
    words = np.array([bytes(row[: 3 + i % 4]).decode() for i, row in enumerate(letters)])
    first = random.integers(0, len(words), (rows, 10))
    second = first.copy()
    changed = random.random(rows) < 2 / 3
    second[changed, random.integers(0, 10, int(changed.sum()))] = 0
    return tuple(pa.array([" ".join(row) for row in words[index]]) for index in (first, second))


def vectors(random: np.random.Generator, rows: int) -> tuple[pa.Array, pa.Array]:
    """Normal numbers, with a tenth of noise in B."""
    first = random.normal(size=(rows, WIDTH)).astype(np.float32)
    second = first + random.normal(size=first.shape).astype(np.float32) / 10
    return _list(first), _list(second)


def _list(values: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), WIDTH)


KINDS = {
    "labels": (labels, "label"),
    "texts": (texts, "generated_text"),
    "embeddings": (vectors, "embedding"),
}


def write(folder: Path, kind: str, rows: int) -> tuple[Path, Path, Path]:
    """A, B in the same order, and B in another order of batches and of rows within them."""
    make, column = KINDS[kind]
    random = np.random.default_rng(SEED)
    paths = [folder / f"{kind}-{name}.parquet" for name in ("a", "b", "mixed")]
    schema = pa.schema([("id", pa.int64()), (column, make(random, 1)[0].type)])
    writers = [pq.ParquetWriter(path, schema) for path in paths]
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        columns = make(random, count)
        ids = pa.array(np.arange(start, start + count))
        tables = [pa.table([ids, one], schema=schema) for one in columns]
        mixed = tables[1].take(pa.array(random.permutation(count)))
        for writer, table in zip(writers, [*tables, mixed], strict=True):
            writer.write_table(table)
    for writer in writers:
        writer.close()
    return paths[0], paths[1], paths[2]


def measure(a: Path, b: Path, key: str) -> dict[str, Any]:
    """Wall seconds from before the import, CPU seconds and the peak of memory of a process."""
    words = [sys.executable, "-c", CHILD, str(a), str(b), key]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)
    assert isinstance(figures, dict)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--save", action="store_true", help="write results/compare.json")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            rows = options.vectors if kind == "embeddings" else options.rows
            a, b, mixed = write(Path(folder), kind, rows)
            for way, other, key in (("by key", mixed, "id"), ("in order", b, "")):
                figures = results[f"{kind}, {way}"] = measure(a, other, key)
                print(f"{kind}, {way}: {figures}")
            for path in (a, b, mixed):
                path.unlink()
    if options.save:
        save("compare", {"results": results})


if __name__ == "__main__":
    main()
