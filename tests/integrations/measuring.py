"""What the harnesses of Ray and Spark share: a corpus, a local run, time by wall and by CPU."""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

import engine
from engine.core import hardware
from engine.demo import BUNDLE, numerals

SAMPLE_SECONDS = 0.1
NULL_EVERY = 97
SETTINGS: Any = {"text": ("text",), "keep": ("id",), "on_error": "reject"}
"""Of every run."""


def write_corpus(folder: Path, rows: int, files: int, *, words: int = 0) -> Path:
    """Parquet files of equal numbers of rows with the columns id and text; about one text in 97 is
    null. Texts are numerals in Spanish or, with `words`, about so many words, of mixed lengths."""
    folder.mkdir(parents=True)
    ids = range(rows)
    for n in range(files):
        own = ids[n * rows // files : (n + 1) * rows // files]
        texts = [None if i % NULL_EVERY == 5 else _text(i, words) for i in own]
        table = pa.table({"id": pa.array(own, pa.int64()), "text": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"rows-{n:03}.parquet")
    return folder


def _text(row: int, words: int) -> str:
    """A text that no other row has: equal ones of a window are computed once."""
    spoken = numerals.spanish(row * 7919 % 1_000_000)
    count = max(1, words // 3 + row * 7919 % max(1, words * 4 // 3))
    while words and spoken.count(" ") < count:
        spoken += f" {numerals.spanish((row * 31 + len(spoken)) * 104_729 % 1_000_000)}"
    return spoken


def read_corpus(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])


def parts(out: Path) -> dict[str, str]:
    """The hash of every part and file of bad rows by its name."""
    files = [*out.glob("part-*"), *out.glob("_manifest/rejects/*")]
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
    }


def differences(answers: pa.Table, expected: pa.Table) -> dict[str, int]:
    """How two tables with a column `id` differ: rows lost, doubled, and of other values."""
    ids = answers.column("id").to_pylist()
    lost = set(expected.column("id").to_pylist()) - set(ids)
    sorted_answers = answers.sort_by("id").select(expected.column_names).cast(expected.schema)
    sorted_rows, expected_rows = sorted_answers.to_pylist(), expected.sort_by("id").to_pylist()
    same_ids = sorted(ids) == sorted(expected.column("id").to_pylist())
    return {
        "rows": len(ids),
        "lost": len(lost),
        "doubled": len(ids) - len(set(ids)),
        "other_values": sum(
            a != b for a, b in zip(sorted_rows, expected_rows, strict=True)
        ) if same_ids else -1,
    }  # fmt: skip


@dataclass
class Spent:
    """Seconds of a piece of work: by the clock, and of CPU by the kind of process.

    `cpu` is that of all processes below this one and of itself, `of_workers` that of those whose
    command line has one of the words that the meter was given.
    """

    wall: float = 0.0
    cpu: float = 0.0
    of_workers: float = 0.0

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 2) for name, value in vars(self).items()}


@dataclass
class _Meter:
    words: tuple[str, ...]
    latest: dict[tuple[int, float], tuple[float, bool]] = field(default_factory=dict)

    def sample(self) -> None:
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            try:
                times, line = process.cpu_times(), " ".join(process.cmdline())
                is_worker = any(word in line for word in self.words)
                key = (process.pid, process.create_time())
                before = self.latest.get(key, (0.0, False))[1]
                self.latest[key] = (times.user + times.system, is_worker or before)
            except psutil.Error:
                continue

    def total(self, *, workers: bool) -> float:
        return sum(
            seconds for seconds, is_worker in self.latest.values() if is_worker or not workers
        )


@contextmanager
def measured(*words: str) -> Iterator[Spent]:
    """Measure the body. A process that ends is counted as it was a tenth of a second before."""
    spent, meter, ended = Spent(), _Meter(words), threading.Event()
    meter.sample()
    before = dict(meter.latest)

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            meter.sample()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    try:
        yield spent
    finally:
        spent.wall = time.perf_counter() - started
        ended.set()
        watcher.join()
        meter.sample()
        for key, (seconds, _) in before.items():
            latest, is_worker = meter.latest[key]
            meter.latest[key] = (latest - seconds, is_worker)
        spent.cpu, spent.of_workers = meter.total(workers=False), meter.total(workers=True)


def compared(name: str, local: list[Spent], other: list[Spent], rows: int) -> dict[str, Any]:
    """The figures of two pieces of work over the same rows, done in turns, and throughputs as
    ratios: the median of the rounds' own."""

    def ratio(of_local: str, of_other: str) -> float:
        pairs = zip(local, other, strict=True)
        both = [(vars(one)[of_local], vars(two)[of_other]) for one, two in pairs]
        return round(statistics.median(one / max(two, 1e-9) for one, two in both), 3)

    return {
        "local": [_figures(spent, rows) for spent in local],
        name: [_figures(spent, rows) for spent in other],
        "throughput_by_wall": ratio("wall", "wall"),
        "throughput_by_cpu": ratio("cpu", "cpu"),
        "throughput_by_cpu_of_workers": ratio("cpu", "of_workers"),
    }


def _figures(spent: Spent, rows: int) -> dict[str, float]:
    return {**spent.rounded(), "rows_per_second": round(rows / spent.wall, 1)}


def local_run(bundle: Path, corpus: Path, out: Path, **settings: Any) -> Spent:
    """The same work by `engine.run` in this process, measured."""
    with measured() as spent:
        engine.run(bundle, corpus, out, device="cpu", **SETTINGS, **settings)
    return spent


def add_throughput(parser: argparse.ArgumentParser) -> None:
    """The options of what is timed."""
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="of the throughput")
    parser.add_argument("--words", type=int, default=0, help="of each text of the throughput")
    parser.add_argument("--rows", type=int, default=0, help="of the throughput")
    parser.add_argument("--rounds", type=int, default=1, help="of the throughput")


def save(file: Path | None, figures: dict[str, Any], packages: tuple[str, ...]) -> None:
    """Write figures beside those that the file has of other parts."""
    cpu, features = hardware.cpu()
    versions = {name: metadata.version(name) for name in packages}
    machine = {
        "cpu": cpu,
        "cpu_features": list(features),
        "cores": hardware.cores(),
        "versions": versions,
    }
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        others = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**others, "machine": machine, **figures}, indent=2) + "\n")


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within a time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
