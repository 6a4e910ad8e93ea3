"""Where the time of inference goes: graph by graph, and op by op.

Two runs over the same rows with one setting. The first is timed; in the second the runtime's own
profiler is on, which slows it down, so only shares are taken from it.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bench.sweep import MeasuredRows, Setting, sample, stopping
from engine.bundle import format as bundle_format
from engine.core.graphs import Role
from engine.core.telemetry import Telemetry
from engine.pipeline import Bundle
from engine.runner import coordinator
from engine.runner.report import Report
from engine.runtime.backend import OrtBackend
from engine.runtime.device import resolve
from engine.runtime.protocol import Backend, Graph, Value

ROWS = 256
_WARM_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Profile:
    """
    Attributes:
        setting: What both runs were made with.
        rows: Answered in each.
        first_token_seconds: From the start of loading to one token of one row; None for a task
            that generates none.
        occupancy: As `Report.occupancy`.
        inference_seconds: At work in inference, all workers together.
        graphs: A graph each: `graph`, `runs`, `seconds` and `share` of the inference's seconds.
        outside: The share that is left: the engine's own.
        ops: A kind of op in a graph each, the longest first: `graph`, `op`, `calls`, and `share` of
            the time of all ops.
    """

    setting: Setting
    rows: int
    first_token_seconds: float | None
    occupancy: float | None
    inference_seconds: float
    graphs: list[dict[str, Any]]
    outside: float
    ops: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def profile(
    bundle: Path | str,
    inputs: Sequence[str | Path],
    setting: Setting,
    *,
    limit: int = ROWS,
    text: Sequence[str] = (),
    max_length: int = 0,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> Profile:
    """Profile a bundle over the first rows of a corpus.

    Args:
        setting: Sizes and numbers to run with, such as the best of a sweep.
        limit: Rows at most; 0 for all of them.
        bundle, inputs, text, max_length, device, options: As `engine.run` takes them.

    Raises:
        SettingsError: A setting is out of range or names a missing column.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle.
        Stopped: Interrupted (SIGINT).
    """
    folder = bundle_format.load(bundle)
    given = {"max_length": max_length, "device": device, "options": dict(options or {})}
    with stopping(), tempfile.TemporaryDirectory(prefix="engine-bench-") as scratch:
        rows = sample(bundle, inputs, Path(scratch) / "rows.arrow", text=text, limit=limit, **given)
        run = _runs(folder, rows, Path(scratch), setting, given)
        start = time.perf_counter()
        watched = Watched(_opened(folder, setting, device))
        first = _first_token(folder, lambda **more: run(watched, limit=1, **more), start)
        run(watched, limit=_WARM_ROWS)
        watched.forget()
        report = run(watched)
        files = Path(scratch) / "profiles"
        files.mkdir()
        profiled = _opened(folder, setting, device, files)
        run(profiled)
        ops = _ops({name: _events(file) for name, file in profiled.end_profiling().items()})
    inference = report.stage_seconds["infer"]
    graphs = watched.told(inference)
    return Profile(
        setting=setting,
        rows=report.rows_out,
        first_token_seconds=first,
        occupancy=report.occupancy,
        inference_seconds=inference,
        graphs=graphs,
        outside=round(1 - sum(graph["share"] for graph in graphs), 4),
        ops=ops,
    )


def _opened(
    folder: bundle_format.BundleFolder, setting: Setting, device: str, profiles: Path | None = None
) -> OrtBackend:
    return OrtBackend(
        folder.path,
        folder.graphs_for(chosen := resolve(device)),
        device=chosen,
        threads=setting.threads,
        profiles=profiles,
    )


def _runs(
    folder: bundle_format.BundleFolder,
    rows: MeasuredRows,
    scratch: Path,
    setting: Setting,
    given: Mapping[str, Any],
) -> Callable[..., Report]:
    """A run over the rows with a backend; nothing of it is kept."""

    def run(backend: Backend, limit: int = 0, **more: Any) -> Report:
        """With `more` options of the task."""
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            return coordinator.run(
                Bundle(folder, backend),
                rows.file,
                Path(out) / "out",
                text=rows.columns,
                limit=limit,
                batch_tokens=setting.batch_tokens,
                workers=setting.workers,
                **{**given, "options": {**given["options"], **more}},
            )

    return run


def _first_token(
    folder: bundle_format.BundleFolder, run: Callable[..., Report], start: float
) -> float | None:
    """Seconds since `start` when the first row has its first token."""
    if folder.description.model_config.decoder is None:
        return None
    run(max_new_tokens=1, min_new_tokens=0)
    return round(time.perf_counter() - start, 3)


class Watched:
    """A backend whose graphs' runs are counted and timed; see `flow.Backend`."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.device = backend, backend.device
        self.ran, self.roles, self.cache_bytes = backend.ran, backend.roles, backend.cache_bytes
        self.host, self.buffer, self.first = backend.host, backend.buffer, backend.first
        self.put, self.serially = backend.put, backend.serially
        self.telemetry = Telemetry()

    def forget(self) -> None:
        self.telemetry = Telemetry()

    def graph(self, role: Role) -> Graph:
        return WatchedGraph(role, self.backend.graph(role), self)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        telemetry = self.telemetry
        with telemetry.timed(name):
            yield
        telemetry.add(**{name: 1})

    def told(self, inference: float) -> list[dict[str, Any]]:
        """A graph each, with its share of the seconds of `inference`."""
        return [
            {
                "graph": name,
                "runs": self.telemetry.counts[name],
                "seconds": round(seconds, 3),
                "share": round(seconds / (inference or 1.0), 4),
            }
            for name, seconds in self.telemetry.seconds.items()
        ]


class WatchedGraph:
    """See `flow.Graph`."""

    def __init__(self, name: str, graph: Graph, watched: Watched) -> None:
        self.name, self.graph, self.watched = name, graph, watched
        self.inputs, self.outputs, self.dtypes = graph.inputs, graph.outputs, graph.dtypes

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        with self.watched.timed(self.name):
            return self.graph.run(feeds, fetch)

    def bind(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> Callable[[], None]:
        bound = self.graph.bind(inputs, outputs)

        def run() -> None:
            with self.watched.timed(self.name):
                bound()

        return run


def _events(file: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return events


def _ops(graphs: Mapping[Role, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Calls and shares by graph and op from the profiles' events; those of kernels are in µs."""
    calls: dict[tuple[str, str], int] = defaultdict(int)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for name, events in graphs.items():
        for event in events:
            # An If's time holds that of the ops within it.
            op = event.get("args", {}).get("op_name", "If")
            if event.get("cat") == "Node" and op != "If":
                calls[name, op] += 1
                spent[name, op] += event["dur"]
    total = sum(spent.values()) or 1.0
    return [
        {"graph": name, "op": op, "calls": calls[name, op], "share": round(each / total, 4)}
        for (name, op), each in sorted(spent.items(), key=lambda item: -item[1])
    ]
