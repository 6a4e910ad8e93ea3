"""Coverage-guided fuzzing of an oracle by atheris, which has to be installed: not one of ours.

An oracle is a function `check(content)` that raises where the engine is wrong. What it raises is
kept once for each place it comes from, with the content, and the fuzzing goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

SEEDS = Path(__file__).with_name("seeds")
TARGETS = ("fuzz_jsonl", "fuzz_bundle", "fuzz_splits")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


def run(name: str) -> None:
    """The command line of a target: fuzz it for some seconds and add the figures to a file."""
    parser = argparse.ArgumentParser(description=f"Fuzz {name} with atheris.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--save", type=Path, help="JSON with the figures of each target")
    parser.add_argument("--seeds", type=Path, default=SEEDS / name)
    arguments = parser.parse_args()
    result = fuzz(name, arguments.seconds, arguments.seeds)
    print(json.dumps(result, indent=2))
    if arguments.save:
        _save(arguments.save, name, result)


def _save(file: Path, name: str, result: dict[str, Any]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    machine = importlib.import_module("machine")
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures |= {"machine": machine.describe(), name: result}
    file.write_text(json.dumps(figures, indent=2) + "\n")


def fuzz(name: str, seconds: int, seeds: Path) -> dict[str, Any]:
    """Figures of so many seconds in a process of their own; what was wrong becomes a seed."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        words = Path(scratch, "words")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in _target(name).WORDS))
        command = [sys.executable, "-m", "faults.fuzzing", name, str(seeds)]
        command += [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=2048"]
        command += [f"-dict={words}", "-timeout=10", f"-artifact_prefix={scratch}/", str(corpus)]
        started = time.monotonic()
        process = subprocess.run([*command, str(seeds)], capture_output=True, check=False)
        report = process.stderr.decode(errors="replace")
        done, coverage = _DONE.findall(report), _COVERAGE.findall(report)
        return {
            "seconds": round(time.monotonic() - started),
            "executions": int(done[-1][0]) if done else None,
            "edges": int(coverage[-1][0]) if coverage else None,
            "inputs_kept": int(coverage[-1][2]) if coverage else None,
            "exit_code": process.returncode,
            "wrong": sorted(path.name for path in seeds.glob("wrong-*")),
            "last_words": "" if not process.returncode else report[-2000:],
        }


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _target(name: str) -> ModuleType:
    return importlib.import_module(f"faults.{name}")


def remember(check: Callable[[bytes], None], seeds: Path) -> Callable[[bytes], None]:
    """The oracle, with what it raises written to `seeds` once for each place."""

    def call(content: bytes) -> None:
        try:
            check(content)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{type(error).__name__}{[(f.name, f.lineno) for f in frames[-3:]]}"
            file = seeds / f"wrong-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
            if not file.exists():
                file.write_bytes(content)

    return call


def main() -> None:
    """Fuzz in this process, as `fuzz` starts it: NAME SEEDS, then libFuzzer's own words."""
    import atheris

    name, seeds = sys.argv[1:3]
    with atheris.instrument_imports(include=["engine.data", "engine.bundle"]):
        check = _target(name).check
    atheris.Setup([sys.argv[0], *sys.argv[3:]], remember(check, Path(seeds)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
