"""Spark itself: values beside `Bundle.answer`, a worker killed, loads counted, time beside a run.

    python tests/integrations/spark.py --save FILE [--long] [--bundle FOLDER --words 40]

It needs the extra `spark` and Java 17 (`scripts/test-spark`). The session is `local[2,4]`: two
tasks at a time, four attempts for each.

    values      the rows of `mapper` are those of `Bundle.answer`, bit for bit; so are the reasons
    killed      every partition's worker is killed (SIGKILL) in its first attempt, after some rows
    two stages  each Python worker loads the bundle once for both
    archive     the bundle comes by `addArchive`, and is found by its name
    throughput  rows a second, and rows a second of CPU, beside those of a local run

The exit code is 1 where rows are lost, doubled or of other values, or a bundle is loaded twice.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from integrations import measuring

import engine
from engine.demo import BUNDLE
from engine.integrations import spark as engine_spark
from engine.integrations.mapped_rows import MapSettings, whole

CORES = 2
_FILES = 4


def start_spark(folder: Path) -> Any:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master(f"local[{CORES},4]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", str(CORES))
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.local.dir", str(folder / "spark"))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    return session


def frame(session: Any, corpus: Path) -> Any:
    """The corpus as a data frame with a partition for each file."""
    files = sorted(map(str, corpus.glob("*.parquet")))
    return session.read.parquet(*files).repartition(_FILES, "id")


def mapped(df: Any, bundle: Path, wrap: Callable[[Any], Any] = lambda answer: answer) -> pa.Table:
    answer = engine_spark.mapper(bundle)
    return df.mapInArrow(wrap(answer), engine_spark.schema(df, bundle)).toArrow()


def answered_here(corpus: Path, bundle: Path) -> pa.Table:
    """What `mapped` should give, by `Bundle.answer`."""
    loaded, settings = engine.Bundle.load(bundle, device="cpu"), MapSettings.of({})
    table = measuring.read_corpus(corpus)
    return whole(table, loaded.answer(table, **settings.answering), settings)


def killed_first(answer: Any, file: str) -> Any:
    """The mapper in a worker that is killed in each partition's first attempt, after the first
    rows have gone out; a line of a file says so."""

    def killed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os
        import signal

        from pyspark import TaskContext

        for batch in answer(batches):
            yield batch
            if TaskContext.get().attemptNumber() == 0:
                note(file, f"{os.getpid()}\n")
                os.kill(os.getpid(), signal.SIGKILL)

    return killed


def counting_loads(answer: Any, file: str) -> Any:
    """The mapper in a worker that says in a file which bundles it loads and which partitions it
    has."""

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os

        from engine.pipeline import Bundle

        if not hasattr(Bundle, "uncounted_load"):
            Bundle.uncounted_load = Bundle.load

            def load(*arguments: Any, **named: Any) -> Any:
                note(file, f"load {os.getpid()}\n")
                return Bundle.uncounted_load(*arguments, **named)

            Bundle.load = load
        note(file, f"partition {os.getpid()}\n")
        yield from answer(batches)

    return counted


def note(file: str, line: str) -> None:
    """Append a line to a file, whichever processes do."""
    import os

    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def kill_workers(session: Any, corpus: Path, expected: pa.Table, file: Path) -> dict[str, Any]:
    answers = mapped(frame(session, corpus), BUNDLE, partial(killed_first, file=str(file)))
    kills = len(file.read_text().split())
    return {"kills": kills, **measuring.differences(answers, expected)}


def two_stages(session: Any, corpus: Path, file: Path, bundle: Path | str) -> dict[str, Any]:
    """Two stages with a shuffle between them, both of which answer."""
    df = frame(session, corpus)
    first = engine_spark.mapper(bundle, keep=["id", "text"])
    kept = engine_spark.schema(df, bundle, keep=["id", "text"])
    rows = df.mapInArrow(counting_loads(first, str(file)), kept)
    rows = rows.drop("reject").repartition(CORES, "id")
    second = engine_spark.mapper(bundle, keep="id", result_prefix="again_")
    again = engine_spark.schema(rows, bundle, keep="id", result_prefix="again_")
    count = rows.mapInArrow(counting_loads(second, str(file)), again).toArrow().num_rows
    lines = [line.split() for line in file.read_text().splitlines()]
    loads = [worker for what, worker in lines if what == "load"]
    partitions = [worker for what, worker in lines if what == "partition"]
    return {
        "rows": count,
        "partitions": len(partitions),
        "workers": len(set(partitions)),
        "loads": len(loads),
    }


def by_archive(session: Any, folder: Path, corpus: Path, expected: pa.Table) -> dict[str, Any]:
    archive = folder / "numerals.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(BUNDLE, ".")
    session.sparkContext.addArchive(f"{archive}#numerals")
    df = frame(session, corpus)
    answers = df.mapInArrow(
        engine_spark.mapper("numerals"), engine_spark.schema(df, "numerals")
    ).toArrow()
    return measuring.differences(answers, expected)


def throughput(
    session: Any, folder: Path, bundle: Path, rows: int, words: int, rounds: int
) -> dict[str, Any]:
    """A local run and `mapper` over the same rows with the same cores, in turns."""
    corpus = measuring.write_corpus(folder / "timed", rows, _FILES, words=words)
    local, by_mapper, answered = [], [], set()
    for n in range(rounds):
        local.append(measuring.local_run(bundle, corpus, folder / f"timed-local-{n}"))
        with measuring.measured("pyspark") as spent:
            answered.add(len(mapped(frame(session, corpus), bundle)))
        by_mapper.append(spent)
    return {
        "rows": rows,
        "words": words,
        "mapper_rows": sorted(answered),
        **measuring.compared("spark", local, by_mapper, rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--long", action="store_true", help="20,000 rows")
    parser.add_argument("--only", default="values,killed,stages,archive,throughput")
    measuring.add_throughput(parser)
    arguments = parser.parse_args()
    rows = arguments.rows or (20_000 if arguments.long else 4_000)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = measuring.write_corpus(folder / "corpus", 12_000, _FILES)
        expected = answered_here(corpus, BUNDLE)
        session = start_spark(folder)
        try:
            if "stages" in arguments.only:  # first, in workers that have loaded nothing
                figures["two_stages"] = two_stages(session, corpus, folder / "loads", BUNDLE)
            if "values" in arguments.only:
                answers = mapped(frame(session, corpus), BUNDLE)
                figures["values"] = measuring.differences(answers, expected)
            if "killed" in arguments.only:
                figures["killed"] = kill_workers(session, corpus, expected, folder / "kills")
            if "archive" in arguments.only:
                figures["archive"] = by_archive(session, folder, corpus, expected)
            if "throughput" in arguments.only:
                figures["throughput"] = throughput(
                    session,
                    folder,
                    arguments.bundle,
                    rows,
                    arguments.words,
                    arguments.rounds,
                )
        finally:
            session.stop()
    measuring.save(arguments.save, figures, ("pyspark", "onnxruntime", "pyarrow", "numpy"))
    sys.stdout.write(measuring.json.dumps(figures, indent=2) + "\n")
    return 0 if is_right(figures) else 1


def is_right(figures: dict[str, Any]) -> bool:
    compared = [figures.get(name, {}) for name in ("values", "killed", "archive")]
    stages = figures.get("two_stages", {})
    return stages.get("loads") == stages.get("workers") and not any(
        one.get(name) for one in compared for name in ("lost", "doubled", "other_values")
    )


if __name__ == "__main__":
    sys.exit(main())
