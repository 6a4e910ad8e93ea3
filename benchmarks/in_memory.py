"""Whether answers in memory cost what a run does: `Bundle.answer`, `Bundle.stream` and a call
beside `engine.run`, over the same rows with the same loaded bundle.

    python benchmarks/in_memory.py BUNDLE [--rows 2000] [--texts FILE] [--prefix TEXT]
                                   [--option NAME=VALUE] [--rounds 5] [--save NAME]
    python benchmarks/in_memory.py --models CHECKPOINTS [--corpus TEXTS] --sentences EN.gz
                                   [--work FOLDER] [--rounds 5] [--save NAME]

All are called in turns, so that whatever else the machine does is in each of them. Prints JSON with
the median of the seconds and of the CPU seconds, and how many times as fast as the run each form
is: of both, the median over the rounds. What they answer must be equal, or it exits with 1.

Without a bundle it measures the table: flan-t5-small over 384 captions and MiniLM over 2,000 texts,
each in int8 and fp32, with half as many rounds for flan-t5-small in fp32; and then, in turns and in
processes of their own, `Bundle(...)` of flan-t5-small beside optimum's own
ORTModelForSeq2SeqLM.generate over the same captions (`vs_optimum`, greedy, three rounds).
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
from contest import PEERS as PEERS_FOLDER
from contest import Contestant, contest
from machine import describe, save
from prepare import Sources, prepare
from run import environment
from texts import Lengths, cut, lines, words
from workloads import WORKLOADS

import engine
from engine.core.hardware import cores

LENGTHS = Lengths(14, 0.7, 1, 200)
# Rows of one table of a stream: a window, as a run reads them.
TABLE = 4096
CAPTIONS, EMBEDDED, OPTIMUM_ROUNDS = 384, 2000, 3


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


def measure_bundle(
    folder: Path, texts: list[str], task_options: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """The part of the result for one bundle."""
    bundle = engine.Bundle.load(folder, device="cpu")
    forms = Forms(bundle, texts, task_options)
    return {
        "bundle": folder.name,
        "recipe": bundle.folder.description.recipe,
        "rows": len(texts),
        "options": task_options,
        "workers": bundle.workers,
        "batch_tokens": bundle.batch_tokens,
        **measure(forms, rounds),
    }


def measure_table(sources: Sources, rounds: int) -> dict[str, Any]:
    """All that is asked of answers in memory; see above."""
    jobs = {
        "translate": prepare("in-memory-flan", WORKLOADS["translate-real"], CAPTIONS, sources),
        "embed": prepare("in-memory-minilm", WORKLOADS["encode-short"], EMBEDDED, sources),
    }
    result: dict[str, Any] = {}
    for name, job in jobs.items():
        with pa.OSFile(job["file"]) as file:
            texts = pa.ipc.open_file(file).read_all()["text"].to_pylist()
        for recipe in ("int8", "fp32"):
            slow = name == "translate" and recipe == "fp32"
            turns = -(-rounds // 2) if slow else rounds
            part = measure_bundle(Path(job["bundles"][recipe]), texts, job["options"], turns)
            result[f"{name} {recipe}"] = part
            print(f"{name} {recipe}: {part['speed_beside_run']}", file=sys.stderr, flush=True)
    result["vs_optimum"] = beside_optimum(jobs["translate"], sources.work)
    return result


def beside_optimum(job: dict[str, Any], work: Path) -> dict[str, Any]:
    """`Bundle(...)` and optimum's generate in turns."""
    called, python = PEERS_FOLDER / "_bundle_call.py", environment("optimum", work)
    every = [
        Contestant(f"engine {recipe}", called, recipe, job={**job, "bundle": bundle})
        for recipe, bundle in job["bundles"].items()
    ]
    peer = PEERS_FOLDER / "optimum_ort.py"
    own = {**job, "threads": cores()}
    every += [Contestant(f"optimum {n}", peer, n, python, own) for n in job["bundles"]]
    with tempfile.TemporaryDirectory() as folder:
        return contest(
            every,
            Path(folder),
            rows=CAPTIONS,
            tokens=sum(job["output_tokens"]),
            rounds=OPTIMUM_ROUNDS,
            reference="optimum fp32",
            progress=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--texts", type=Path, help="a file of texts, one a line (.gz too)")
    parser.add_argument("--prefix", default="", help="put before each text")
    parser.add_argument("--option", action="append", default=[], help="of the task, NAME=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", default="", help="write results/in-memory-NAME.json")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="trained checkpoints")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="text files (.gz too)")
    parser.add_argument("--sentences", type=Path, nargs="*", default=[], help="captions")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    options = parser.parse_args()
    if options.bundle is None:
        work = options.work.resolve()
        sources = Sources(work, options.models, options.corpus, options.sentences)
        result = measure_table(sources, options.rounds)
        parts = [part for name, part in result.items() if name != "vs_optimum"]
    else:
        result = measure_one(options)
        parts = [result]
    print(json.dumps({"machine": describe(), **result}, indent=2))
    if options.save:
        save(f"in-memory-{options.save}", result)
    if not all(part["equal"] for part in parts):
        sys.exit(1)


def measure_one(options: argparse.Namespace) -> dict[str, Any]:
    """The bundle that was named."""
    if options.texts:
        texts = lines([options.texts])[: options.rows]
    else:
        texts = cut(words(()), LENGTHS.draw(options.rows, seed=5))
    pairs = (option.split("=", 1) for option in options.option)
    task_options = {name: int(value) if value.isdigit() else value for name, value in pairs}
    texts = [options.prefix + text for text in texts]
    return measure_bundle(options.bundle, texts, task_options, options.rounds)


if __name__ == "__main__":
    main()
