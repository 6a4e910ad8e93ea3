"""Whether a row's answer depends on its neighbours, the workers or where a run was resumed.

    python benchmarks/shuffle.py BUNDLE [--rows 10000] [--corpus FILES] [--option NAME=VALUE]

The bundle's first graph (an encoder) reads the rows in batches twice, in order and shuffled; its
outputs without padding are compared row by row, bit for bit. Then the corpus is run with one
worker, with two, and with two after an interrupt half way: the part files must be equal to the
byte. Exits with 1 if something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from machine import save
from texts import Lengths, cut, words

import engine
from engine.bundle import batching
from engine.core.telemetry import Progress
from engine.core.types import Batch, Rows
from engine.errors import Stopped

LENGTHS = Lengths(14, 0.7, 1, 200)
BUDGET = 1024
# Files of the corpus: an interrupt half way needs parts before and after it.
PARTS = 8


def outputs_of(bundle: engine.Bundle, texts: list[str]) -> list[bytes]:
    """A digest of each row's outputs, without padding."""
    stages = bundle.stages({}, dedupe=False)
    window = stages.encode(Rows(None, (pa.array(texts),)))
    digests = [b""] * len(texts)
    sizes: dict[str, Any] = {
        "budget": BUDGET,
        "limit": stages.max_length,
        "pad_id": bundle.model_config.pad_id,
    }
    for batch in batching.cut(window, **sizes):
        for row, digest in zip(batch.index, _digests(bundle, batch), strict=True):
            digests[int(row)] = digest
    return digests


def _digests(bundle: engine.Bundle, batch: Batch) -> list[bytes]:
    graph = bundle.backend.graph("model" if "model" in bundle.backend.roles else "encoder")
    feeds = {name: batch.feeds[name] for name in graph.inputs}
    arrays = [bundle.backend.host(value) for value in graph.run(feeds, graph.outputs)]
    lengths = batch.feeds["attention_mask"].sum(axis=1)
    return [_digest(arrays, n, int(length)) for n, length in enumerate(lengths)]


def _digest(arrays: list[Any], row: int, length: int) -> bytes:
    """States are (rows, tokens, width), keys and values (rows, heads, tokens, width)."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        own = array[row, :length] if array.ndim == 3 else array[row, ..., :length, :]
        digest.update(np.ascontiguousarray(own if array.ndim > 2 else array[row]).tobytes())
    return digest.digest()


def runs(bundle: Path, corpus: list[Path], folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Whether the part files of three runs are equal, by their hashes."""
    settings: dict[str, Any] = {
        "keep": ("id",),
        "batch_tokens": BUDGET,
        "threads": 1,
        "options": options,
    }

    def interrupt(seen: Progress) -> None:
        if len(list((folder / "resumed").glob("part-*"))) >= PARTS // 2:
            raise KeyboardInterrupt

    engine.run(bundle, corpus, folder / "one", workers=1, **settings)
    engine.run(bundle, corpus, folder / "two", workers=2, **settings)
    stopped = False
    try:
        engine.run(bundle, corpus, folder / "resumed", workers=2, on_progress=interrupt, **settings)
    except Stopped:
        stopped = True
    again = engine.run(bundle, corpus, folder / "resumed", workers=2, **settings)
    parts = {name: _hashes(folder / name) for name in ("one", "two", "resumed")}
    return {
        "parts": len(parts["one"]),
        "interrupted": stopped,
        "parts_kept_by_the_resumed_run": again.splits_skipped,
        "one_and_two_workers_equal": parts["one"] == parts["two"],
        "resumed_equal": parts["one"] == parts["resumed"],
    }


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("part-*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    texts = cut(words(options.corpus), LENGTHS.draw(options.rows, seed=5))
    bundle = engine.Bundle.load(options.bundle, device="cpu")
    order = random.Random(6).sample(range(len(texts)), len(texts))
    plain = outputs_of(bundle, texts)
    shuffled = outputs_of(bundle, [texts[i] for i in order])
    differ = sum(plain[i] != shuffled[n] for n, i in enumerate(order))
    files = []
    for n in range(PARTS):
        files.append(folder / f"corpus-{n}.parquet")
        rows = range(n, len(texts), PARTS)
        table = pa.table({"id": list(rows), "text": [texts[i] for i in rows]})
        pa.parquet.write_table(table, files[-1])
    pairs = [option.split("=", 1) for option in options.option]
    task_options = {name: int(value) for name, value in pairs}
    return {
        "bundle": options.bundle.name,
        "recipe": bundle.folder.description.recipe,
        "rows": len(texts),
        "rows_whose_outputs_differ_when_shuffled": differ,
        **runs(options.bundle, files, folder, task_options),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="text files (.gz too)")
    parser.add_argument("--option", action="append", default=[], help="of the task, NAME=NUMBER")
    parser.add_argument("--save", default="", help="write results/shuffle-NAME.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="engine-shuffle-") as folder:
        result = measure(options, Path(folder))
    print(json.dumps(result, indent=2))
    if options.save:
        save(f"shuffle-{options.save}", result)
    equal = result["one_and_two_workers_equal"] and result["resumed_equal"]
    if result["rows_whose_outputs_differ_when_shuffled"] or not equal:
        sys.exit(1)


if __name__ == "__main__":
    main()
