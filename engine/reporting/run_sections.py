"""The facts of a run as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from engine.core.telemetry import duration
from engine.pages.blocks import Bars, Block, Lines, Section, Table, Tile, Tiles
from engine.reporting.acceptance import acceptance
from engine.reporting.timelines import combined, seconds_at_work
from engine.runner.facts import RunFacts
from engine.runner.starts import Start

NOT_RECORDED = "not recorded"
_MOST_STARTS = 50


def overview(facts: RunFacts) -> Section:
    """The figures that are read first."""
    note = "" if facts.finished else _unfinished(facts)
    return Section("", [Tiles([*_row_tiles(facts), *_work_tiles(facts)])], note)


def _unfinished(facts: RunFacts) -> str:
    kept = f" and {facts.rows_open:,} rows of the others" if facts.rows_open else ""
    return (
        f"The run has not finished: what follows is of {facts.parts:,} parts{kept}. The command "
        "that began it goes on."
    )


def _row_tiles(facts: RunFacts) -> list[Tile]:
    tiles = [
        Tile("rows in", facts.rows_in),
        Tile("answered", facts.rows_out, _share(facts.rows_out, facts.rows_in)),
        Tile(
            "rejected",
            facts.rows_rejected,
            _share(facts.rows_rejected, facts.rows_in),
            bool(facts.rows_rejected),
        ),
        Tile("truncated", facts.truncated, _share(facts.truncated, facts.rows_in)),
        Tile("tokens read", facts.tokens, _each(facts.tokens, facts.rows_out)),
    ]
    if facts.output_tokens:
        each = _each(facts.output_tokens, facts.rows_out)
        tiles.append(Tile("tokens generated", facts.output_tokens, each))
    return tiles


def _work_tiles(facts: RunFacts) -> list[Tile]:
    if not facts.starts:
        return [Tile("time of the workers", duration(facts.worker_seconds))]
    seconds = seconds_at_work(facts.starts)
    rows = sum(start.counts.get("rows", 0) for start in facts.starts)
    times = f"{len(facts.starts)} starts" if len(facts.starts) > 1 else "one start"
    return [
        Tile("repeated", facts.repeats, "computed once"),
        Tile("time", duration(seconds), times),
        Tile("rows/s", _rate(rows, seconds), "computed, over time"),
        Tile("CPU hours", _hours(facts.cpu_seconds or 0.0), "of all starts"),
    ]


def _rate(rows: int, seconds: float) -> float:
    rate = rows / seconds if seconds else 0.0
    return round(rate) if rate >= 100 else round(rate, 2)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.4f}" if seconds < 360 else f"{seconds / 3600:,.2f}"


def _share(count: int, whole: int) -> str:
    return f"{count / whole:.2%}" if whole else ""


def _each(count: int, rows: int) -> str:
    return f"{count / rows:.1f} a row" if rows else ""


def rejected(facts: RunFacts) -> list[Section]:
    """Rows that were set aside; nothing where there are none."""
    if not facts.rows_rejected:
        return []
    names = _below_common([file.path for file in facts.rejected_files])
    files = [
        (name, file.rows_in, file.rows_rejected)
        for name, file in zip(names, facts.rejected_files, strict=True)
    ]
    shown = f", the first {len(files)}" if facts.files_with_rejects > len(files) else ""
    blocks: list[Block] = [
        Bars(
            names=[code.replace("_", " ") for code in facts.rejected],
            values=list(facts.rejected.values()),
            unit="rows",
            caption="By reason",
        ),
        Table(
            rows=files,
            head=("file", "rows", "rejected"),
            caption=f"By file: {facts.files_with_rejects:,} of {facts.files:,} have some{shown}",
        ),
    ]
    return [Section("Rejected rows", blocks, f"engine rejects {facts.out} lists them.")]


def _below_common(paths: Sequence[str]) -> list[str]:
    """Paths without the folder that all of them lie in."""
    split = [path.split("/") for path in paths]
    levels = zip(*(names[:-1] for names in split), strict=False)
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return ["/".join(names[common:]) for names in split]


def time(facts: RunFacts) -> Section:
    """How the work went on, and which stages took the time."""
    if not facts.starts:
        return Section("Where the time went", (), f"{_NO_STARTS} the time by stage.")
    blocks = [*_timelines(facts.starts), *_stages(facts.starts)]
    if len(facts.starts) > 1:
        blocks.append(_starts(facts.starts))
    note = "Over the time at work. " if len(facts.starts) == 1 else "Starts one after the other. "
    return Section("Where the time went", blocks, note + _STAGES)


_STAGES = "Stages overlap, so their times at work add up to more than the time of the run."
_NO_STARTS = f"{NOT_RECORDED.capitalize()}: a version before this one wrote the output, without"


def _timelines(starts: Sequence[Start]) -> list[Block]:
    line = combined(starts)
    if line is None:
        return []
    unit, scale = _clock(float(line.seconds[-1]))
    x = (line.seconds / scale).round(4).tolist()

    def drawn(caption: str, values: np.ndarray[Any, Any], shown: str) -> Lines:
        return Lines(x=x, series={caption: values.tolist()}, x_unit=unit, unit=shown,
                     caption=caption)  # fmt: skip

    figures: list[Block] = [drawn("Speed", line.rows_per_second, "rows/s")]
    if not np.isnan(line.padding).all():
        figures.append(drawn("Padding", line.padding, "padded tokens for each token"))
    figures.append(drawn("Queue", line.queued, "batches that wait for a worker"))
    return figures


def _clock(seconds: float) -> tuple[str, float]:
    """A unit for so long a time, and its seconds."""
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def _stages(starts: Sequence[Start]) -> list[Block]:
    sums: dict[str, float] = {}
    for start in starts:
        for stage, seconds in start.stage_seconds.items():
            sums[stage] = sums.get(stage, 0.0) + seconds
    values = [round(seconds, 2) for seconds in sums.values()]
    return [Bars(names=list(sums), values=values, unit="s", caption="Time at work by stage")]


def _starts(starts: Sequence[Start]) -> Table:
    rows = [
        (
            start.began.replace("T", " ").removesuffix("+00:00"),
            start.share or "all",
            start.ended or "killed, or still at work",
            start.counts.get("rows", 0),
            duration(start.seconds),
            _hours(start.cpu_seconds),
        )
        for start in starts[-_MOST_STARTS:]
    ]
    head = ("began (UTC)", "share", "ended", "rows", "time", "CPU hours")
    return Table(rows=rows, head=head, caption="Starts")


def place(facts: RunFacts) -> list[Section]:
    """What ran where, the recipe's acceptance test, and the settings."""
    latest = facts.starts[-1] if facts.starts else None
    machine = _machine(facts.starts) if facts.starts else []
    blocks: list[Block] = [
        Table(rows=[*_model(latest), *_devices(facts)], caption="Model and device"),
        Table(rows=machine, caption="Machine"),
    ]
    note = "" if latest else f"{_NO_STARTS} the model, its recipe and the machine."
    sections = [Section("What ran where", blocks, note)]
    if latest and (gate := latest.model.get("gate")):
        sections.append(acceptance(gate, str(latest.model.get("recipe", ""))))
    return [*sections, Section("Settings", [Table(rows=_settings(facts))])]


def _model(start: Start | None) -> list[tuple[str, object]]:
    if start is None:
        return []
    model, source = start.model, start.model.get("source", {})
    checkpoint = [str(source.get("model", "")), str(source.get("revision", ""))[:12]]
    return [
        ("bundle", model.get("name", "")),
        ("checkpoint", " at ".join(filter(None, checkpoint))),
        ("recipe", model.get("recipe", "")),
    ]


_RAN = {"runtime": "ONNX Runtime", "gpu": "GPU", "cuda": "CUDA", "cudnn": "cuDNN"}


def _devices(facts: RunFacts) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for ran in facts.ran:
        several = f" ({ran['parts']:,} parts)" if len(facts.ran) > 1 else ""
        rows += [(_RAN.get(name, name), f"{value}{several}") for name, value in ran.items()
                 if name != "parts"]  # fmt: skip
    return rows


def _machine(starts: Sequence[Start]) -> list[tuple[str, object]]:
    latest, settings = starts[-1].machine, starts[-1].settings
    names = dict.fromkeys(str(start.machine.get("cpu", "")) for start in starts)
    versions = latest.get("versions", {})
    return [
        ("CPU", ", ".join(names)),
        ("features", ", ".join(latest.get("cpu_features", ()))),
        ("cores", latest.get("cores")),
        ("workers × threads", f"{settings.get('workers')} × {settings.get('threads')}"),
        ("Python", latest.get("python")),
        *versions.items(),
    ]


def _settings(facts: RunFacts) -> list[tuple[str, object]]:
    named = ((name.replace("_", " "), value) for name, value in _flat(facts.settings).items())
    return [*named, ("fingerprint", facts.fingerprint)]


def _flat(settings: Mapping[str, Any]) -> dict[str, object]:
    """Settings that are not empty, and those of the task after the run's."""
    options = settings.get("options", {})
    every = {**{n: v for n, v in settings.items() if n != "options"}, **options}
    return {name: value for name, value in every.items() if value not in ("", None, [], {}, 0)}
