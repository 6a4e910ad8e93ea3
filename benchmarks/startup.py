"""From the command to the first part: `engine run` on 100 rows beside scripts that somebody would
write with another library.

    python benchmarks/startup.py [--rounds 5] [--rows 100] [--models CHECKPOINTS]
                                 [--corpus TEXTS] [--sentences EN.gz] [--work FOLDER] [--save]

Each contestant is a process of its own, started in turns: a command that reads 100 JSON lines,
answers them and ends. Measured are the seconds until its answers are there under their final name
(`first_part`) and until it has ended, and its CPU seconds. `libraries alone` imports what the
engine needs and ends. The scripts are in `user_scripts/`; models are converted before. The files
are in the system's cache: a first, unmeasured start has read them.
Prints JSON; with --save writes results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from answers import compare
from contest import ROOT
from machine import describe, save
from peers import engine as engine_adapter
from prepare import Sources, missing, prepare
from run import environment
from workloads import WORKLOADS

from engine.errors import EngineError

HERE = Path(__file__).parent
SCRIPTS = HERE / "user_scripts"
LIMIT_SECONDS = 120.0
_POLL_SECONDS = 0.003
_RECIPES = ("fp32", "int8")
# Script, environment, and the variants of each task; versions are those of the packages named.
_TRANSLATE = (
    ("ctranslate2_transformers", "ctranslate2", ("float32", "int8")),
    ("ctranslate2_tokenizers", "ctranslate2", ("float32", "int8")),
)
_EMBED = (
    ("fastembed_embed", "fastembed", ("fp32",)),
    ("onnxruntime_embed", "fastembed", ("fp32",)),
    ("optimum_embed", "optimum", ("fp32",)),
)
_PACKAGES = ("ctranslate2", "transformers", "fastembed", "optimum", "onnxruntime", "tokenizers")
_FLOOR = "import numpy, onnxruntime, pyarrow, tokenizers"


@dataclass(frozen=True)
class Starter:
    """A contestant: `command` makes the words of its command for a folder that is empty, `answers`
    reads what it leaves there."""

    name: str
    command: Callable[[Path], Sequence[str]]
    answers: Callable[[Path], list[Any]] | None
    python: str = sys.executable


@dataclass(frozen=True)
class Start:
    """What was measured of one process, in seconds."""

    first_part: float
    ended: float
    cpu: float


def measure(starter: Starter, folder: Path) -> Start:
    """Start it, and wait for its answers and its end.

    Raises:
        EngineError: It failed, left no answers, or took longer than `LIMIT_SECONDS`.
    """
    command = starter.command(folder)
    log = folder / "log"
    with log.open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=_environment(starter)
        )
    first = 0.0
    while True:
        if not first and _is_there(folder):
            first = time.perf_counter() - started
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        passed = time.perf_counter() - started
        if ended:
            break
        if passed > LIMIT_SECONDS:
            process.kill()
        time.sleep(_POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    there = _is_there(folder) or starter.answers is None
    if process.returncode or not there:
        said = log.read_text(encoding="utf-8", errors="replace")[-300:]
        raise EngineError(f"{starter.name}: exit code {process.returncode}: {said}", str(log))
    return Start(first or passed, passed, used.ru_utime + used.ru_stime)


def _is_there(folder: Path) -> bool:
    return any(entry.name.startswith("part-") for entry in os.scandir(folder / "out"))


def _environment(starter: Starter) -> Mapping[str, str]:
    hidden = ("PYTHONPATH", "OMP_NUM_THREADS")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    path = {"PYTHONPATH": str(ROOT)} if starter.python == sys.executable else {}
    return {**variables, **path, "HF_HUB_OFFLINE": "1"}


def starters(kind: str, job: Mapping[str, Any], rows: Path, work: Path) -> list[Starter]:
    """The engine's recipes, the scripts of that kind, and the libraries alone."""
    every = [_engine(recipe, job, rows) for recipe in _RECIPES]
    for script, env, variants in _TRANSLATE if kind == "translate" else _EMBED:
        python = environment(env, work)
        every += [_script(script, variant, job, rows, python) for variant in variants]
    floor = Starter("libraries alone", lambda folder: (sys.executable, "-c", _FLOOR), None)
    return [*every, floor]


def _engine(recipe: str, job: Mapping[str, Any], rows: Path) -> Starter:
    options = [
        word
        for name, value in {**job["options"], "max_length": job["max_length"]}.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    words = (sys.executable, "-m", "engine", "run", job["bundles"][recipe], str(rows))

    def answers(folder: Path) -> list[Any]:
        with pa.OSFile(str(next((folder / "out").glob("part-*")))) as file:
            table = pa.ipc.open_file(file).read_all()
        return engine_adapter.ANSWERS[job["task"]](table)

    return Starter(
        f"engine {recipe}",
        lambda folder: (*words, "-o", str(folder / "out"), "--device", "cpu", *options),
        answers,
    )


def _script(script: str, variant: str, job: Mapping[str, Any], rows: Path, python: str) -> Starter:
    model = job["onnx"] or _converted(job, variant, python)
    words = (python, str(SCRIPTS / f"{script}.py"), model, job["checkpoint"], str(rows))

    def answers(folder: Path) -> list[Any]:
        lines = (folder / "out/part-0").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["answer"] for line in lines]

    name = f"{script.replace('_', ' ')} {variant}"
    return Starter(
        name, lambda folder: (*words, str(folder / "out/part-0"), variant), answers, python
    )


def _converted(job: Mapping[str, Any], variant: str, python: str) -> str:
    """CTranslate2's folder of the checkpoint, made once by its own command."""
    folder = Path(job["cache"]) / f"startup-ctranslate2-{variant}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = (
            str(Path(python).with_name("ct2-transformers-converter")), "--model", job["checkpoint"],
            "--output_dir", str(folder), "--quantization", variant,
        )  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def contest(every: Sequence[Starter], rounds: int) -> dict[str, Any]:
    """All in turns, the first start of each not counted; the engine's ratios of `first_part`."""
    starts: dict[str, list[Start]] = {starter.name: [] for starter in every}
    answers: dict[str, list[Any]] = {}
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        first = number % len(every)
        for starter in (*every[first:], *every[:first]):
            if starter.name in failed:
                continue
            with tempfile.TemporaryDirectory(prefix="engine-startup-") as name:
                folder = Path(name)
                (folder / "out").mkdir()
                try:
                    start = measure(starter, folder)
                except EngineError as error:
                    failed[starter.name] = str(error)
                    continue
                if number:
                    starts[starter.name].append(start)
                elif starter.answers:
                    answers[starter.name] = starter.answers(folder)
        print(f"  round {number} of {rounds}: {_latest(starts)}", file=sys.stderr, flush=True)
    measured = {name: of for name, of in starts.items() if of and name not in failed}
    return {
        "contestants": {name: _figures(of) for name, of in measured.items()},
        "failed": failed,
        "differs": {name: compare(answers["engine fp32"], one) for name, one in answers.items()},
        "first_part_beside": _ratios(measured, lambda start: start.first_part),
        "cpu_beside": _ratios(measured, lambda start: start.cpu),
    }


def _latest(starts: Mapping[str, Sequence[Start]]) -> str:
    return ", ".join(f"{name} {of[-1].first_part:.2f} s" for name, of in starts.items() if of)


def _figures(starts: Sequence[Start]) -> dict[str, Any]:
    return {
        "first_part_seconds": [round(start.first_part, 3) for start in starts],
        "first_part": round(statistics.median(start.first_part for start in starts), 3),
        "ended": round(statistics.median(start.ended for start in starts), 3),
        "cpu_seconds": round(statistics.median(start.cpu for start in starts), 3),
    }


def _ratios(
    measured: Mapping[str, Sequence[Start]], figure: Callable[[Start], float]
) -> dict[str, dict[str, float]]:
    """How many times as long as the engine each other takes, the median over the rounds."""
    own = [name for name in measured if name.startswith("engine")]
    return {
        name: {
            other: round(
                statistics.median(
                    figure(b) / figure(a) for a, b in zip(measured[name], theirs, strict=True)
                ),
                3,
            )
            for other, theirs in measured.items()
            if other not in own
        }
        for name in own
    }


def versions(python: str) -> dict[str, str]:
    """Versions of the packages of an environment."""
    code = (
        "import importlib.metadata as m, json, sys; d = {x.metadata['Name'].lower(): x.version "
        "for x in m.distributions()}; print(json.dumps({n: d[n] for n in sys.argv[1:] if n in d}))"
    )
    done = subprocess.run([python, "-c", code, *_PACKAGES], capture_output=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def run(kind: str, arguments: argparse.Namespace, sources: Sources) -> dict[str, Any]:
    """The part of the result for `translate` or `embed`."""
    real = WORKLOADS["translate-real"]
    translation = WORKLOADS["translate"] if missing(real, sources) else real
    workload = translation if kind == "translate" else WORKLOADS["encode-mixed"]
    job = prepare(f"startup-{kind}", workload, arguments.rows, sources)
    with pa.OSFile(job["file"]) as file:
        texts = pa.ipc.open_file(file).read_all()["text"].to_pylist()
    rows = Path(job["file"]).with_name("rows.jsonl")
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    every = starters(kind, job, rows, sources.work)
    pythons = sorted({starter.python for starter in every})
    return {
        "told": workload.told,
        "rows": len(texts),
        "tokens": sum(job["input_tokens"]),
        "options": workload.options,
        "versions": {Path(python).parents[1].name: versions(python) for python in pythons},
        **contest(every, arguments.rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=["translate", "embed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="trained checkpoints")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="text files (.gz too)")
    parser.add_argument("--sentences", type=Path, nargs="*", default=[], help="one in each line")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="kept between runs")
    parser.add_argument("--save", action="store_true", help="write results/startup.json")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    sources = Sources(work, arguments.models, arguments.corpus, arguments.sentences)
    result: dict[str, Any] = {"rounds": arguments.rounds}
    for kind in arguments.kinds:
        print(kind, file=sys.stderr, flush=True)
        result[kind] = run(kind, arguments, sources)
    print(json.dumps({"machine": describe(), **result}, indent=2))
    if arguments.save:
        save("startup", result)


if __name__ == "__main__":
    main()
