"""Contestants side by side: a process for each, timed within it, A B A B.

Every contestant is warmed up, tries its settings and keeps the fastest before the rounds begin. In
a round each runs once, alone, over the same rows; the others wait.
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
from answers import compared

from engine.errors import PeerError

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[1]
# A contestant that says nothing for so many seconds has hung, or is of no use. A conversion may
# take longer.
LIMIT, CONVERSION = 150.0, 900.0
Told = Callable[[str], None]


@dataclass(frozen=True)
class Entrant:
    """Who competes: an adapter file, one of its variants, and the Python that has its packages."""

    name: str
    adapter: Path
    variant: str
    python: str = sys.executable
    job: Mapping[str, Any] = field(default_factory=dict)


class Contestant:
    """An entrant's running process."""

    def __init__(self, entrant: Entrant, folder: Path) -> None:
        self.entrant = entrant
        label = entrant.name.replace(" ", "-")
        cache = Path(entrant.job.get("cache", folder)) / entrant.adapter.stem
        cache.mkdir(parents=True, exist_ok=True)
        job = folder / f"{label}.json"
        job.write_text(
            json.dumps({**entrant.job, "cache": str(cache), "variant": entrant.variant}),
            encoding="utf-8",
        )
        self.log = folder / f"{label}.log"
        self.cache = cache
        self.command = [entrant.python, WORKER, entrant.adapter, entrant.variant, job]
        self.seconds: list[float] = []
        self.tried: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.startup = 0.0
        self.limit = LIMIT
        self.converting = 0.0
        self.process = self.started()

    def started(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                list(map(str, self.command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(self.entrant.python == sys.executable),
            )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its reply.

        Raises:
            PeerError: It cannot, or is gone, or has said nothing for `limit` seconds.
        """
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last tells why
        return self.reply()

    def reply(self) -> dict[str, Any]:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], self.limit)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            why = "its process ended" if ready else f"no answer in {self.limit:.0f} s"
            raise PeerError(why, f"its last words are in {self.log}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise PeerError(said["error"], f"all of it is in {self.log}")
        return said

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
        """Load once beforehand where that has not been done: a conversion is no part of a start."""
        done = self.cache / f"converted-{self.entrant.variant}"
        if done.exists():
            return
        start = time.perf_counter()
        self.limit = CONVERSION
        self.ask(do="load", setting=0)
        self.limit = LIMIT
        done.touch()
        self.close()
        self.process = self.started()
        self.reply()
        self.converting = time.perf_counter() - start

    def load(self, setting: int, warm: int) -> None:
        """Load a setting and run its first `warm` rows once, untimed."""
        seconds = self.ask(do="load", setting=setting)["seconds"]
        self.startup = self.startup or seconds
        if warm:
            self.time(warm)

    def time(self, rows: int) -> float:
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
    entrants: Sequence[Entrant],
    folder: Path,
    *,
    rows: int,
    tokens: int,
    rounds: int = 5,
    reference: str = "",
    told: Told = lambda line: None,
) -> dict[str, Any]:
    """Run all entrants over the same rows and compare them.

    Args:
        entrants: Those whose name begins with "engine" are what ratios are taken of.
        folder: For jobs, logs and answers.
        rows, tokens: What the corpus has, for rates.
        rounds: How often each runs, in turns.
        reference: The name of whose answers count as right; without it, the first that finishes.
        told: Called with lines of progress.

    Returns:
        `contestants`, `ratios`, `reference` and `converting`, the seconds of conversions that are
        made once; a contestant has `skipped` or `failed` with the reason, or its figures.
    """
    running: dict[str, Contestant] = {}
    found: dict[str, Any] = {}
    converting = 0.0
    try:
        for entrant in entrants:
            converting += _enter(entrant, folder, running, found, max(8, rows // 4), told)
        for n in range(rounds):
            for name in list(running):
                _take_turn(name, running, found)
            told(f"round {n + 1} of {rounds}: {_line(running)}")
        found |= _figures(running, found, folder, reference, rows, tokens)
    finally:
        for contestant in running.values():
            contestant.close()
    measured = {n: found[n]["seconds"] for n in found if "seconds" in found[n]}
    return {
        "rounds": rounds,
        "converting": round(converting, 1),
        "reference": found.pop("_reference", ""),
        "contestants": {e.name: found[e.name] for e in entrants},
        "ratios": ratios(measured),
    }


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """How many times faster each engine variant is than each other contestant, round by round."""
    ours = [name for name in seconds if name.startswith("engine")]
    found: dict[str, Any] = {}
    for mine in ours:
        found[mine] = {}
        for other in seconds:
            if other not in ours:
                each = [b / a for a, b in zip(seconds[mine], seconds[other], strict=True)]
                rounded = [round(ratio, 3) for ratio in each]
                found[mine][other] = {"median": statistics.median(rounded), "rounds": rounded}
    return found


def _enter(
    entrant: Entrant,
    folder: Path,
    running: dict[str, Contestant],
    found: dict[str, Any],
    warm: int,
    told: Told,
) -> float:
    """Make an entrant ready, or put down why it is not; the seconds of its conversion."""
    contestant = running[entrant.name] = Contestant(entrant, folder)
    try:
        contestant.prepare(warm)
    except PeerError as error:
        found[entrant.name] = {"failed": str(error)}
    else:
        if contestant.facts["skip"]:
            found[entrant.name] = {"skipped": contestant.facts["skip"]}
    out = found.get(entrant.name)
    told(f"{entrant.name}: {next(iter(out.values())) if out else contestant.facts['setting']}")
    if out:
        running.pop(entrant.name).close()
    return contestant.converting


def _take_turn(name: str, running: dict[str, Contestant], found: dict[str, Any]) -> None:
    try:
        running[name].seconds.append(running[name].time(0))
    except PeerError as error:
        found[name] = {"failed": str(error)}
        running.pop(name).close()


def _line(running: Mapping[str, Contestant]) -> str:
    return ", ".join(f"{name} {c.seconds[-1]:.2f} s" for name, c in running.items())


def _figures(
    running: Mapping[str, Contestant],
    found: dict[str, Any],
    folder: Path,
    reference: str,
    rows: int,
    tokens: int,
) -> dict[str, Any]:
    answers, peaks = _gathered(running, found, folder)
    right = reference if reference in answers else next(iter(answers), "")
    figures: dict[str, Any] = {"_reference": right}
    for name, given in answers.items():
        contestant = running[name]
        median = statistics.median(contestant.seconds)
        figures[name] = {
            "versions": contestant.facts["versions"],
            "setting": contestant.facts["setting"],
            "tried": contestant.tried,
            "seconds": [round(s, 4) for s in contestant.seconds],
            "rows_per_second": round(rows / median, 2),
            "tokens_per_second": round(tokens / median, 1),
            "spread": round((max(contestant.seconds) - min(contestant.seconds)) / median, 3),
            "startup_seconds": round(contestant.startup, 2),
            "peak_bytes": peaks[name],
            **compared(answers[right], given),
        }
    return figures


def _gathered(
    running: Mapping[str, Contestant], found: dict[str, Any], folder: Path
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Answers and peak bytes by name; who cannot give them is recorded in `found` as failed."""
    answers: dict[str, list[Any]] = {}
    peaks: dict[str, int] = {}
    for name, contestant in running.items():
        try:
            peaks[name] = contestant.ask(do="peak", reset=False)["bytes"]
            answers[name] = contestant.answers(folder / f"{name.replace(' ', '-')}.arrow")
        except PeerError as error:
            found[name] = {"failed": str(error)}
    return answers, peaks


def _environment(own: bool) -> dict[str, str]:
    """Ours without what would change a contestant; only our own Python finds this package."""
    given = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    path = {"PYTHONPATH": str(ROOT)} if own else {}
    return {**given, **path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
