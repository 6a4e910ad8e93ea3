"""Memory of a run: as the corpus grows, and over the time of one run.

    python benchmarks/memory.py [--rows 100000 1000000] [-o FOLDER] [--save]
    python benchmarks/memory.py --bundle BUNDLE --input FILE... [--text COLUMN] [--save]

The first form writes made-up corpora of those sizes and runs each by `engine run` in a process of
its own, whose peak resident set the kernel reports when it ends (getrusage, ru_maxrss). It exits
with 1 if the largest corpus takes over 10% more memory than the smallest. The second form runs your
own bundle and inputs, reads the resident set four times a second, and reports its maximum in each
tenth of the run's time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import save

from engine.demo import BUNDLE, corpus

ALLOWED = 1.10
_PERIOD = 0.25


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """Write a corpus of `rows` rows, run it, and report peak MiB and seconds."""
    corpus.write(folder / f"corpus-{rows}", rows)
    inputs = [str(folder / f"corpus-{rows}"), "--keep", "id"]
    seconds, peak, _ = run([str(BUNDLE), *inputs], folder / f"out-{rows}")
    return {
        "rows": rows,
        "peak_mib": peak,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
    }


def over_time(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Call `engine run` with these arguments; the largest MiB in each tenth of its time."""
    seconds, peak, resident = run(arguments, folder / "out")
    tenths = [resident[len(resident) * n // 10 : len(resident) * (n + 1) // 10] for n in range(10)]
    peaks = [max(tenth, default=0.0) for tenth in tenths]
    # The first tenth loads the model.
    spread = (max(peaks[1:]) - min(peaks[1:])) / 2 / statistics.mean(peaks[1:])
    return {
        "seconds": round(seconds, 1),
        "peak_mib": peak,
        "mib_by_tenth": peaks,
        "spread": round(spread, 4),
    }


def run(arguments: Sequence[str], out: Path) -> tuple[float, float, list[float]]:
    """Seconds, peak MiB and a series of resident MiB of `engine run` in a process of its own."""
    command = [sys.executable, "-m", "engine", "run", *arguments, "-o", str(out)]
    start, resident = time.perf_counter(), []
    process = subprocess.Popen([*command, "--on-error", "reject"], stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        lines = status.read_text(encoding="ascii").splitlines()
        resident += [round(int(n.split()[1]) / 1024, 1) for n in lines if n.startswith("VmRSS")]
        time.sleep(_PERIOD)
    _, code, usage = os.wait4(process.pid, 0)
    if (code := os.waitstatus_to_exitcode(code)) not in (0, 3):
        raise SystemExit(f"engine run failed with exit code {code}")
    return time.perf_counter() - start, round(usage.ru_maxrss / 1024, 1), resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("-o", "--out", type=Path, default=None)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/memory.json")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--input", nargs="+", default=[])
    parser.add_argument("--text", default="text")
    parser.add_argument("--name", default="memory-over-time", help="of the second form's result")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp())
    if arguments.bundle:
        command = [str(arguments.bundle), *arguments.input, "--text", arguments.text]
        result = {"bundle": arguments.bundle.name, **over_time(command, folder)}
        print(result)
        if arguments.save:
            print(save(arguments.name, result))
        return
    sizes = []
    for rows in sorted(arguments.rows):
        sizes.append(measure(rows, folder))
        print(sizes[-1])
    growth = sizes[-1]["peak_mib"] / sizes[0]["peak_mib"]
    print(f"peak memory, largest over smallest: {growth:.3f} (allowed {ALLOWED})")
    if arguments.save:
        print(save("memory", {"sizes": sizes, "growth": round(growth, 4)}))
    sys.exit(growth > ALLOWED)


if __name__ == "__main__":
    main()
