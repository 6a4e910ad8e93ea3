"""What a result of `run.py` says; `report` writes it as tables and `plots` draws it.

A result has `machine`, `ceiling` and `workloads`; a workload has its `contestants` and `ratios`, or
the reason it was `skipped`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

# A part of a result: an object of its JSON.
Part = Mapping[str, Any]
MARK = "†"


def measured(result: Part) -> dict[str, Part]:
    """The workloads that were not skipped."""
    return {n: w for n, w in result.get("workloads", {}).items() if "skipped" not in w}


def without_figures(entries: Mapping[str, Part]) -> Iterator[tuple[str, str, str]]:
    """(name, "skipped" or "failed", reason) of every entry without figures."""
    for name, entry in entries.items():
        for outcome in ("skipped", "failed"):
            if outcome in entry:
                yield name, outcome, entry[outcome]


def contestants(workload: Part) -> dict[str, Part]:
    """Contestants with figures, in the order of the result."""
    return {n: c for n, c in workload.get("contestants", {}).items() if c.get("seconds")}


def engines(workload: Part) -> list[str]:
    return [name for name in contestants(workload) if name.startswith("engine")]


def peers(workload: Part) -> list[str]:
    return [name for name in contestants(workload) if not name.startswith("engine")]


def median(contestant: Part) -> float:
    return float(statistics.median(contestant["seconds"]))


def ratio(workload: Part, engine: str, peer: str) -> Part | None:
    """How many times faster an engine variant is than a peer, if that was measured."""
    pair: Part | None = workload.get("ratios", {}).get(engine, {}).get(peer)
    return pair


def best(workload: Part, peer: str) -> tuple[str, Part] | None:
    """The engine's variant that does best against a peer, and its ratio."""
    pairs = [(engine, ratio(workload, engine, peer)) for engine in engines(workload)]
    known = [(engine, each) for engine, each in pairs if each]
    return max(known, key=lambda pair: float(pair[1]["median"]), default=None)


def share_of_ceiling(workload: Part, engine: str, ceiling: Part) -> tuple[float, float] | None:
    """Useful operations a second in billions, and their share of the machine's own products."""
    integer = "int8" in engine
    limit = ceiling.get("int8_gops" if integer else "fp32_gflops", 0)
    seconds = median(contestants(workload)[engine])
    if not (workload.get("operations") and limit and seconds and (integer or "32" in engine)):
        return None
    rate = workload["operations"] / seconds / 1e9
    return rate, rate / limit


def marked(name: str, contestant: Part) -> str:
    """The name, with a mark if some answers differ from the reference's."""
    return f"{name} {MARK}" if contestant.get("differs") else name


def variant(name: str) -> str:
    return name.removeprefix("engine").strip() or name


def two_digits(ratio: float) -> str:
    """A ratio for readers; never 1.00 for a loss."""
    return f"{ratio:.3f}" if 0.995 <= ratio < 1 else f"{ratio:.2f}"
