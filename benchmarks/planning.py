"""Planning a corpus of many small files: seconds and peak memory before the first batch.

    python benchmarks/planning.py [--files 100000] [--rows 10] [--dry-run] [-o FOLDER] [--save]

Writes that many Parquet files of a few rows into a folder below FOLDER, once, and runs `engine run`
on it with the embedded bundle and `--keep all` in a process of its own, which ends when the first
batch is about to be computed: by then the files have been found, every footer has been read,
columns are settled and splits are cut. With `--dry-run` it is the command of that name. The peak is
what the kernel reports (getrusage, ru_maxrss). It exits with 1 above 60 seconds or 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import save

from engine.demo import BUNDLE
from engine.demo.numerals import spanish

SECONDS, MEGABYTES = 60.0, 1000.0
FOLDER_FILES = 1000
_DONE = 17
"""Exit code of a process that has come to its first batch."""


def write(corpus: Path, files: int, rows: int) -> None:
    """The files, a thousand in each folder; those of an earlier call are taken."""
    done = corpus.with_suffix(".done")
    if done.exists():
        return
    texts = [spanish(n) for n in range(1000)]
    for number in range(files):
        folder = corpus / f"{number // FOLDER_FILES:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        ids = range(number * rows, (number + 1) * rows)
        table = pa.table({"id": pa.array(ids, pa.int64()), "text": [texts[n % 1000] for n in ids]})
        pq.write_table(table, folder / f"{number:06d}.parquet")
    done.touch()


def to_first_batch(arguments: list[str]) -> None:
    """`engine` with these arguments, until a batch is about to be computed."""
    from engine.answering.stages import Stages
    from engine.cli import main as engine

    def leave(*_: Any, **__: Any) -> None:
        os._exit(_DONE)

    Stages.infer = leave  # type: ignore[method-assign,assignment]  # it takes anything
    sys.argv = ["engine", *arguments]
    engine()


def measure(corpus: Path, out: Path, *, dry_run: bool) -> dict[str, Any]:
    """Seconds and peak MB of one process, its start included."""
    arguments = ["run", str(BUNDLE), str(corpus), "-o", str(out), "--keep", "all"]
    arguments += ["--device", "cpu", *(["--dry-run"] if dry_run else [])]
    start = time.perf_counter()
    command = [sys.executable, __file__, "--to-first-batch", *arguments]
    silence = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(sys.executable, command, os.environ, file_actions=silence)
    _, status, usage = os.wait4(process, 0)
    seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    if code != (0 if dry_run else _DONE):
        raise SystemExit(f"engine run ended with exit code {code}")
    return {"seconds": round(seconds, 1), "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1)}


def main() -> None:
    if sys.argv[1:2] == ["--to-first-batch"]:
        to_first_batch(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10, help="of each file")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-o", "--out", type=Path, help="folder for the corpus, to use it again")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/planning.json"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        corpus = (options.out or Path(folder)) / f"corpus-{options.files}-{options.rows}"
        write(corpus, options.files, options.rows)
        figures = measure(corpus, Path(folder) / "out", dry_run=options.dry_run)
    result = {"files": options.files, "rows": options.files * options.rows, **figures}
    print(json.dumps(result))
    if options.save:
        save("planning", result)
    sys.exit(result["seconds"] > SECONDS or result["peak_mb"] > MEGABYTES)


if __name__ == "__main__":
    main()
