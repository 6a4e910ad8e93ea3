"""Whether a row's answer is the same to the bit whatever stands beside it.

    python benchmarks/invariance.py BUNDLE... [--rows 24] [--cores Haswell,SkylakeX] [--save NAME]

Each bundle answers the same rows alone and in many surroundings: an encoder at every padded length
that the engine may choose, in batches of several sizes and at several places in them; the steps of
a decoder beside other rows, in other slots; and whole answers in other orders and batches, by other
numbers of threads and workers. Each process has one of OpenBLAS's kernels for this CPU, and what
they answer is compared, too. Prints JSON; exits with 1 if something differs.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import save
from texts import words

import engine
from engine import generation
from engine.bundle.batching import bucket
from engine.core.types import Ints, Ragged
from engine.export.acceptance import sample
from engine.tasks.in_memory_inputs import to_columns

# Those that this CPU cannot run fall back to another; `openblas` of a process names what it had.
CORES = ("Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX", "Cooperlake", "Sapphirerapids")
# Threads of a batch and workers of a process.
SIZES = ((1, 1), (2, 1), (1, 2))
Process = tuple[str, int, int]
"""OpenBLAS's kernels, threads and workers."""
MOST = 512
BATCHES = (2, 3, 4, 5, 7, 8, 12, 16, 33)
STEPS = 6
BUDGETS = (64, 256, 1024, 4096)


@dataclass
class Check:
    """Digests of rows in the first surroundings, and how many differed in the others.

    Attributes:
        rows: The digest of each row alone.
        compared: Rows that were compared.
        differ: By what surrounded them, those that differed.
    """

    rows: list[str] = field(default_factory=list)
    compared: int = 0
    differ: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, digest: str, where: str) -> None:
        self.compared += 1
        self.differ[where] += digest != self.rows[row]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "compared": self.compared,
            "differ": {where: count for where, count in self.differ.items() if count},
        }


def digest(*arrays: Any) -> str:
    """Of the bytes of arrays."""
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def sequences(bundle: engine.Bundle, count: int, most: int) -> Ragged:
    """Rows of 1 to `most` tokens, of made-up words."""
    source = words(())
    lengths = np.unique(np.geomspace(1, most, count).astype(np.int64))
    text = pa.array([" ".join(next(source) for _ in range(int(lengths.sum())))])
    stream = bundle.stages({}).context.tokenizer.ids(text).values
    return Ragged.of(stream[: int(lengths.sum())], lengths)


def feeds_of(rows: Ragged, index: Ints, width: int, pad: int) -> dict[str, Ints]:
    """Inputs of a graph, padded to `width`."""
    chosen = rows.take(index)
    mask = (np.arange(width) < chosen.lengths[:, None]).astype(np.int64)
    ids = chosen.padded(width, pad)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def check_encoder(bundle: engine.Bundle, count: int) -> Check:
    """Every output of the first graph, at the row's own tokens."""
    config, check = bundle.model_config, Check()
    graph: Any = bundle.backend.graph("model" if "model" in bundle.backend.roles else "encoder")
    most = min(MOST, config.position_limit or MOST, config.max_length)
    rows = sequences(bundle, count, most)
    axes = [_token_axis(graph.shapes[name]) for name in graph.outputs]
    widths = np.unique([bucket(n, most) for n in range(1, most + 1)])
    if config.decoder:  # its encoder's batches are as wide as their longest row
        widths = np.unique([*range(1, min(most, 20)), *widths, *(widths - 3).clip(1)])

    def run(index: Ints, width: int) -> Iterator[tuple[int, str]]:
        feeds = feeds_of(rows, index, width, config.pad_id)
        values = graph.run({name: feeds[name] for name in graph.inputs}, graph.outputs)
        arrays = [bundle.backend.host(value) for value in values]
        for place, row in enumerate(index.tolist()):
            length = int(rows.lengths[row])
            yield row, digest(*map(_real, axes, (array[place] for array in arrays), repeat(length)))

    for row, length in enumerate(rows.lengths.tolist()):
        fits = widths[widths >= length].tolist()
        check.rows += [name for _, name in run(np.array([row]), fits[0])]
        for width in fits[1:]:
            for _, name in run(np.array([row]), width):
                check.add(row, name, f"alone, {fits[0]} padded to {width}")
    dice = np.random.default_rng(7)
    for size in BATCHES:
        for _ in range(3):
            index = dice.choice(len(rows), size, replace=size > len(rows))
            fits = widths[widths >= rows.lengths[index].max()]
            for row, name in run(index, int(dice.choice(fits))):
                check.add(row, name, f"batch of {size}")
    return check


def _token_axis(shape: Sequence[int | str | None]) -> int | None:
    """Which axis of one row's output runs over its tokens, by the graph's shape, in which only rows
    and tokens are variable."""
    return next((n for n, size in enumerate(shape[1:]) if not isinstance(size, int)), None)


def _real(axis: int | None, array: Any, length: int) -> Any:
    """One row's output without padding."""
    return array if axis is None else np.take(array, np.arange(length), axis)


def check_steps(bundle: engine.Bundle, count: int) -> Check:
    """The logits of each step, along tokens that are given."""
    decoder, check = bundle.model_config.decoder, Check()
    assert decoder
    limit = bundle.model_config.position_limit or MOST
    rows = sequences(bundle, count, min(MOST + 40, limit - STEPS, bundle.model_config.max_length))
    stream = np.resize(rows.values[::-1], (len(rows), STEPS))
    # A negative token ends its row.
    forced = np.where(np.arange(STEPS) == STEPS - 1, -1, stream)

    def run(index: Ints, slots: int, where: str) -> None:
        width = int(rows.lengths[index].max())
        feeds = feeds_of(rows, index, width, bundle.model_config.pad_id)
        feeds.pop("token_type_ids")
        logits = generation.trace_logits(bundle.backend, feeds, decoder, forced[index], slots)
        for place, row in enumerate(index.tolist()):
            if where == "alone":
                check.rows.append(digest(logits[place]))
            else:
                check.add(row, digest(logits[place]), where)

    every = np.arange(len(rows))
    for row in every:
        run(np.array([row]), 1, "alone")
    dice = np.random.default_rng(8)
    for slots in sorted({1, 3, 8, 13, len(rows)}):
        run(every, slots, f"{slots} slots")
        run(dice.permutation(every), slots, f"{slots} slots, shuffled")
        run(
            dice.choice(every, len(rows) // 2, replace=False),
            slots,
            f"{slots} slots, half the rows",
        )
    return check


def check_answers(bundle: engine.Bundle, count: int, options: dict[str, Any]) -> Check:
    """What `Bundle.answer` gives for rows of the sample that exports are compared on."""
    items = sample.bundled(bundle.folder.description).items[:count]
    options = {**sample.options(bundle.folder.description, items), **options}
    columns = to_columns(items, bundle.task)
    names = [column.name for column in bundle.task.inputs[: len(columns)]]
    table, check = pa.table(dict(zip(names, columns, strict=True))), Check()

    def run(index: Sequence[int], where: str, **settings: Any) -> None:
        taken = table.take(pa.array(index))
        answers = bundle.answer(taken, text=tuple(names), **settings, **options).table.to_pylist()
        for row, answer in zip(index, answers, strict=True):
            name = digest(np.frombuffer(repr(answer).encode(), np.uint8))
            if where == "alone":
                check.rows.append(name)
            else:
                check.add(row, name, where)

    for row in range(len(table)):
        run([row], "alone")
    every = list(range(len(table)))
    run(every, "together")
    run(every[::-1], "reversed")
    run(every[::3], "each third")
    for budget in BUDGETS:
        run(every, f"batch_tokens {budget}", batch_tokens=budget)
    return check


def variants(bundle: engine.Bundle) -> dict[str, dict[str, Any]]:
    """Options by name: those that compute more than the defaults."""
    if bundle.model_config.decoder:
        beams = {"num_beams": 4, "return_scores": True, "max_new_tokens": 12}
        return {
            "greedy": {"max_new_tokens": 12},
            "scores": {"return_logprobs": True, "return_scores": True, "max_new_tokens": 12},
            "beams": beams,
        }
    if bundle.task.name == "feature-extraction" and not bundle.model_config.projected:
        poolings = {"pooling": "mean+cls+max+last+weightedmean+mean_sqrt_len_tokens"}
        chunks = {"chunk": "late", "chunk_size": 8, "overlap": 2}
        return {"answers": {}, "poolings": poolings, "chunks": {**chunks, "pooling": "mean"}}
    if bundle.task.name == "token-classification":
        names = ("none", "simple", "average", "max")
        return {name: {"aggregation_strategy": name} for name in names}
    return {"answers": {}}


def checks(path: Path, threads: int, workers: int, count: int) -> dict[str, Any]:
    """All checks of a bundle in this process."""
    bundle = engine.Bundle.load(path, device="cpu", threads=threads * workers, workers=workers)
    calls: dict[str, Callable[[], Check]] = {}
    if workers == 1:
        if {"model", "encoder"} & {*bundle.backend.roles}:
            calls["encoder"] = lambda: check_encoder(bundle, count)
        if bundle.model_config.decoder:
            calls["steps"] = lambda: check_steps(bundle, count)
    results = {name: call().to_dict() for name, call in calls.items()}
    for name, options in variants(bundle).items():
        results[name] = check_answers(bundle, count, options).to_dict()
    return results


def openblas() -> str:
    """The kernels that NumPy's OpenBLAS has taken, "" where it is not known."""
    folder = Path(np.__file__).parents[1] / "numpy.libs"
    for file in folder.glob("libscipy_openblas*"):
        library = ctypes.CDLL(str(file))
        for name in ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename"):
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = ctypes.c_char_p
                return str(function().decode())
    return ""


def run_child(bundle: Path, process: Process, count: int) -> dict[str, Any]:
    """The checks in a process of its own."""
    core, *sizes = process
    command = [sys.executable, __file__, str(bundle), "--child", *map(str, sizes)]
    done = subprocess.run(
        [*command, "--rows", str(count)],
        env={**os.environ, "OPENBLAS_CORETYPE": core},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{bundle}, {process}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(bundle: Path, processes: Iterable[Process], count: int) -> dict[str, Any]:
    """All processes of a bundle, and what differed in them or between them."""
    description = json.loads((bundle / "bundle.json").read_text())
    first: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    differ: dict[str, int] = {}
    compared = 0
    for process in processes:
        result = run_child(bundle, process, count)
        name = "{}, {} threads, {} workers".format(*process)
        seen[process[0]] = result["openblas"]
        for check, checked in result["checks"].items():
            compared += checked["compared"] + len(checked["rows"])
            differ |= {f"{name}: {check}: {k}": n for k, n in checked["differ"].items()}
            pairs = zip(first.setdefault(check, checked["rows"]), checked["rows"], strict=True)
            if other := sum(a != b for a, b in pairs):
                differ[f"{name}: {check}: not as in the first process"] = other
    names = ("task", "recipe")
    return {
        "bundle": bundle.name,
        **{name: description.get(name) for name in names},
        "openblas": seen,
        "compared": compared,
        "differ": differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--cores", default=",".join(CORES))
    parser.add_argument("--child", type=int, nargs=2, metavar=("THREADS", "WORKERS"))
    parser.add_argument("--save", default="", help="write results/invariance-NAME.json")
    options = parser.parse_args()
    if options.child:
        checked = checks(options.bundles[0], options.child[0], options.child[1], options.rows)
        print(json.dumps({"openblas": openblas(), "checks": checked}))
        return
    processes = [(core, *sizes) for core in options.cores.split(",") for sizes in SIZES]
    results = [measure(bundle, processes, options.rows) for bundle in options.bundles]
    print(json.dumps(results, indent=2))
    if options.save:
        save(f"invariance-{options.save}", {"bundles": results})
    if any(result["differ"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
