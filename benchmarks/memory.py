"""Memory of a run: as the corpus grows, and over the time of one run.

    python benchmarks/memory.py [--rows 100000 1000000] [-o FOLDER] [--save]
    python benchmarks/memory.py --bundle BUNDLE --input FILE... [--text COLUMN] [--save]

Each corpus is run by `engine run` in a process of its own, whose peak resident set the kernel
reports when it ends (getrusage, ru_maxrss). Made-up ones are written first; exits 1 where the
largest takes more than 10% above the smallest. Of a bundle and inputs of your own the resident set
is read four times a second: what it is at most in each tenth of the run's time.
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
    seconds, peak, _ = ran([str(BUNDLE), *inputs], folder / f"out-{rows}")
    return {
        "rows": rows,
        "peak_mib": peak,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
    }


def over_time(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run what `engine run` is given, and report the most MiB in each tenth of its time."""
    seconds, peak, resident = ran(arguments, folder / "out")
    tenths = [resident[len(resident) * n // 10 : len(resident) * (n + 1) // 10] for n in range(10)]
    most = [max(tenth, default=0.0) for tenth in tenths]
    # The first tenth loads the model.
    spread = (max(most[1:]) - min(most[1:])) / 2 / statistics.mean(most[1:])
    return {
        "seconds": round(seconds, 1),
        "peak_mib": peak,
        "mib_by_tenth": most,
        "spread": round(spread, 4),
    }


def ran(arguments: Sequence[str], out: Path) -> tuple[float, float, list[float]]:
    """Seconds, peak MiB and resident MiB on the way of `engine run` in a process of its own."""
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
    parser.add_argument("--name", default="memory-over-time", help="of the result of a bundle")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp())
    if given.bundle:
        arguments = [str(given.bundle), *given.input, "--text", given.text]
        found = {"bundle": given.bundle.name, **over_time(arguments, folder)}
        print(found)
        if given.save:
            print(save(given.name, found))
        return
    sizes = []
    for rows in sorted(given.rows):
        sizes.append(measure(rows, folder))
        print(sizes[-1])
    growth = sizes[-1]["peak_mib"] / sizes[0]["peak_mib"]
    print(f"peak memory, largest over smallest: {growth:.3f} (allowed {ALLOWED})")
    if given.save:
        print(save("memory", {"sizes": sizes, "growth": round(growth, 4)}))
    sys.exit(growth > ALLOWED)


if __name__ == "__main__":
    main()
