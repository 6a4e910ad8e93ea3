"""The process of one contestant: `python worker.py ADAPTER.py VARIANT JOB.json`.

It runs in the environment of the contestant's library, so it imports nothing but the adapter and
what the adapter imports. Commands are lines of JSON on standard input, replies lines of JSON on
standard output; what libraries print goes to standard error.

    {"do": "load", "setting": N}    -> {"seconds": s}   the adapter's Nth setting of the variant
    {"do": "run", "rows": N}        -> {"seconds": s}   the first N rows, 0 for all
    {"do": "answers", "file": path} -> {}               the latest answers as an Arrow file
    {"do": "peak", "reset": bool}   -> {"bytes": n}     the peak of resident memory
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

STARTED = time.perf_counter()


class Worker:
    """An adapter, its job, and the setting that is loaded."""

    def __init__(self, adapter: Path, variant: str, job: Path) -> None:
        self.adapter = load_adapter(adapter)
        self.job = json.loads(job.read_text(encoding="utf-8"))
        self.settings: list[dict[str, Any]] = self.adapter.VARIANTS[variant]
        if hasattr(self.adapter, "settings"):
            self.settings = self.adapter.settings(self.job, variant)
        self.rows: dict[str, list[Any]] = {}
        self.call: Callable[[dict[str, list[Any]]], list[Any]] | None = None
        self.answers: list[Any] = []
        self.started = STARTED

    def load(self, setting: int) -> dict[str, Any]:
        """Seconds since the process started; for a later load, since the call before it ended."""
        import pyarrow as pa

        if not self.rows:
            with pa.OSFile(self.job["file"]) as file:
                table = pa.ipc.open_file(file).read_all()
            self.rows = {name: table[name].to_pylist() for name in self.job["columns"]}
        self.call = None
        gc.collect()
        self.call = self.adapter.load(self.job, self.settings[setting])
        seconds = time.perf_counter() - self.started
        self.started = time.perf_counter()
        return {"seconds": seconds}

    def run(self, rows: int) -> dict[str, Any]:
        assert self.call, "load comes first"
        first = {name: values[: rows or None] for name, values in self.rows.items()}
        start = time.perf_counter()
        self.answers = self.call(first)
        seconds = time.perf_counter() - start
        self.started = time.perf_counter()
        return {"seconds": seconds}

    def write(self, file: str) -> dict[str, Any]:
        import pyarrow as pa

        table = pa.table({"answer": pa.array(self.answers)})
        with pa.OSFile(file, "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
        return {}

    def reply(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "load":
            return self.load(command["setting"])
        if command["do"] == "run":
            return self.run(command["rows"])
        if command["do"] == "answers":
            return self.write(command["file"])
        return {"bytes": peak(reset=command["reset"])}


def load_adapter(file: Path) -> ModuleType:
    """The adapter's module. Its folder comes last on the path: an adapter is named as its package,
    which has to be found first."""
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"peer_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def peak(*, reset: bool) -> int:
    """Peak resident bytes since the process began or since the last reset (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(line.split()[1]) * 1024


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def hello(worker: Worker) -> dict[str, Any]:
    module = worker.adapter
    skip = module.skip(worker.job) if hasattr(module, "skip") else ""
    return {
        "chosen": worker.settings,
        "versions": versions(module.PACKAGES),
        "skip": skip,
    }


def main() -> None:
    adapter, variant, job = sys.argv[1:4]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Python puts this file's folder first, where `answers.py` could hide a module of a library.
    sys.path.pop(0)

    def say(reply: dict[str, Any]) -> None:
        out.write(json.dumps(reply) + "\n")
        out.flush()

    try:
        worker = Worker(Path(adapter), variant, Path(job))
        say(hello(worker))
        for line in sys.stdin:
            say(worker.reply(json.loads(line)))
    except Exception as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {str(error)[:300]}"})


if __name__ == "__main__":
    main()
