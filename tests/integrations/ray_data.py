"""Ray itself: values beside a local run, processes killed, time beside a local run.

    python tests/integrations/ray_data.py --save FILE [--long] [--bundle FOLDER --words 40]

It needs the extra `ray` (`scripts/test-ray`). Four things are tried, each beside `engine.run` or
`Bundle.answer` in this process, before Ray is imported by it:

    values       the parts of `run` and the rows of `EngineMapper` are equal, bit for bit
    killed run   tasks of `run` are killed (SIGKILL) until so many are; then the parts are compared
    killed map   the same for the actors of `EngineMapper`
    throughput   rows a second, and rows a second of CPU, beside those of a local run

The exit code is 1 where rows are lost, doubled or of other values.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from integrations import measuring

import engine
from engine.demo import BUNDLE
from engine.integrations import ray as engine_ray
from engine.integrations.mapped_rows import MapSettings, whole

CORES = 2
TASK, ACTOR = "ray::_run_share", "EngineMapper"
_FILES = 12


def start_ray(cpus: int) -> Any:
    """This machine as a cluster. Actors keep their CPUs: Ray Data needs one more to read."""
    import ray

    ray.shutdown()
    ray.init(num_cpus=cpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def mapped(corpus: Path, bundle: Path) -> pa.Table:
    """The corpus through `EngineMapper`, in whatever order. Ray Data reads so small a corpus as
    one block, which one actor would get."""
    import ray

    rows = ray.data.read_parquet(str(corpus))
    rows = rows.repartition(target_num_rows_per_block=1024).map_batches(
        engine_ray.EngineMapper,
        fn_constructor_kwargs={"bundle": str(bundle)},
        batch_format="pyarrow",
        batch_size=1024,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=CORES),
    )
    tables = [ray.get(ref) for ref in rows.to_arrow_refs()]
    return pa.concat_tables([table for table in tables if len(table)])


def answered_here(corpus: Path, bundle: Path) -> pa.Table:
    """What `mapped` should give, by `Bundle.answer` of each file."""
    loaded, settings = engine.Bundle.load(bundle, device="cpu"), MapSettings.of({})
    tables = [measuring.pq.read_table(file) for file in sorted(corpus.glob("*.parquet"))]
    return pa.concat_tables([whole(t, loaded.answer(t, **settings.answering), settings)
                             for t in tables])  # fmt: skip


@contextmanager
def killing(
    word: str,
    kills: int,
    between: tuple[float, float],
    may: Callable[[], bool] = lambda: True,
) -> Iterator[list[int]]:
    """Kill a process with a word in its name again and again while the body runs, where it `may`;
    the list has the ids of those that were."""
    killed: list[int] = []
    ended, dice = threading.Event(), random.Random(5)

    def kill() -> None:
        while len(killed) < kills and not ended.wait(dice.uniform(*between)):
            alive = [p for p in psutil.Process().children(recursive=True) if _is(p, word)]
            if alive and may():
                victim = dice.choice(alive)
                victim.send_signal(signal.SIGKILL)
                killed.append(victim.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield killed
    finally:
        ended.set()
        killer.join()


def _is(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def compare_values(folder: Path, bundle: Path, rows: int) -> dict[str, Any]:
    corpus = measuring.write_corpus(folder / "values", rows, _FILES)
    measuring.local_run(bundle, corpus, folder / "local")
    expected = answered_here(corpus, bundle)
    start_ray(CORES)
    output = engine_ray.run(bundle, corpus, folder / "ray", **measuring.SETTINGS)
    local, shared = measuring.parts(folder / "local"), measuring.parts(folder / "ray")
    answers, rejects = output.answers().count(), output.rejects().count()
    start_ray(CORES + 1)
    return {
        "rows": rows,
        "parts_equal": local == shared and len(local) == len(shared),
        "answers": answers,
        "rejects": rejects,
        "mapper": measuring.differences(mapped(corpus, bundle), expected),
    }


def kill_tasks(folder: Path, bundle: Path, rows: int, kills: int) -> dict[str, Any]:
    """Runs whose tasks are killed, in as many output folders as it takes."""
    corpus = measuring.write_corpus(folder / "killed", rows, _FILES)
    measuring.local_run(bundle, corpus, folder / "unkilled", window=256)
    wanted = measuring.parts(folder / "unkilled")
    start_ray(CORES)
    killed, runs, equal, resumed = 0, 0, 0, 0
    while killed < kills:
        out = folder / f"killed-out-{runs}"
        with killing(TASK, kills - killed, (0.2, 1.5), partial(_has_begun, out)) as victims:
            output = engine_ray.run(bundle, corpus, out, window=256, **measuring.SETTINGS)
        killed, runs = killed + len(victims), runs + 1
        equal += measuring.parts(out) == wanted
        resumed += output.report.rows_resumed
    return {"rows": rows, "kills": killed, "runs": runs, "runs_equal": equal,
            "rows_resumed": resumed}  # fmt: skip


def _has_begun(out: Path) -> bool:
    """Whether rows of parts that have not finished are recorded."""
    with suppress(OSError):  # one has just finished
        return any(file.stat().st_size for file in out.glob("_tmp/*.journal"))
    return False


def kill_actors(folder: Path, bundle: Path, rows: int, kills: int) -> dict[str, Any]:
    corpus = measuring.write_corpus(folder / "killed-map", rows, _FILES)
    expected = answered_here(corpus, bundle)
    start_ray(CORES + 1)
    killed, runs, wrong = 0, 0, []
    while killed < kills:
        with killing(ACTOR, kills - killed, (1.0, 3.0)) as victims:
            answers = mapped(corpus, bundle)
        killed, runs = killed + len(victims), runs + 1
        wrong.append(measuring.differences(answers, expected))
    return {
        "rows": rows,
        "kills": killed,
        "runs": runs,
        **{name: sum(one[name] for one in wrong) for name in ("lost", "doubled", "other_values")},
    }


def throughput(folder: Path, bundle: Path, rows: int, words: int, rounds: int) -> dict[str, Any]:
    """Local, `run` and `EngineMapper` over the same rows with the same cores, in turns."""
    corpus = measuring.write_corpus(folder / "timed", rows, _FILES, words=words)
    local, by_run, by_mapper = [], [], []
    equal, answered = True, set()
    for n in range(rounds):
        outs = folder / f"timed-local-{n}", folder / f"timed-ray-{n}"
        local.append(measuring.local_run(bundle, corpus, outs[0]))
        start_ray(CORES)
        with measuring.measured("ray::") as spent:
            engine_ray.run(bundle, corpus, outs[1], **measuring.SETTINGS)
        by_run.append(spent)
        equal &= measuring.parts(outs[0]) == measuring.parts(outs[1])
        start_ray(CORES + 1)
        with measuring.measured("ray::") as spent:
            answered.add(len(mapped(corpus, bundle)))
        by_mapper.append(spent)
    return {
        "rows": rows,
        "words": words,
        "parts_equal": equal,
        "mapper_rows": sorted(answered),
        "run": measuring.compared("ray", local, by_run, rows),
        "mapper": measuring.compared("ray", local, by_mapper, rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--long", action="store_true", help="20 kills, 20,000 rows")
    parser.add_argument("--only", default="values,killed_run,killed_map,throughput")
    measuring.add_throughput(parser)
    arguments = parser.parse_args()
    kills = 20 if arguments.long else 3
    rows = arguments.rows or (20_000 if arguments.long else 4_000)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "values" in arguments.only:
            figures["values"] = compare_values(folder, BUNDLE, 3_000)
        if "killed_run" in arguments.only:
            figures["killed_run"] = kill_tasks(folder, BUNDLE, 24_000, kills)
        if "killed_map" in arguments.only:
            figures["killed_map"] = kill_actors(folder, BUNDLE, 24_000, kills)
        if "throughput" in arguments.only:
            figures["throughput"] = throughput(
                folder, arguments.bundle, rows, arguments.words, arguments.rounds
            )
    measuring.save(arguments.save, figures, ("ray", "onnxruntime", "pyarrow", "numpy"))
    sys.stdout.write(measuring.json.dumps(figures, indent=2) + "\n")
    return 0 if is_right(figures) else 1


def is_right(figures: dict[str, Any]) -> bool:
    values, run, actors = (figures.get(n, {}) for n in ("values", "killed_run", "killed_map"))
    differing = [values.get("mapper", {}), actors]
    return (
        values.get("parts_equal", True)
        and run.get("runs_equal", 0) == run.get("runs", 0)
        and figures.get("throughput", {}).get("parts_equal", True)
        and not any(d.get(n) for d in differing for n in ("lost", "doubled", "other_values"))
    )


if __name__ == "__main__":
    sys.exit(main())
