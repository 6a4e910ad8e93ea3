"""Planning a corpus of a million files that are only listed: the engine's own seconds and memory.

    python benchmarks/planning_listing.py [--files 1000000] [--share 1/64] [--save]

The files are not there: what walks a folder lists them, and what looks at one, or at a Parquet
footer, has the answer at once. All else is a run of the embedded bundle with `--keep all` and
progress on: finding, naming, settling columns, cutting splits, names of parts, weights for the
progress, taking the output folder. It ends when the first split is about to be handed out. So what
is measured is what the engine adds to a file system or a store, whose time for a million files
`planning.py` shows on real ones. The peak is what the kernel reports (ru_maxrss). It exits with 1
above 60 seconds or 1 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from machine import save

from engine.demo import BUNDLE

SECONDS, MEGABYTES = 60.0, 1000.0
FOLDER_FILES, FILE_BYTES, FILE_ROWS = 1000, 4096, 10
_DONE = 17
_SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string()})


def pretend(corpus: str, files: int) -> None:
    """Have this process find so many Parquet files in a folder that is empty."""
    real_scandir, real_stat, real_lstat = os.scandir, os.stat, os.lstat
    fields = list(real_stat(corpus))
    folder = os.stat_result(fields)
    fields[0], fields[6] = stat.S_IFREG | 0o644, FILE_BYTES
    file = os.stat_result(fields)
    below = f"{corpus}/"

    def scandir(path: Any = ".") -> Any:
        text = str(path)
        if text == corpus:
            return _Listing(_Entry(f"{n:04d}", True) for n in range(-(-files // FOLDER_FILES)))
        if not text.startswith(below):
            return real_scandir(path)
        first = int(text.removeprefix(below)) * FOLDER_FILES
        numbers = range(first, min(files, first + FOLDER_FILES))
        return _Listing(_Entry(f"{n:07d}.parquet", False) for n in numbers)

    def looked(real: Any) -> Any:
        def look(path: Any, *arguments: Any, **more: Any) -> Any:
            if isinstance(path, (str, os.PathLike)) and (text := str(path)).startswith(below):
                if text.endswith(".parquet"):
                    return file
                if len(text) == len(below) + 4:
                    return folder
            return real(path, *arguments, **more)

        return look

    os.scandir = scandir
    os.stat, os.lstat = looked(real_stat), looked(real_lstat)
    _pretend_footers()


class _Entry:
    """A file or a folder in a listing."""

    def __init__(self, name: str, folder: bool) -> None:
        self.name, self._folder = name, folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self._folder


class _Listing(contextlib.AbstractContextManager[Any]):
    """What `os.scandir` gives."""

    def __init__(self, entries: Iterable[_Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[_Entry]:
        return iter(self._entries)

    def __exit__(self, *error: object) -> None:
        pass


def _pretend_footers() -> None:
    from engine.data import columnar, kinds, splits

    def schema(path: Any, names: Any, types: bool) -> pa.Schema:
        return _SCHEMA

    kinds.KINDS["parquet"] = replace(kinds.KINDS["parquet"], schema=schema)
    for module in (columnar, splits):
        module.row_count = lambda path, groups=None: FILE_ROWS  # type: ignore[attr-defined]


def to_first_split(files: int, corpus: str, arguments: list[str]) -> None:
    """`engine` with these arguments, until a split is about to be handed out."""
    from engine.cli import main as engine
    from engine.runner.coordinator import Coordinator

    def leave(*_: Any, **__: Any) -> None:
        os._exit(_DONE)

    Coordinator._assignments = leave  # type: ignore[method-assign,assignment]  # it ends there
    pretend(corpus, files)
    sys.argv = ["engine", *arguments]
    engine()


def measure(files: int, folder: Path, share: str) -> dict[str, Any]:
    """Seconds and peak MB of one process, its start included."""
    corpus = folder / "corpus"
    corpus.mkdir()
    arguments = ["run", str(BUNDLE), str(corpus), "-o", str(folder / "out"), "--keep", "all"]
    arguments += ["--device", "cpu", *(["--share", share] if share else [])]
    start = time.perf_counter()
    command = [sys.executable, __file__, "--to-first-split", str(files), str(corpus), *arguments]
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    if code != _DONE:
        raise SystemExit(f"engine run ended with exit code {code}")
    cpu = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss * 1024 / 1e6
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(peak, 1)}


def main() -> None:
    if sys.argv[1:2] == ["--to-first-split"]:
        to_first_split(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--share", default="", help="as of engine run")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/planning-listing.json"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.files, Path(folder).resolve(), options.share)
    result = {"files": options.files, "share": options.share, **figures}
    print(json.dumps(result))
    if options.save:
        save("planning-listing", result)
    sys.exit(result["seconds"] > SECONDS or result["peak_mb"] > MEGABYTES)


if __name__ == "__main__":
    main()
