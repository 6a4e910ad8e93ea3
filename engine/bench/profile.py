"""Where the time of inference goes: by graph and by operator.

There are two runs over the same rows with the same settings. The first is timed. The second runs
with the profiler of ONNX Runtime, which slows it down, so only shares are taken from it.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from engine.bench.measured_rows import MeasuredRows, sample
from engine.bench.sweep import SweepPoint, stopping
from engine.bundle import format as bundle_format
from engine.core.config import RunSettings
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


class GraphTime(TypedDict):
    """A graph's runs and seconds, and its share of the seconds of inference."""

    graph: str
    runs: int
    seconds: float
    share: float


class OperatorTime(TypedDict):
    """The calls of an operator in a graph, and its share of the seconds of all operators."""

    graph: str
    op: str
    calls: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The result of a profile.

    Attributes:
        setting: The settings of both runs.
        rows: Rows answered in each run.
        first_token_seconds: From the start of loading to one token of one row; None for a task
            that generates no tokens.
        occupancy: As `Report.occupancy`.
        inference_seconds: Seconds of inference, summed over the workers.
        graphs: A time for each graph.
        outside: Share of the seconds of inference outside of graphs, in the engine itself.
        ops: A time for each operator of each graph, the longest first.
    """

    setting: SweepPoint
    rows: int
    first_token_seconds: float | None
    occupancy: float | None
    inference_seconds: float
    graphs: list[GraphTime]
    outside: float
    ops: list[OperatorTime]

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return dataclasses.asdict(self)


def profile(
    bundle: Path | str,
    inputs: Sequence[str | Path],
    setting: SweepPoint,
    *,
    limit: int = ROWS,
    text: Sequence[str] = (),
    max_length: int = 0,
    device: str = "auto",
    options: Mapping[str, object] | None = None,
) -> Profile:
    """Profile a bundle over the first rows of a corpus.

    Args:
        setting: Settings of both runs, such as the best of a sweep.
        limit: Rows at most; 0 for all.
        bundle, inputs, text, max_length, device, options: As for `engine.run`.

    Raises:
        SettingsError: A setting is out of range or names a missing column.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle.
        Stopped: Interrupted (SIGINT).
    """
    folder = bundle_format.load(bundle)
    settings: RunSettings = {
        "text": text,
        "limit": limit,
        "max_length": max_length,
        "device": device,
        "options": dict(options or {}),
    }
    with stopping(), tempfile.TemporaryDirectory(prefix="engine-bench-") as scratch:
        file = Path(scratch) / "rows.arrow"
        rows = sample(bundle, inputs, file, **settings)
        run = _runner(folder, rows, Path(scratch), setting, settings)
        start = time.perf_counter()
        watched = TimedBackend(_opened(folder, setting, device))
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
    graphs = watched.times(inference)
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
    folder: bundle_format.BundleFolder,
    setting: SweepPoint,
    device: str,
    profiles: Path | None = None,
) -> OrtBackend:
    return OrtBackend(
        folder.path,
        folder.graphs_for(chosen := resolve(device)),
        device=chosen,
        threads=setting.threads,
        profiles=profiles,
    )


def _runner(
    folder: bundle_format.BundleFolder,
    rows: MeasuredRows,
    scratch: Path,
    setting: SweepPoint,
    settings: RunSettings,
) -> Callable[..., Report]:
    """A function that runs over the rows with a backend; the output is deleted."""

    def run(backend: Backend, limit: int = 0, **options: object) -> Report:
        """With further options of the task."""
        every: RunSettings = {
            **settings,
            "text": rows.columns,
            "limit": limit,
            "batch_tokens": setting.batch_tokens,
            "workers": setting.workers,
            "options": {**settings["options"], **options},
        }
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            return coordinator.run(Bundle(folder, backend), rows.file, Path(out) / "out", **every)

    return run


def _first_token(
    folder: bundle_format.BundleFolder, run: Callable[..., Report], start: float
) -> float | None:
    """Seconds since `start` when the first row has its first token."""
    if folder.description.model_config.decoder is None:
        return None
    run(max_new_tokens=1, min_new_tokens=0)
    return round(time.perf_counter() - start, 3)


class TimedBackend:
    """A `Backend` that counts and times the runs of its graphs."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.device = backend, backend.device
        self.ran, self.roles, self.cache_bytes = backend.ran, backend.roles, backend.cache_bytes
        self.host, self.buffer, self.parts = backend.host, backend.buffer, backend.parts
        self.put, self.serially = backend.put, backend.serially
        self.telemetry = Telemetry()

    def stoppable(self) -> tuple[Backend, Callable[[], None]]:
        return self, _unstoppable

    def forget(self) -> None:
        self.telemetry = Telemetry()

    def graph(self, role: Role, beams: int = 1) -> Graph:
        return TimedGraph(self.backend.graph(role, beams), lambda: self.timed(role))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        telemetry = self.telemetry
        with telemetry.timed(name):
            yield
        telemetry.add(**{name: 1})

    def times(self, inference: float) -> list[GraphTime]:
        """The time of each graph, with its share of the seconds of `inference`."""
        return [
            {
                "graph": name,
                "runs": self.telemetry.counts[name],
                "seconds": round(seconds, 3),
                "share": round(seconds / (inference or 1.0), 4),
            }
            for name, seconds in self.telemetry.seconds.items()
        ]


def _unstoppable() -> None:
    """A measured call is not ended on the way."""


class TimedGraph:
    """A `Graph` that counts and times its runs."""

    def __init__(self, graph: Graph, timed: Callable[[], AbstractContextManager[None]]) -> None:
        self.graph, self.timed = graph, timed
        self.inputs, self.outputs, self.dtypes = graph.inputs, graph.outputs, graph.dtypes

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        with self.timed():
            return self.graph.run(feeds, fetch)

    def bind(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> Callable[[], None]:
        bound = self.graph.bind(inputs, outputs)

        def run() -> None:
            with self.timed():
                bound()

        return run


def _events(file: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return events


def _ops(graphs: Mapping[Role, Sequence[Mapping[str, Any]]]) -> list[OperatorTime]:
    """Calls and shares by graph and operator, from the events of the profiles (in µs)."""
    calls: dict[tuple[str, str], int] = defaultdict(int)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for name, events in graphs.items():
        for event in events:
            # The time of an If includes that of the operators in it.
            op = event.get("args", {}).get("op_name", "If")
            if event.get("cat") == "Node" and op != "If":
                calls[name, op] += 1
                spent[name, op] += event["dur"]
    total = sum(spent.values()) or 1.0
    return [
        {"graph": name, "op": op, "calls": calls[name, op], "share": round(each / total, 4)}
        for (name, op), each in sorted(spent.items(), key=lambda item: -item[1])
    ]
