"""Every workload, the engine against every peer, in one command.

    python benchmarks/run.py                                 the whole table
    python benchmarks/run.py encode-mixed translate          some of it
    python benchmarks/run.py encode-mixed --peers openvino,transformers_loop
    python benchmarks/run.py generate-llm --rounds 2 --contestants "engine int8,llamacpp q8_0"

Each peer runs in its own virtual environment, which is made from `envs/*.txt` when it is first
needed (that and the exports are not timed; they take some ten minutes and 8 GB once). Without
--models, --corpus and --sentences the checkpoints are random and the texts are made up. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ceiling
import plots
import report
import worker
from contest import ENGINE, Contestant, adapters, contest
from contest import PEERS as PEERS_FOLDER
from machine import describe
from prepare import Sources, missing, operations, prepare
from workloads import WORKLOADS, Workload

from engine.bench.sweep import sweep
from engine.errors import EngineError

HERE = Path(__file__).parent
PEERS = adapters(PEERS_FOLDER)
# Its answers count as right: an fp32 loop over transformers and nothing else.
REFERENCE = "transformers-loop fp32"


def environment(name: str, work: Path) -> str:
    """The Python of envs/NAME.txt, installed if it is not."""
    requirements = (HERE / "envs" / f"{name}.txt").read_text(encoding="utf-8")
    folder = work / "envs" / name
    stamp = folder / f"installed-{hashlib.sha256(requirements.encode()).hexdigest()[:12]}"
    python = folder / "bin/python"
    if not stamp.exists():
        print(f"installing {name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", f"envs/{name}.txt"]
        subprocess.run(install, check=True, cwd=HERE)
        stamp.touch()
    return str(python)


def contestants(job: dict[str, Any], peers: Iterable[str], work: Path) -> list[Contestant]:
    """The engine's variants, then those of every peer that does the task."""
    every = [
        Contestant(f"engine {recipe}", ENGINE, recipe, job={**job, "bundle": bundle})
        for recipe, bundle in job["bundles"].items()
    ]
    for peer in peers:
        adapter = worker.load_adapter(PEERS[peer])
        if job["task"] in adapter.TASKS:
            python = environment(adapter.ENV, work)
            name = peer.replace("_", "-")
            every += [
                Contestant(f"{name} {variant}", PEERS[peer], variant, python, job)
                for variant in adapter.VARIANTS
            ]
    return every


def measure(
    name: str, workload: Workload, sources: Sources, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One workload's part of the result."""
    if why := missing(workload, sources):
        return {"skipped": why}
    rows = max(2, round(workload.rows * arguments.scale))
    start = time.perf_counter()
    job = {**prepare(name, workload, rows, sources), "threads": arguments.threads}
    preparing = time.perf_counter() - start
    lengths, outputs = job["input_tokens"], job["output_tokens"]
    every = contestants(job, arguments.peers, sources.work)
    if arguments.contestants:
        every = [each for each in every if each.name in arguments.contestants]
    with tempfile.TemporaryDirectory() as folder:
        comparison = contest(
            every,
            Path(folder),
            rows=rows,
            tokens=sum(outputs or lengths),
            rounds=arguments.rounds,
            reference=REFERENCE,
            progress=lambda line: print(f"  {line}", flush=True),
        )
    result = {
        "told": workload.told,
        "task": workload.task,
        "rows": rows,
        "tokens": sum(lengths),
        "output_tokens": sum(outputs),
        "operations": operations(job),
        "texts": "from a corpus" if sources.corpus or workload.real else "made up",
        "lengths": {"input": spread(lengths), **({"output": spread(outputs)} if outputs else {})},
        "options": workload.options,
        **comparison,
    }
    if name in arguments.sweep:
        result |= sweep_fp32(job)
    # Preparations and conversions are made once and kept.
    once = preparing + result["converting"]
    result["once_seconds"] = round(once, 1)
    result["measured_seconds"] = round(time.perf_counter() - start - once, 1)
    return result


def spread(lengths: list[int]) -> dict[str, float]:
    ordered = sorted(lengths)
    return {
        "min": ordered[0],
        "median": statistics.median(ordered),
        "mean": round(statistics.mean(ordered), 1),
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


def sweep_fp32(job: dict[str, Any]) -> dict[str, Any]:
    """Batch sizes and workers, and the time of each stage, of the fp32 bundle."""
    result = sweep(
        job["bundles"]["fp32"],
        [job["file"]],
        budgets=(512, 1024, 2048),
        workers=(1, 2),
        rounds=2,
        max_length=job["max_length"],
        options=job["options"],
    ).to_dict()
    return {"sweep": result["sweep"], "stages": result["stages"]}


def main() -> None:
    arguments = parse_arguments()
    sources = Sources(arguments.work, arguments.models, arguments.corpus, arguments.sentences)
    print("the machine's own limits", flush=True)
    folder = sources.folder("all-MiniLM-L6-v2", "tokenizer.json")
    tokenizer = folder and folder / "tokenizer.json"
    limits = ceiling.measure(arguments.threads, tokenizer=tokenizer)
    result: dict[str, Any] = {"machine": describe(), "ceiling": limits}
    result["workloads"] = {}
    for name in arguments.workloads or WORKLOADS:
        start = time.perf_counter()
        print(f"{name}: {WORKLOADS[name].told}", flush=True)
        try:
            outcome = measure(name, WORKLOADS[name], sources, arguments)
        except EngineError as error:
            outcome = {"skipped": str(error)}
        result["workloads"][name] = outcome
        line = outcome.get("skipped") or f"measured in {outcome['measured_seconds']:.0f} s"
        print(f"  {line}, {time.perf_counter() - start:.0f} s in all", flush=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        file = arguments.out / f"{arguments.name}.json"
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / f"{arguments.name}.md").write_text(report.table(result), encoding="utf-8")
    plots.plots(result, arguments.out / arguments.name)
    print(f"{file}, {arguments.name}.md and plots in {arguments.name}/")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", default=",".join(PEERS), help="file names of peers/, a,b")
    parser.add_argument("--contestants", default="", help="only these, as reports name them, a,b")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="trained checkpoints")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="text files (.gz too)")
    parser.add_argument("--sentences", type=Path, nargs="*", default=[], help="for translate-real")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sweep", default="encode-mixed", help="workloads to sweep, a,b")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="kept between runs")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--name", help="of the result; cpu for the whole table")
    arguments = parser.parse_args()
    arguments.peers = [name for name in arguments.peers.split(",") if name]
    arguments.sweep = arguments.sweep.split(",")
    arguments.contestants = [name for name in arguments.contestants.split(",") if name]
    arguments.name = arguments.name or "-".join(arguments.workloads) or "cpu"
    for kind, names, known in (
        ("workload", arguments.workloads, WORKLOADS), ("peer", arguments.peers, PEERS)
    ):  # fmt: skip
        for name in names:
            if name not in known:
                parser.error(f"unknown {kind} {name!r}; known: {', '.join(known)}")
    return arguments


if __name__ == "__main__":
    main()
