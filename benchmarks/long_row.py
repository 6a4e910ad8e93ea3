"""One long row: time and memory of `engine run`, and how long a stop takes meanwhile.

    python benchmarks/long_row.py [--mb 200] [--rounds 5] [-o FOLDER] [--save]

Writes corpora of fifty short rows with a text of that many megabytes (10^6 bytes) among them, as
JSON lines (plain, with the letters escaped, and by gzip), Parquet and Arrow, and runs each by
`engine run` on the embedded bundle in a process of its own. `seconds` is the run with the long row
less the run without it, `run_seconds` the whole run; both are the least of all rounds. The peak is
what the kernel reports when the process ends (getrusage, ru_maxrss), the largest of all rounds. A
stop is SIGTERM at moments over the time of a run. It exits with 1 where the plain JSON lines take
more than 2 seconds or 700 MB, or a stop takes more than 2 seconds or ends otherwise than with 75.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import save

from engine.demo import BUNDLE

SECONDS, MEGABYTES, STOP_SECONDS = 2.0, 700.0, 2.0
ROWS = 50
_SENTENCE = "El perro corre por el prado, según dicen, y mira el sol. "
MOMENTS = (0.25, 0.4, 0.55, 0.7, 0.85, 0.95)


NAMES = {
    "short": "short.jsonl",  # without the long row
    "jsonl": "plain.jsonl",
    "jsonl-escaped": "escaped.jsonl",
    "jsonl.gz": "gzip.jsonl.gz",
    "parquet": "long.parquet",
    "arrow": "long.arrow",
}


def write(folder: Path, megabytes: int) -> None:
    """Write the corpora."""
    files = {name: folder / file for name, file in NAMES.items()}
    text = _SENTENCE * (megabytes * 10**6 // len(_SENTENCE.encode()))
    rows = [{"id": n, "text": f"El perro {n} corre."} for n in range(ROWS)]
    _write_lines(files["short"], rows)
    rows[ROWS // 2]["text"] = text
    _write_lines(files["jsonl"], rows)
    _write_lines(files["jsonl-escaped"], rows, escaped=True)
    files["jsonl.gz"].write_bytes(gzip.compress(files["jsonl"].read_bytes(), 1))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, files["parquet"])
    with pa.ipc.new_file(str(files["arrow"]), table.schema) as writer:
        writer.write_table(table)


def _write_lines(file: Path, rows: list[dict[str, Any]], *, escaped: bool = False) -> None:
    lines = (json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(lines)


def run(file: Path, stop_after: float = 0.0) -> tuple[int, float, float, float]:
    """Exit code, seconds, seconds from SIGTERM on, and peak MB of `engine run` over one file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "engine", "run", str(BUNDLE), str(file), "-o", folder]
        start = stopped = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--keep", "id"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if stop_after:
            time.sleep(stop_after)
            stopped = time.perf_counter()
            os.kill(process.pid, signal.SIGTERM)  # Popen's own may take its exit code
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    end = time.perf_counter()
    return process.returncode, end - start, end - stopped, usage.ru_maxrss * 1024 / 1e6


def measure(file: Path, rounds: int) -> dict[str, float]:
    runs = [run(file) for _ in range(rounds)]
    if any(code for code, *_ in runs):
        raise SystemExit(f"engine run failed on {file.name}")
    return {
        "run_seconds": round(min(seconds for _, seconds, _, _ in runs), 2),
        "peak_mb": round(max(peak for *_, peak in runs), 1),
    }


def stops(file: Path, seconds: float) -> list[dict[str, float]]:
    """What SIGTERM at some moments of a run ends with; runs that were faster are left out."""
    results = []
    for moment in MOMENTS:
        code, _, taken, _ = run(file, moment * seconds)
        if code:
            results.append({"at": moment, "exit_code": code, "seconds": round(taken, 2)})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path, default=None)
    parser.add_argument("--save", action="store_true", help="write results/long-row.json")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp())
    # In a process of its own: the kernel counts what this one has as the peak of those it starts.
    writer = get_context("spawn").Process(target=write, args=(folder, arguments.mb))
    writer.start()
    writer.join()
    files = {name: folder / file for name, file in NAMES.items()}
    short = measure(files.pop("short"), arguments.rounds)
    result: dict[str, Any] = {"mb": arguments.mb, "rounds": arguments.rounds, "without": short}
    for name, file in files.items():
        figures = measure(file, arguments.rounds)
        figures["seconds"] = round(figures["run_seconds"] - short["run_seconds"], 2)
        result[name] = {**figures, "stops": stops(file, figures["run_seconds"])}
        print(name, result[name], flush=True)
    if arguments.save:
        print(save("long-row", result))
    plain = result["jsonl"]
    late = [
        stop
        for name in files
        for stop in result[name]["stops"]
        if stop["seconds"] > STOP_SECONDS or stop["exit_code"] != 75
    ]
    sys.exit(bool(plain["seconds"] > SECONDS or plain["peak_mb"] > MEGABYTES or late))


if __name__ == "__main__":
    main()
