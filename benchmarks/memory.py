"""Peak memory of a run as the corpus grows: it must not.

    python benchmarks/memory.py [--rows 100000 1000000] [-o FOLDER] [--save]

Each size is written first and then run by `engine run` in a process of its own, whose peak resident
set the kernel reports when it ends (getrusage, ru_maxrss). Exits 1 where the largest corpus takes
more than 10% above the smallest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import save

from engine.demo import BUNDLE, corpus

ALLOWED = 1.10


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """Write a corpus of `rows` rows, run it, and report peak MiB and seconds."""
    corpus.write(folder / f"corpus-{rows}", rows)
    command = [sys.executable, "-m", "engine", "run", str(BUNDLE), str(folder / f"corpus-{rows}")]
    command += ["-o", str(folder / f"out-{rows}"), "--keep", "id", "--on-error", "reject", "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if (code := os.waitstatus_to_exitcode(status)) not in (0, 3):
        raise SystemExit(f"engine run failed with exit code {code}")
    seconds = time.perf_counter() - start
    return {
        "rows": rows,
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("-o", "--out", type=Path, default=None)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/memory.json")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp())
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
