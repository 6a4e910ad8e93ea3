"""Times a bundle on a corpus: every number of batch tokens with every number of workers, in turns.

The rows are copied once into one Arrow file; otherwise every figure would include the hashing of a
large corpus. What is timed is `engine.run` over that file into a new folder, with the bundle loaded
before.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import NotRequired, TypedDict

from engine.bench.measured_rows import MeasuredRows, sample
from engine.core import hardware, system_calls
from engine.core.config import RunSettings
from engine.core.settings import check_whole
from engine.core.telemetry import Progress, unwatched
from engine.errors import EngineError, SettingsError, Stopped
from engine.pipeline import Bundle
from engine.runner import coordinator
from engine.runner.report import Report
from engine.runtime.device import resolve
from engine.version import __version__

BUDGETS = (512, 1024, 2048, 4096)
# On a GPU.
GPU_BUDGETS = (4096, 8192, 16384, 32768, 65536)
WORKERS = (1, 2)
WARM_ROWS = 16
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class SweepPoint:
    """The settings of one run in a sweep.

    Attributes:
        batch_tokens, workers: What the sweep varies.
        threads: The cores divided by `workers`; on a GPU by the most workers of the sweep, so that
            the bundle is loaded once (threads have no effect there).
    """

    batch_tokens: int
    workers: int
    threads: int


class Timing(TypedDict):
    """The result of one point, as JSON values: its median round, or why it failed.

    `engine tune` takes out of `rows_per_second` what slowed all points of a round, and adds
    `spread`, the same of its slowest and its fastest round (of many: of their middle half),
    `ratio`, over the default's, and what the `difference` is.
    """

    batch_tokens: int
    workers: int
    threads: int
    seconds: NotRequired[float]
    rounds: NotRequired[list[float]]
    rows_per_second: NotRequired[float]
    tokens_per_second: NotRequired[float]
    padding: NotRequired[float]
    spread: NotRequired[list[float]]
    ratio: NotRequired[float]
    difference: NotRequired[str]
    failed: NotRequired[str]


class Machine(TypedDict):
    """What figures are measured on."""

    cpu: str
    cpu_features: list[str]
    cores: int
    python: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The result of a sweep.

    Attributes:
        rows, rejected: Rows answered in each run, and bad rows that were left out.
        truncated: Rows that were truncated at max_length.
        tokens, output_tokens: Tokens read and generated in one run.
        padding, stages: Of the median round of `best`; seconds of work by stage.
        best: The point with the lowest median.
        sweep: A timing for each point; its tokens per second count generated tokens if there are
            any.
        startup_seconds: To load the bundle and check its hashes, without Python's own start.
        first_answer_seconds: From the start of loading to the answer to one row.
        loaded: How many times the bundle is in memory: once for each number of threads.
        peak_bytes: Peak resident memory of this process.
    """

    bundle: str
    task: str
    device: str
    rows: int
    rejected: int
    truncated: int
    tokens: int
    output_tokens: int
    padding: float
    stages: dict[str, float]
    best: SweepPoint
    sweep: list[Timing]
    startup_seconds: float
    first_answer_seconds: float
    loaded: int
    peak_bytes: int

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return dataclasses.asdict(self)


def machine() -> Machine:
    """This machine and the versions installed: figures mean nothing without them."""
    cpu, features = hardware.cpu()
    packages = {n: d.version for n in _PACKAGES for d in metadata.distributions(name=n)}
    return {
        "cpu": cpu,
        "cpu_features": list(features),
        "cores": hardware.cores(),
        "python": platform.python_version(),
        "versions": {"corpus-engine": __version__, **packages},
    }


@contextmanager
def stopping() -> Iterator[None]:
    """Turn an interrupt, during a run or between two, into one error without a hint to continue."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as error:
        raise Stopped("stopped before everything was measured") from error


def sweep(
    bundle: Path | str,
    inputs: Sequence[str | Path],
    *,
    budgets: Sequence[int] | None = None,
    workers: Sequence[int] = WORKERS,
    rounds: int = 3,
    limit: int = 0,
    text: Sequence[str] = (),
    max_length: int = 0,
    device: str = "auto",
    options: Mapping[str, object] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Sweep:
    """Time every value of batch_tokens with every number of workers, in turns, and take medians.

    Args:
        bundle, inputs: As for `engine.run`; the bundle as a folder.
        budgets: Values of batch_tokens; None for `BUDGETS`, or `GPU_BUDGETS` on a GPU.
        workers: Values of workers.
        rounds: How often each point is timed.
        limit: Rows to measure at most; 0 for all.
        text, max_length, device, options: As for `engine.run`.
        progress: Called with a line after each round.
        on_progress: Called a few times a second during each run.

    Raises:
        SettingsError: A setting is unknown, out of range or names a missing column.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle, or its bytes have changed.
        BackendError: Every point failed.
        Stopped: Interrupted (SIGINT).
    """
    settings: RunSettings = {
        "text": text,
        "limit": limit,
        "max_length": max_length,
        "device": device,
        "options": dict(options or {}),
    }
    on_gpu = resolve(device).is_gpu
    if budgets is None:
        budgets = GPU_BUDGETS if on_gpu else BUDGETS
    measured = [Measured(point) for point in points(budgets, workers, on_gpu)]
    check_whole("rounds", rounds, 1)
    with stopping(), tempfile.TemporaryDirectory(prefix="engine-bench-") as scratch:
        file = Path(scratch) / "rows.arrow"
        rows = sample(bundle, inputs, file, **settings)
        for note in rows.notes:
            progress(f"note: {note}")
        runs = Runs(rows, Path(scratch) / "out", settings, on_progress)
        loaded = Loaded(bundle, device, runs, measured[0].point)
        for point in {m.point.threads: m.point for m in measured}.values():
            runs.run(loaded.model(point.threads), point, limit=WARM_ROWS)
        for n in range(rounds):
            for each in measured:
                each.measure(loaded.model(each.point.threads), runs)
            progress(f"round {n + 1} of {rounds}: {_line(measured)}")
    return summed(str(bundle), rows, measured, loaded)


@dataclass(frozen=True)
class Runs:
    """Runs of a sweep: what they have in common."""

    rows: MeasuredRows
    out: Path
    settings: RunSettings
    on_progress: Callable[[Progress], None] | None

    def run(self, model: Bundle, point: SweepPoint, limit: int = 0) -> tuple[float, Report]:
        """Seconds and report of one run; its output is deleted."""
        start = time.perf_counter()
        try:
            settings: RunSettings = {
                **self.settings,
                "text": self.rows.columns,
                "limit": limit,
                "batch_tokens": point.batch_tokens,
                "workers": point.workers,
            }
            progress = self._by_rows(limit)
            report = coordinator.run(
                model, self.rows.file, self.out, on_progress=progress, **settings
            )
            return time.perf_counter() - start, report
        finally:
            shutil.rmtree(self.out, ignore_errors=True)

    def _by_rows(self, limit: int) -> Callable[[Progress], None]:
        """Progress by rows: a run can only estimate how many rows an Arrow file has."""
        report, rows = self.on_progress, min(limit or self.rows.rows, self.rows.rows)
        if report is None:
            return unwatched
        return lambda state: report(dataclasses.replace(state, done=min(1.0, state.rows / rows)))


class Loaded:
    """The bundle, loaded once for each number of threads; the first load is timed."""

    def __init__(self, bundle: Path | str, device: str, runs: Runs, first: SweepPoint) -> None:
        self._bundle, self._device = bundle, device
        start = time.perf_counter()
        model = Bundle.load(bundle, device=device, threads=first.threads)
        self.startup = time.perf_counter() - start
        runs.run(model, first, limit=1)
        self.first_answer = time.perf_counter() - start
        self.bundles = {first.threads: model}

    def model(self, threads: int) -> Bundle:
        """The bundle with a number of threads."""
        if threads not in self.bundles:
            self.bundles[threads] = Bundle.load(
                self._bundle, device=self._device, threads=threads, check=False
            )
        return self.bundles[threads]


@dataclass
class Measured:
    """A point and its rounds so far."""

    point: SweepPoint
    seconds: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    failed: EngineError | None = None

    def measure(self, model: Bundle, runs: Runs) -> None:
        """One more round; a point that has failed once is not tried again."""
        if self.failed:
            return
        try:
            seconds, report = runs.run(model, self.point)
        except Stopped:
            raise
        except EngineError as error:
            self.failed = error
            return
        self.seconds.append(seconds)
        self.reports.append(report)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def report(self) -> Report:
        """Of the median round, or of the faster of two in the middle."""
        return self.reports[self.seconds.index(statistics.median_low(self.seconds))]

    def timing(self) -> Timing:
        """What was measured of the setting, or why it failed; seconds and rows a second."""
        timing: Timing = {
            "batch_tokens": self.point.batch_tokens,
            "workers": self.point.workers,
            "threads": self.point.threads,
        }
        if self.failed:
            return {**timing, "failed": self.failed.message}
        report = self.report
        return {
            **timing,
            "seconds": round(self.median, 4),
            "rounds": [round(s, 4) for s in self.seconds],
            "rows_per_second": round(report.rows_out / self.median, 2),
            "tokens_per_second": round((report.output_tokens or report.tokens) / self.median, 1),
            "padding": report.padding,
        }


def points(budgets: Sequence[int], workers: Sequence[int], on_gpu: bool) -> list[SweepPoint]:
    """Every pair once, in order.

    Raises:
        SettingsError: There is no value, or one is below 1.
    """
    for name, values in (("budgets", budgets), ("workers", workers)):
        if not values:
            raise SettingsError(f"{name} is empty", "one value or more, each 1 or more")
        for value in values:
            check_whole(name, value, 1)
    cores, highest = hardware.cores(), max(workers)
    pairs = dict.fromkeys((budget, count) for count in workers for budget in budgets)
    return [
        SweepPoint(budget, count, max(1, cores // (highest if on_gpu else count)))
        for budget, count in pairs
    ]


def summed(
    bundle: str,
    rows: MeasuredRows,
    measured: Sequence[Measured],
    loaded: Loaded,
    best: Measured | None = None,
) -> Sweep:
    """What a sweep has found.

    Args:
        best: The point to take; None for that with the lowest median.

    Raises:
        BackendError: Every point failed.
    """
    good = [each for each in measured if not each.failed]
    if not good and (error := measured[0].failed):
        raise error
    best = best or min(good, key=lambda each: each.median)
    report = best.report
    return Sweep(
        bundle=bundle,
        task=report.task,
        device=report.device,
        rows=report.rows_out,
        rejected=rows.rejected,
        truncated=report.truncated,
        tokens=report.tokens,
        output_tokens=report.output_tokens,
        padding=report.padding,
        stages=report.stage_seconds,
        best=best.point,
        sweep=[each.timing() for each in measured],
        startup_seconds=round(loaded.startup, 3),
        first_answer_seconds=round(loaded.first_answer, 3),
        loaded=len(loaded.bundles),
        peak_bytes=system_calls.peak_memory(),
    )


def _line(measured: Sequence[Measured]) -> str:
    return ", ".join(
        f"{m.point.batch_tokens}×{m.point.workers} "
        + ("failed" if m.failed else f"{m.seconds[-1]:.2f} s")
        for m in measured
    )
