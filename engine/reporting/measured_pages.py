"""Pages of what was measured: engine bench and engine tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.bench.profile import Profile
from engine.bench.sweep import Machine, Sweep, SweepPoint, Timing
from engine.bundle.tuned import Tuned
from engine.pages.blocks import Bars, Block, Page, Section, Table, Tile, Tiles

_OPERATORS = 16


def bench_page(measured: Sweep, machine: Machine, profile: Profile | None) -> Page:
    """What `engine bench` found."""
    sections = [_overview(measured, _best_timing(measured)), _sweep(measured), _stages(measured)]
    if profile:
        sections.append(_profile(profile))
    return _page(measured, [*sections, _machine(machine)], "bench")


def tune_page(settings: Tuned, measured: Sweep, machine: Machine) -> Page:
    """What `engine tune` found, and what it has saved."""
    saved: list[tuple[str, object]] = [
        ("workers", settings.workers),
        ("threads of each", settings.threads),
        ("tokens of a batch", settings.batch_tokens),
        ("speed of the defaults", f"{settings.speed:.2f} times"),
        ("rows", settings.sample),
    ]
    tiles = Tile("beside the defaults", f"{settings.speed:.2f} ×", "times as fast")
    sections = [
        _overview(measured, _best_timing(measured), tiles),
        Section("Saved", [Table(rows=saved)], "engine run uses these unless it is given any."),
        _sweep(measured),
        _stages(measured),
    ]
    return _page(measured, [*sections, _machine(machine)], "tune")


def _page(measured: Sweep, sections: Sequence[Section], what: str) -> Page:
    name = measured.bundle.rstrip("/").rpartition("/")[2]
    return Page(f"{name}: engine {what}", sections, f"{measured.task}, on {measured.device}")


def _best_timing(measured: Sweep) -> Timing:
    return next(timing for timing in measured.sweep if _point(timing) == measured.best)


def _point(timing: Timing) -> SweepPoint:
    return SweepPoint(timing["batch_tokens"], timing["workers"], timing["threads"])


def _overview(measured: Sweep, best: Timing, *more: Tile) -> Section:
    """The fastest point and what it takes."""
    tiles = [
        Tile("rows", measured.rows, f"{measured.tokens / measured.rows:.1f} tokens a row"),
        Tile("rows/s", best["rows_per_second"], "at the fastest point"),
        Tile("tokens/s", round(best["tokens_per_second"]), "at the fastest point"),
        *more,
        Tile("padding", f"{measured.padding:.2f}", "padded tokens for each"),
        Tile("load", f"{measured.startup_seconds:.2f} s"),
        Tile("first answer", f"{measured.first_answer_seconds:.2f} s", "with loading"),
        Tile("peak memory", f"{measured.peak_bytes / 2**20:,.0f} MiB"),
    ]
    bad = [Tile("bad rows", measured.rejected, "left out", True)] if measured.rejected else []
    cut = [Tile("truncated", measured.truncated)] if measured.truncated else []
    return Section("", [Tiles([*tiles, *bad, *cut])])


def _sweep(measured: Sweep) -> Section:
    """Every point: its speed as a bar, all figures as a table."""
    timed = [timing for timing in measured.sweep if "seconds" in timing]
    names = [_name(timing) + " *" * (_point(timing) == measured.best) for timing in timed]
    speeds = [round(timing["tokens_per_second"]) for timing in timed]
    head = ("tokens", "workers", "threads", "seconds", "of the rounds", "rows/s", "tokens/s")
    tuned = ("beside the defaults", "") if any("ratio" in timing for timing in timed) else ("",)
    rows = [_row(timing, len(tuned)) for timing in measured.sweep]
    blocks: list[Block] = [
        Bars(names=names, values=speeds, unit="tokens/s", caption="Speed of each point"),
        Table(rows=rows, head=(*head, *tuned), caption="All points"),
    ]
    note = "The fastest is marked *. Figures vary by 20 to 30% on a machine that others use, too."
    return Section("Batch sizes and workers", blocks, note)


def _name(timing: Timing) -> str:
    return f"{timing['batch_tokens']:,} tokens, {timing['workers']} × {timing['threads']}"


def _row(timing: Timing, more: int) -> tuple[object, ...]:
    point = (timing["batch_tokens"], timing["workers"], timing["threads"])
    if "seconds" not in timing:
        nothing = (None,) * (3 + more)
        return (*point, *nothing, f"failed: {timing.get('failed', '')}")
    rounds = timing["rounds"]
    spread = f"{min(rounds):.2f} to {max(rounds):.2f}"
    speeds = (round(timing["rows_per_second"], 1), round(timing["tokens_per_second"]))
    beside = (timing.get("ratio"), timing.get("difference", ""))
    return (*point, round(timing["seconds"], 2), spread, *speeds, *(beside if more > 1 else ("",)))


def _stages(measured: Sweep) -> Section:
    values = [round(seconds, 2) for seconds in measured.stages.values()]
    bars = Bars(names=list(measured.stages), values=values, unit="s",
                caption="Time at work by stage")  # fmt: skip
    return Section("Where the time went", [bars], "At the fastest point. Stages overlap.")


def _profile(profile: Profile) -> Section:
    """Inference by graph and by operator."""
    graphs: list[tuple[object, ...]] = [
        (g["graph"], g["runs"], f"{g['share']:.1%}") for g in profile.graphs
    ]
    graphs.append(("outside of graphs", None, f"{profile.outside:.1%}"))
    ops = profile.ops[:_OPERATORS]
    blocks: list[Block] = [
        Bars(
            names=[f"{op['op']} ({op['graph']})" for op in ops],
            values=[round(100 * op["share"], 1) for op in ops],
            unit="%",
            caption="Operators, of the time of all operators",
        ),
        Table(rows=graphs, head=("graph", "runs", "of inference"), caption="Graphs"),
        Table(rows=_decoder(profile), caption="Decoder"),
    ]
    return Section("Inference", blocks, f"{profile.rows:,} rows, with ONNX Runtime's profiler.")


def _decoder(profile: Profile) -> list[tuple[str, str]]:
    rows = []
    if profile.first_token_seconds is not None:
        rows.append(("first token, with loading", f"{profile.first_token_seconds:.2f} s"))
    if profile.occupancy is not None:
        rows.append(("slots occupied", f"{profile.occupancy:.1%}"))
    return rows


def _machine(machine: Mapping[str, Any] | Machine) -> Section:
    rows: list[tuple[str, object]] = [
        ("CPU", machine["cpu"]),
        ("features", ", ".join(machine["cpu_features"])),
        ("cores", machine["cores"]),
        ("Python", machine["python"]),
        *machine["versions"].items(),
    ]
    return Section("Machine", [Table(rows=rows)])
