"""What each start of a run did, for its report; no later start reads it, and none misses it.

    OUT/_manifest/starts/TIME-NAME.json    a start that has computed something, written meanwhile

A start that is killed leaves what it had written last. Nothing of a run depends on these files.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from engine.bundle.format import BundleFolder
from engine.core import hardware
from engine.core.config import RunConfig
from engine.errors import OutputError
from engine.runner.manifest import Manifest
from engine.runner.messages import Counts
from engine.runner.records import FOLDER, STARTS
from engine.runner.timeline import Timeline
from engine.version import __version__

WRITE_SECONDS = 30.0
"""Between two writes at most; a start writes at 1, 2, 4, 8 and 16 seconds, too."""
_PACKAGES = ("onnxruntime", "tokenizers", "numpy", "pyarrow")
_SETTINGS = ("workers", "threads", "tokenizers", "batch_tokens")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a run.

    Attributes:
        fingerprint: Of the run.
        began: Date and time in UTC, as ISO 8601 writes them.
        seconds: It has taken; cpu_seconds: CPU time of its process and of those it has waited for.
        ended: "finished", "stopped" (by a person or an error), or "" of one that was killed.
        share: Such as 2/8, or "".
        ran: What computed, in detail (see `device.ExecutionInfo`).
        machine: cpu, cpu_features, cores, python and versions.
        model: name, task, recipe, source and gate of the bundle.
        settings: workers, threads, tokenizers and batch_tokens.
        counts: Of the start's own work, such as rows, tokens, padded and repeats.
        stage_seconds: Time at work by stage, over all workers.
        rejected: Rows set aside, by reason.
        timeline: Columns of `timeline.NAMES`.
    """

    fingerprint: str
    began: str
    seconds: float
    cpu_seconds: float
    ended: str
    share: str
    ran: Mapping[str, Any]
    machine: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    stage_seconds: Mapping[str, float]
    rejected: Mapping[str, int]
    timeline: Mapping[str, Sequence[float]] = field(default_factory=dict)


class StartRecorder:
    """Notes what one start does, and writes it now and then.

    Args:
        manifest: Of the output, which is held.
        model: The bundle.
        fingerprint: Of the run.
        share: Such as 2/8, or "".

    Attributes:
        ran: What computes.
        config: Of a worker, every size filled in.
    """

    def __init__(
        self, manifest: Manifest, model: BundleFolder, fingerprint: str, share: str
    ) -> None:
        self.ran: Mapping[str, Any] = {}
        self.config: RunConfig | None = None
        self._manifest, self._model = manifest, model
        self._fingerprint, self._share = fingerprint, share
        self._timeline, self._counts, self._rejected = Timeline(), Counts(), dict[str, int]()
        self._began, self._cpu = time.time(), _cpu_seconds()
        self._started, self._due = time.perf_counter(), 1.0
        name = f"{round(self._began * 1000):014d}-{secrets.token_hex(4)}.json"
        self._file = manifest.folder / STARTS / name

    def note(self, counts: Counts, rejected: Mapping[str, int]) -> None:
        """Take what the workers have counted so far, and write it if it is time."""
        seconds = time.perf_counter() - self._started
        self._counts, self._rejected = counts, dict(rejected)
        self._timeline.add(seconds, counts.counts)
        if seconds >= self._due:
            self._due = min(2 * seconds, seconds + WRITE_SECONDS)
            self._write("")

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """The body is the work of the start; how it ends is written."""
        try:
            yield
        except BaseException:
            self._write("stopped")
            raise
        self._write("finished")

    def _write(self, ended: str) -> None:
        """Write what is known, if anything was computed. A disk that does not take it is no reason
        to stop: whatever the run itself cannot write stops it."""
        if any(self._counts.counts.get(name) for name in ("rows", "rows_resumed")):
            with suppress(OutputError):
                self._manifest.write(self._file, json.dumps(dataclasses.asdict(self._start(ended))))

    def _start(self, ended: str) -> Start:
        counts, spent = self._counts.counts, self._counts.seconds
        return Start(
            fingerprint=self._fingerprint,
            began=datetime.fromtimestamp(self._began, UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self._started, 3),
            cpu_seconds=round(_cpu_seconds() - self._cpu, 3),
            ended=ended,
            share=self._share,
            ran=self.ran,
            machine=_machine(),
            model=_model(self._model),
            settings={name: getattr(self.config, name) for name in _SETTINGS},
            counts={name: count for name, count in counts.items() if name != "queued"},
            stage_seconds={stage: round(seconds, 3) for stage, seconds in spent.items()},
            rejected=self._rejected,
            timeline=self._timeline.to_dict(),
        )


def read(manifest: Manifest, fingerprint: str) -> list[Start]:
    """The starts of a run, as they began; none of an output of an earlier version. What cannot be
    read is left out: it is no damage of the output."""
    starts = []
    for name in sorted(file.name for file in (manifest.folder / STARTS).glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            file = manifest.path(f"{FOLDER}/{STARTS}/{name}")
            starts.append(Start(**json.loads(file.read_text(encoding="utf-8"))))
    return [s for s in starts if s.fingerprint == fingerprint and _is_sound(s)]


def _is_sound(start: Start) -> bool:
    """Whether a record has what its fields say: the output may be a stranger's."""
    gate = start.model.get("gate", {}) if isinstance(start.model, Mapping) else None
    maps = (start.ran, start.machine, start.model, start.settings, start.counts, gate,
            start.stage_seconds, start.rejected, start.timeline)  # fmt: skip
    if not all(isinstance(one, Mapping) for one in maps):
        return False
    figures = (gate or {}).get("figures", {})
    nested = (start.model.get("source", {}), start.machine.get("versions", {}), figures)
    columns = list(start.timeline.values())
    if not all(isinstance(one, Mapping) for one in nested):
        return False
    if not all(isinstance(column, list) for column in columns):
        return False
    sums = (start.counts, start.stage_seconds, start.rejected)
    numbers = [start.seconds, start.cpu_seconds, *chain(*(one.values() for one in sums), *columns)]
    numbers += [(gate or {}).get(name, 0) for name in ("rows", "size", "speed")]
    return (
        len({len(column) for column in columns}) <= 1
        and all(isinstance(text, str) for text in (start.began, start.ended, start.share))
        and all(isinstance(figure, Mapping) for figure in figures.values())
        and all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
    )


def _machine() -> dict[str, Any]:
    """What figures are measured on; versions are those of modules in use, which is quickly told."""
    cpu, features = hardware.cpu()
    used = {name: getattr(sys.modules.get(name), "__version__", "") for name in _PACKAGES}
    return {
        "cpu": cpu,
        "cpu_features": list(features),
        "cores": hardware.cores(),
        "python": platform.python_version(),
        "versions": {"corpus-engine": __version__, **{n: v for n, v in used.items() if v}},
    }


def _model(folder: BundleFolder) -> dict[str, Any]:
    description = folder.description
    return {
        "name": folder.path.name,
        "task": description.task,
        "recipe": description.recipe,
        "source": dict(description.source),
        "gate": dict(description.gate),
    }


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
