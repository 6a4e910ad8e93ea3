"""Whether answers in memory cost what a run does: `Bundle.answer`, `Bundle.stream` and a call
beside `engine.run`, over the same rows with the same loaded bundle.

    python benchmarks/in_memory.py BUNDLE [--rows 2000] [--texts FILE] [--prefix TEXT]
                                   [--option NAME=VALUE] [--rounds 5] [--save NAME]

All are called in turns, so that whatever else the machine does is in each of them. Prints JSON with
the median of the seconds and of the CPU seconds, and how many times as fast as the run each form
is: of both, the median over the rounds. What they answer must be equal, or it exits with 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import save
from texts import Lengths, cut, lines, words

import engine

LENGTHS = Lengths(14, 0.7, 1, 200)
# Rows of one table of a stream: a window, as a run reads them.
TABLE = 4096


class Forms:
    """The ways to have the same rows answered."""

    def __init__(self, bundle: engine.Bundle, texts: list[str], options: dict[str, Any]) -> None:
        self.bundle, self.texts, self.options = bundle, texts, options
        self.table = pa.table({"text": texts})
        self.folder = Path(tempfile.mkdtemp(prefix="engine-in-memory-"))
        self.file = self.folder / "rows.parquet"
        pq.write_table(self.table, self.file)

    def run(self) -> pa.Table:
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            report = engine.run(self.bundle, self.file, out, **self.options)
            parts = [pa.ipc.open_file(Path(out) / file).read_all() for file in report.files]
        return pa.concat_tables(parts)

    def answer(self) -> pa.Table:
        return self.bundle.answer(self.table, **self.options).table

    def stream(self) -> pa.Table:
        tables = self.bundle.stream(self.table.to_batches(TABLE), **self.options)
        return pa.concat_tables([answered.table for answered in tables])

    def call(self) -> pa.Table:
        return self.bundle(self.texts, **self.options)


@contextmanager
def timed(seconds: list[float], cpu: list[float]) -> Iterator[None]:
    started = time.perf_counter(), time.process_time()
    yield
    seconds.append(time.perf_counter() - started[0])
    cpu.append(time.process_time() - started[1])


def measure(forms: Forms, rounds: int) -> dict[str, Any]:
    """Seconds of each form, and whether all gave the same."""
    calls: dict[str, Callable[[], pa.Table]] = {
        "run": forms.run, "answer": forms.answer, "stream": forms.stream, "call": forms.call,
    }  # fmt: skip
    answers = {name: call() for name, call in calls.items()}
    columns = answers["call"].column_names
    equal = all(table.select(columns).equals(answers["call"]) for table in answers.values())
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        names = list(calls)
        for name in names[number % 4 :] + names[: number % 4]:
            with timed(wall[name], cpu[name]):
                calls[name]()
    return {
        "equal": equal,
        "seconds": _medians(wall),
        "cpu_seconds": _medians(cpu),
        "speed_beside_run": _ratios(wall),
        "cpu_speed_beside_run": _ratios(cpu),
    }


def _medians(series: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 4) for name, values in series.items()}


def _ratios(series: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast as the run, the median over the rounds."""
    pairs = {name: zip(series["run"], values, strict=True) for name, values in series.items()}
    return {name: round(statistics.median(a / b for a, b in p), 3) for name, p in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--texts", type=Path, help="a file of texts, one a line (.gz too)")
    parser.add_argument("--prefix", default="", help="put before each text")
    parser.add_argument("--option", action="append", default=[], help="of the task, NAME=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", default="", help="write results/in-memory-NAME.json")
    options = parser.parse_args()
    if options.texts:
        texts = lines([options.texts])[: options.rows]
    else:
        texts = cut(words(()), LENGTHS.draw(options.rows, seed=5))
    pairs = (option.split("=", 1) for option in options.option)
    task_options = {name: int(value) if value.isdigit() else value for name, value in pairs}
    bundle = engine.Bundle.load(options.bundle, device="cpu")
    forms = Forms(bundle, [options.prefix + text for text in texts], task_options)
    result = {
        "bundle": options.bundle.name,
        "recipe": bundle.folder.description.recipe,
        "rows": len(texts),
        "options": task_options,
        **measure(forms, options.rounds),
    }
    print(json.dumps(result, indent=2))
    if options.save:
        save(f"in-memory-{options.save}", result)
    if not result["equal"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
