"""This checkout of the engine beside another one, such as the state before a change.

    python benchmarks/versions.py ../before encode-mixed translate translate-beam4

The other checkout has its own virtual environment in .venv (`scripts/test` makes one). Each exports
its own bundles from the same checkpoints, outside of the clock, and answers the same rows; they run
in turns, A B A B. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from contest import Entrant, contest
from machine import describe
from prepare import RECIPES, Sources, prepared
from workloads import WORKLOADS

from engine.errors import SettingsError

HERE = Path(__file__).parent
# Where the engine's own adapter is, or was.
ADAPTERS = ("benchmarks/peers/engine.py", "engine/bench/ours.py")


def adapter_of(checkout: Path) -> Path:
    """The adapter by which a checkout takes part.

    Raises:
        SettingsError: It has none.
    """
    for name in ADAPTERS:
        if (checkout / name).is_file():
            return checkout / name
    raise SettingsError(
        f"{checkout}: no adapter of the engine", f"give a checkout that has {ADAPTERS[0]}"
    )


def exported(checkout: Path, checkpoint: str, task: str, recipe: str, folder: Path) -> Path:
    """The other checkout's bundle of a checkpoint, made if it is not there yet."""
    bundle = folder / f"{Path(checkpoint).name}-{task}-{recipe}"
    if not bundle.exists():
        command = [checkout / ".venv/bin/engine", "export", checkpoint, "-o", bundle]
        options = ["--task", task, "--recipe", recipe]
        # An environment's packages are its own: not those of this process.
        subprocess.run([*map(str, command), *options], check=True, env={"PATH": "/usr/bin:/bin"})
    return bundle


def entrants(job: dict[str, Any], other: Path, folder: Path) -> list[Entrant]:
    """Both checkouts, once for each recipe."""
    both = []
    for recipe in RECIPES:
        mine = {**job, "bundle": job["bundles"][recipe]}
        bundle = exported(other, job["checkpoint"], job["task"], recipe, folder)
        theirs = {**job, "bundle": str(bundle)}
        python = str(other / ".venv/bin/python")
        both += [
            Entrant(f"engine {recipe}", adapter_of(HERE.parent), recipe, job=mine),
            Entrant(f"other {recipe}", adapter_of(other), recipe, python, theirs),
        ]
    return both


def measured(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One workload: the contest's result."""
    workload = WORKLOADS[name]
    rows = max(2, round(workload.rows * given.scale))
    job = {**prepared(name, workload, rows, Sources(given.work)), "threads": given.threads}
    bundles = given.work / "other" / given.label
    bundles.mkdir(parents=True, exist_ok=True)
    both = entrants(job, given.other, bundles)
    tokens = sum(job["output_tokens"] or job["input_tokens"])
    with tempfile.TemporaryDirectory() as scratch:
        result = contest(
            both, Path(scratch), rows=rows, tokens=tokens, rounds=given.rounds,
            told=lambda line: print(f"  {line}", flush=True),
        )  # fmt: skip
    return {"rows": rows, "tokens": tokens, **result}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__ or "", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout with a .venv of its own")
    parser.add_argument("workloads", nargs="+", choices=WORKLOADS, metavar="WORKLOAD")
    parser.add_argument("--label", required=True, help="what the other is called, such as a commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="write the result there, JSON")
    given = parser.parse_args()
    given.other = given.other.resolve()
    result: dict[str, Any] = {"machine": describe(), "other": given.label, "workloads": {}}
    for name in given.workloads:
        print(name, flush=True)
        result["workloads"][name] = measured(name, given)
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for recipe in RECIPES:
            ratio = result["workloads"][name]["ratios"][f"engine {recipe}"][f"other {recipe}"]
            print(f"  {recipe}: {ratio['median']} × {given.label}", flush=True)


if __name__ == "__main__":
    main()
