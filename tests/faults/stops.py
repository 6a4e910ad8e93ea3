"""The time from SIGTERM to the exit of a run, at random moments over five tasks and two sizes of
batches; and whether a run that was stopped goes on to the bytes of one that was not.

    PYTHONPATH=tests python -m faults.stops --save FILE.json [--points TASK ...] [--stops 100]

The models are random checkpoints that are exported once (`.test-cache`), of MiniLM's and t5-small's
width. Moments are drawn from the start of the process on, imports included; where Python itself has
not started by then, which a program cannot change, the stop waits until it has. A figure holds with
the load of the machine beside it: with `--points` the file keeps the figures of the other tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIRST_SECONDS, LAST_SECONDS = 0.15, 5.0
SIZES = {"small": (), "32768": ("--batch-tokens", "32768", "--workers", "2")}
ROWS, ROWS_RESUMED = 20_000, 48
_ENCODER = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "initializer_range": 0.05,
}


@dataclass(frozen=True)
class Stop:
    """A run that was stopped: when, how long it took to end, and with what."""

    task: str
    size: str
    after: float
    seconds: float
    rc: int
    load: float
    said: str = ""


def bundles() -> Mapping[str, Callable[[], Path]]:
    """What exports the bundle of each task, where it is not there yet."""
    from support.bundles import bundle_of, checkpoint_of
    from support.checkpoints import decoders, encoder_decoders, encoders

    def encoder(task: str) -> Path:
        return bundle_of(checkpoint_of(encoders.encoder, "bert", task, **_ENCODER), task)

    t5 = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
    gpt2 = {"n_embd": 384, "n_layer": 6, "n_head": 6, "initializer_range": 0.05}
    return {
        "feature-extraction": lambda: encoder("feature-extraction"),
        "text-classification": lambda: encoder("text-classification"),
        "token-classification": lambda: encoder("token-classification"),
        "summarization": lambda: bundle_of(
            checkpoint_of(encoder_decoders.t5, **t5), "summarization"
        ),
        "text-generation": lambda: bundle_of(
            checkpoint_of(decoders.gpt2, **gpt2), "text-generation"
        ),
    }


def write_corpus(file: Path, rows: int) -> Path:
    """Texts of 5 to 100 words."""
    drawn = random.Random(7)
    words = [
        "".join(drawn.choices("abcdefghilmnoprstu", k=drawn.randint(2, 8))) for _ in range(500)
    ]
    with file.open("w") as stream:
        for number in range(rows):
            text = " ".join(drawn.choices(words, k=drawn.randint(5, 100)))
            stream.write(json.dumps({"id": number, "text": text}) + "\n")
    return file


def command(bundle: Path, corpus: Path, out: Path, size: str) -> list[str]:
    settings = ("--keep", "id", "--device", "cpu", *SIZES[size])
    run = ("run", str(bundle), str(corpus), "-o", str(out), *settings)
    return [sys.executable, "-m", "engine", *run]


def stop(
    task: str, size: str, run: Sequence[str], after: float, number: int = signal.SIGTERM
) -> Stop:
    """Start a run in a process group of its own, and stop it after so many seconds."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            run, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True, cwd=ROOT
        )
        time.sleep(after)
        while process.poll() is None and not handles(process.pid, number):
            time.sleep(0.005)
        load, start = os.getloadavg()[0], time.monotonic()
        if process.poll() is None:
            process.send_signal(number)
        rc = process.wait(timeout=300)
        seconds = time.monotonic() - start
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return Stop(task, size, round(after, 3), round(seconds, 3), rc, load, said)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status")
    try:
        caught = next(x for x in status.read_text().splitlines() if x.startswith("SigCgt"))
    except (OSError, StopIteration):
        return True
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def moments(count: int, drawn: random.Random) -> list[float]:
    """Random moments, one in each of as many equal stretches."""
    width = (LAST_SECONDS - FIRST_SECONDS) / count
    return [FIRST_SECONDS + width * (n + drawn.random()) for n in range(count)]


def resumed(bundle: Path, corpus: Path, size: str, folder: Path, drawn: random.Random) -> bool:
    """Whether a run that is stopped twice and goes on leaves the bytes of one that is not."""
    whole, out = folder / f"whole-{size}", folder / f"out-{size}"
    subprocess.run(command(bundle, corpus, whole, size), check=True, capture_output=True, cwd=ROOT)
    for _ in range(2):
        stop("", size, command(bundle, corpus, out, size), drawn.uniform(1.5, LAST_SECONDS))
    subprocess.run(command(bundle, corpus, out, size), check=True, capture_output=True, cwd=ROOT)
    return parts(whole) == parts(out)


def parts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("part-*"))}


def figures(stops: Sequence[Stop]) -> dict[str, Any]:
    """What the stops of a group have in common."""
    seconds = sorted(one.seconds for one in stops)
    return {
        "stops": len(stops),
        "median_seconds": round(statistics.median(seconds), 3),
        "worst_seconds": seconds[-1],
        "rc": {str(rc): sum(one.rc == rc for one in stops) for rc in {one.rc for one in stops}},
        "tracebacks": sum("Traceback" in one.said for one in stops),
        "load": round(statistics.median(one.load for one in stops), 1),
    }


def measure(task: str, bundle: Path, count: int, folder: Path) -> dict[str, Any]:
    """The stops of one task."""
    drawn = random.Random(task)
    corpus = write_corpus(folder / "corpus.jsonl", ROWS)
    few = write_corpus(folder / "few.jsonl", ROWS_RESUMED)
    stops = [
        stop(task, size, command(bundle, corpus, folder / f"{size}-{number}", size), after)
        for size in SIZES
        for number, after in enumerate(moments(count, drawn))
    ]
    for one in stops:
        if one.rc != 75 or one.seconds > 3 or "Traceback" in one.said:
            print(f"{asdict(one)}", file=sys.stderr)
    return {
        "by_size": {size: figures([s for s in stops if s.size == size]) for size in SIZES},
        "resumed_to_the_same_bytes": {
            size: resumed(bundle, few, size, folder, drawn) for size in SIZES
        },
        "stops": [{k: v for k, v in asdict(one).items() if k != "said"} for one in stops],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--points", nargs="*", default=[])
    parser.add_argument("--stops", type=int, default=100)
    arguments = parser.parse_args()
    from benchmarks.machine import describe

    every = bundles()
    tasks: dict[str, Any] = {}
    if arguments.points and arguments.save.exists():
        tasks = json.loads(arguments.save.read_text())["tasks"]
    for task in arguments.points or every:
        bundle = every[task]()
        with tempfile.TemporaryDirectory() as folder:
            count = max(1, arguments.stops // (len(every) * len(SIZES)))
            tasks[task] = measure(task, bundle, count, Path(folder))
        stops = [Stop(**one) for done in tasks.values() for one in done["stops"]]
        result = {"machine": describe(), "all": figures(stops), "tasks": tasks}
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        arguments.save.write_text(json.dumps(result, indent=2) + "\n")
        print(task, json.dumps(tasks[task]["by_size"]), tasks[task]["resumed_to_the_same_bytes"])
    print(json.dumps(result["all"]))


if __name__ == "__main__":
    main()
