"""This checkout of the engine against another one, such as the state before a change.

    python benchmarks/versions.py ../before encode-mixed translate translate-beam4

The other checkout needs a virtual environment in .venv (`scripts/test` makes one). Each exports its
own bundles from the same checkpoints, untimed, and answers the same rows; they run in turns, A B
A B. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from contest import Contestant, contest
from machine import describe
from prepare import RECIPES, Sources, prepare
from workloads import WORKLOADS

from engine.errors import SettingsError

HERE = Path(__file__).parent
# Where the engine's own adapter is, or was in older checkouts.
ADAPTERS = ("benchmarks/peers/engine.py", "engine/bench/ours.py")


def adapter_of(checkout: Path) -> Path:
    """A checkout's adapter of the engine.

    Raises:
        SettingsError: It has none.
    """
    for name in ADAPTERS:
        if (checkout / name).is_file():
            return checkout / name
    raise SettingsError(
        f"{checkout}: no adapter of the engine", f"name a checkout that has {ADAPTERS[0]}"
    )


def export(checkout: Path, checkpoint: str, task: str, recipe: str, folder: Path) -> Path:
    """The other checkout's bundle of a checkpoint, exported if it does not exist yet."""
    bundle = folder / f"{Path(checkpoint).name}-{task}-{recipe}"
    if not bundle.exists():
        command = [checkout / ".venv/bin/engine", "export", checkpoint, "-o", bundle]
        options = ["--task", task, "--recipe", recipe]
        # Without PYTHONPATH, which would let it import this checkout.
        subprocess.run([*map(str, command), *options], check=True, env={"PATH": "/usr/bin:/bin"})
    return bundle


def contestants(job: dict[str, Any], other: Path, folder: Path) -> list[Contestant]:
    """Both checkouts, once for each recipe."""
    both = []
    for recipe in RECIPES:
        ours = {**job, "bundle": job["bundles"][recipe]}
        bundle = export(other, job["checkpoint"], job["task"], recipe, folder)
        theirs = {**job, "bundle": str(bundle)}
        python = str(other / ".venv/bin/python")
        both += [
            Contestant(f"engine {recipe}", adapter_of(HERE.parent), recipe, job=ours),
            Contestant(f"other {recipe}", adapter_of(other), recipe, python, theirs),
        ]
    return both


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One workload's contest."""
    workload = WORKLOADS[name]
    rows = max(2, round(workload.rows * arguments.scale))
    job = {**prepare(name, workload, rows, Sources(arguments.work)), "threads": arguments.threads}
    bundles = arguments.work / "other" / arguments.label
    bundles.mkdir(parents=True, exist_ok=True)
    both = contestants(job, arguments.other, bundles)
    tokens = sum(job["output_tokens"] or job["input_tokens"])
    with tempfile.TemporaryDirectory() as scratch:
        result = contest(
            both, Path(scratch), rows=rows, tokens=tokens, rounds=arguments.rounds,
            progress=lambda line: print(f"  {line}", flush=True),
        )  # fmt: skip
    return {"rows": rows, "tokens": tokens, **result}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__ or "", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout with a .venv of its own")
    parser.add_argument("workloads", nargs="+", choices=WORKLOADS, metavar="WORKLOAD")
    parser.add_argument("--label", required=True, help="name of the other, such as a commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="write the result there, JSON")
    arguments = parser.parse_args()
    arguments.other = arguments.other.resolve()
    result: dict[str, Any] = {"machine": describe(), "other": arguments.label, "workloads": {}}
    for name in arguments.workloads:
        print(name, flush=True)
        result["workloads"][name] = measure(name, arguments)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for recipe in RECIPES:
            ratio = result["workloads"][name]["ratios"][f"engine {recipe}"][f"other {recipe}"]
            print(f"  {recipe}: {ratio['median']} × {arguments.label}", flush=True)


if __name__ == "__main__":
    main()
