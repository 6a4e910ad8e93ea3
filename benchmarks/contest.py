"""A contest: one process for each contestant, timed inside it, in turns (A B A B).

A *peer* is another library. A *contestant* is one variant of the engine or of a peer, such as
"engine int8". Before the rounds each contestant warms up, tries its settings and keeps the fastest.
In a round each runs once, alone, over the same rows; the others wait.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from answers import compare

from engine.errors import EngineError

PEERS = Path(__file__).with_name("peers")
ENGINE = PEERS / "engine.py"
WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[1]
# Seconds without a reply after which a contestant counts as hung. A conversion may take longer.
LIMIT, CONVERSION = 150.0, 900.0
Progress = Callable[[str], None]


class PeerError(EngineError):
    """A contestant cannot take part, or cannot go on."""


@dataclass(frozen=True)
class Contestant:
    """Who takes part.

    Attributes:
        name: The library and the variant, as reports show them.
        adapter: The library's file in `peers/`.
        variant: One of the adapter's `VARIANTS`.
        python: The interpreter that has the library's packages.
        job: What the adapter is given; `README.md` lists the keys.
    """

    name: str
    adapter: Path
    variant: str
    python: str = sys.executable
    job: Mapping[str, Any] = field(default_factory=dict)


def adapters(folder: Path) -> dict[str, Path]:
    """The peers' adapters by name, without the engine's own."""
    files = sorted(folder.glob("[a-z]*.py"))
    return {file.stem: file for file in files if file.resolve() != ENGINE.resolve()}


class ContestantProcess:
    """A contestant's running process, and what was measured of it."""

    def __init__(self, contestant: Contestant, folder: Path) -> None:
        self.contestant = contestant
        job = contestant.job
        label = contestant.name.replace(" ", "-")
        self.cache = Path(job.get("cache", folder)) / contestant.adapter.stem
        self.cache.mkdir(parents=True, exist_ok=True)
        job_file = folder / f"{label}.json"
        job_file.write_text(
            json.dumps({**job, "cache": str(self.cache), "variant": contestant.variant}),
            encoding="utf-8",
        )
        self.log = folder / f"{label}.log"
        self.command = [
            contestant.python, WORKER, contestant.adapter, contestant.variant, job_file
        ]  # fmt: skip
        self.seconds: list[float] = []
        self.tried: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.startup = 0.0
        self.limit = LIMIT
        self.converting = 0.0
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                list(map(str, self.command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(same_python=self.contestant.python == sys.executable),
            )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its reply.

        Raises:
            PeerError: The command failed, the process has ended, or it did not reply for `limit`
                seconds.
        """
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last reply says why
        return self.reply()

    def reply(self) -> dict[str, Any]:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], self.limit)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            reason = "its process ended" if ready else f"no answer in {self.limit:.0f} s"
            raise PeerError(reason, f"the end of its log says more: {self.log}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerError(reply["error"], f"the traceback is in {self.log}")
        return reply

    def prepare(self, warm: int) -> None:
        """Warm up, try every setting over all rows and load the fastest."""
        self.facts = self.reply()
        if self.facts["skip"]:
            return
        self.convert()
        settings = self.facts.pop("chosen")
        for n, setting in enumerate(settings):
            self.load(n, 0 if n else warm)
            if len(settings) > 1:
                self.tried.append({"setting": setting, "seconds": self.time(0)})
        seconds = [tried["seconds"] for tried in self.tried]
        best = seconds.index(min(seconds)) if seconds else 0
        self.facts["setting"] = settings[best]
        if best != len(settings) - 1:
            self.load(best, warm)
        self.ask(do="peak", reset=True)

    def convert(self) -> None:
        """The first load converts the checkpoint: do that once, outside of the start-up time."""
        done = self.cache / f"converted-{self.contestant.variant}"
        if done.exists():
            return
        start = time.perf_counter()
        self.limit = CONVERSION
        self.ask(do="load", setting=0)
        self.limit = LIMIT
        done.touch()
        self.close()
        self.process = self.start()
        self.reply()
        self.converting = time.perf_counter() - start

    def load(self, setting: int, warm: int) -> None:
        """Load a setting and run its first `warm` rows once, untimed."""
        seconds = self.ask(do="load", setting=setting)["seconds"]
        self.startup = self.startup or seconds
        if warm:
            self.time(warm)

    def time(self, rows: int) -> float:
        """Seconds for the first `rows` rows, 0 for all."""
        return float(self.ask(do="run", rows=rows)["seconds"])

    def answers(self, file: Path) -> list[Any]:
        self.ask(do="answers", file=str(file))
        with pa.OSFile(str(file)) as stream:
            return list(pa.ipc.open_file(stream).read_all()["answer"].to_pylist())

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def contest(
    contestants: Sequence[Contestant],
    folder: Path,
    *,
    rows: int,
    tokens: int,
    rounds: int = 5,
    reference: str = "",
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Run all contestants over the same rows and compare them.

    Args:
        contestants: Ratios are computed for those whose name begins with "engine".
        folder: For jobs, logs and answers.
        rows, tokens: How many the corpus has, for rates.
        rounds: How often each contestant runs.
        reference: The contestant whose answers count as right; the first that finishes where it is
            empty or did not finish.
        progress: Called with lines of progress.

    Returns:
        `contestants`, `ratios`, `rounds`, `reference` and `converting`, the seconds of conversions
        that are made once. A contestant has its figures, or the reason it was `skipped` or
        `failed`.
    """
    running: dict[str, ContestantProcess] = {}
    results: dict[str, Any] = {}
    converting = 0.0
    try:
        for contestant in contestants:
            process = ContestantProcess(contestant, folder)
            running[contestant.name] = process
            if reason := _prepare(process, max(8, rows // 4), progress):
                results[contestant.name] = reason
                running.pop(contestant.name).close()
            converting += process.converting
        for n in range(rounds):
            for name in list(running):
                _take_turn(name, running, results)
            progress(f"round {n + 1} of {rounds}: {_last_seconds(running)}")
        answers, peaks = _collect(running, results, folder)
        reference = reference if reference in answers else next(iter(answers), "")
        for name in answers:
            difference = compare(answers[reference], answers[name])
            results[name] = {**_figures(running[name], rows, tokens, peaks[name]), **difference}
    finally:
        for process in running.values():
            process.close()
    return {
        "rounds": rounds,
        "converting": round(converting, 1),
        "reference": reference,
        "contestants": {each.name: results[each.name] for each in contestants},
        "ratios": ratios({n: r["seconds"] for n, r in results.items() if "seconds" in r}),
    }


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """How many times faster each engine variant is than each peer, round by round."""
    engines = [name for name in seconds if name.startswith("engine")]
    table: dict[str, Any] = {}
    for engine in engines:
        table[engine] = {}
        for peer in (name for name in seconds if name not in engines):
            pairs = zip(seconds[engine], seconds[peer], strict=True)
            rounded = [round(theirs / ours, 3) for ours, theirs in pairs]
            table[engine][peer] = {"median": statistics.median(rounded), "rounds": rounded}
    return table


def _prepare(process: ContestantProcess, warm: int, progress: Progress) -> dict[str, str]:
    """Make a contestant ready; why it was skipped or has failed, or nothing."""
    reason: dict[str, str] = {}
    try:
        process.prepare(warm)
    except PeerError as error:
        reason = {"failed": str(error)}
    else:
        if process.facts["skip"]:
            reason = {"skipped": process.facts["skip"]}
    line = next(iter(reason.values())) if reason else process.facts["setting"]
    progress(f"{process.contestant.name}: {line}")
    return reason


def _take_turn(name: str, running: dict[str, ContestantProcess], results: dict[str, Any]) -> None:
    try:
        running[name].seconds.append(running[name].time(0))
    except PeerError as error:
        results[name] = {"failed": str(error)}
        running.pop(name).close()


def _last_seconds(running: Mapping[str, ContestantProcess]) -> str:
    return ", ".join(f"{name} {process.seconds[-1]:.2f} s" for name, process in running.items())


def _figures(process: ContestantProcess, rows: int, tokens: int, peak: int) -> dict[str, Any]:
    median = statistics.median(process.seconds)
    return {
        "versions": process.facts["versions"],
        "setting": process.facts["setting"],
        "tried": process.tried,
        "seconds": [round(seconds, 4) for seconds in process.seconds],
        "rows_per_second": round(rows / median, 2),
        "tokens_per_second": round(tokens / median, 1),
        "spread": round((max(process.seconds) - min(process.seconds)) / median, 3),
        "startup_seconds": round(process.startup, 2),
        "peak_bytes": peak,
    }


def _collect(
    running: Mapping[str, ContestantProcess], results: dict[str, Any], folder: Path
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Answers and peak bytes by name; a contestant that fails here is recorded in `results`."""
    answers: dict[str, list[Any]] = {}
    peaks: dict[str, int] = {}
    for name, process in running.items():
        try:
            peaks[name] = process.ask(do="peak", reset=False)["bytes"]
            answers[name] = process.answers(folder / f"{name.replace(' ', '-')}.arrow")
        except PeerError as error:
            results[name] = {"failed": str(error)}
    return answers, peaks


def _environment(*, same_python: bool) -> dict[str, str]:
    """This environment without what would slow a contestant down. Only this Python gets the path
    to the engine's package."""
    hidden = ("PYTHONPATH", "OMP_NUM_THREADS")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    path = {"PYTHONPATH": str(ROOT)} if same_python else {}
    return {**variables, **path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
