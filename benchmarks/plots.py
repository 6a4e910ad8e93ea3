"""SVG plots of a result: ratios, throughput by batch size, time by stage.

Written by hand, so that the same result always gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from result import MARK, Part, best, contestants, marked, measured, peers, two_digits, variant

WIDTH = 760
_INK, _FAINT, _GRID = "#222222", "#666666", "#d8d8d8"
_WIN, _LOSS = "#0072b2", "#d55e00"
# Fill and ink: colours that the colour-blind tell apart.
_PALETTE = (
    ("#009e73", "#ffffff"), ("#e69f00", "#222222"), ("#cc79a7", "#222222"), ("#0072b2", "#ffffff"),
    ("#56b4e9", "#222222"), ("#d55e00", "#ffffff"), ("#666666", "#ffffff"),
)  # fmt: skip
_ROW = 22


def plots(result: Part, folder: Path) -> list[Path]:
    """Write those of `ratios.svg`, `budget.svg` and `stages.svg` that there are figures for.

    Returns:
        The files written, in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workloads = measured(result)
    files = []
    for name, draw in (("ratios", _ratios), ("budget", _budget), ("stages", _stages)):
        if svg := draw(workloads):
            files.append(folder / f"{name}.svg")
            files[-1].write_text(svg, encoding="utf-8")
    return files


# Longer bars are cut off: the others would be too short to read.
_FARTHEST = 64.0


@dataclass(frozen=True)
class _Bar:
    """A peer, the engine's best variant, the ratio between them and its range over the rounds."""

    peer: str
    variant: str
    ratio: float
    low: float
    high: float

    @property
    def label(self) -> str:
        return f"{two_digits(self.ratio)} {self.variant}"


@dataclass(frozen=True)
class _Scale:
    """Ratios to x coordinates, logarithmic: 2^low at left, 2^high at right."""

    low: int
    high: int
    left: float
    right: float

    def at(self, ratio: float) -> float:
        power = math.log2(max(ratio, _FARTHEST**-1))
        share = (power - self.low) / (self.high - self.low)
        return self.left + min(1.0, share) * (self.right - self.left)


def _ratios(workloads: Mapping[str, Part]) -> str:
    """Bars from 1 on a logarithmic scale: half as fast is as far from it as twice as fast."""
    groups = {name: bars for name, w in workloads.items() if (bars := _bars(w))}
    if not groups:
        return ""
    scale = _scale([bar for bars in groups.values() for bar in bars])
    body = _title("Times faster than each peer", "The engine's best variant. Left of 1 it loses.")
    body += _names([("engine faster", _WIN), ("engine slower", _LOSS)], 12, 66)
    bars_drawn: list[str] = []
    y = 78.0
    for name, bars in groups.items():
        bars_drawn.append(_text(12, y + 20, name, weight="bold"))
        y += 24
        for bar in bars:
            bars_drawn += _bar(bar, scale, y := y + _ROW)
        y += 10
    for power in range(scale.low, scale.high + 1):
        x = scale.at(2.0**power)
        label = f"1/{2**-power}" if power < 0 else f"{2**power}"
        body += [_line(x, 84, x, y, _GRID if power else _INK)]
        body += [_text(x, y + 16, label, anchor="middle", fill=_FAINT)]
    legend = f"Thin lines: all rounds. {MARK} has answers that differ from the reference's."
    note = _text(12, y + 40, legend, fill=_FAINT)
    return _svg([*body, *bars_drawn, note], y + 54)


def _bars(workload: Part) -> list[_Bar]:
    """The hardest peer first."""
    timed = contestants(workload)
    pairs = [(peer, best(workload, peer)) for peer in peers(workload)]
    bars = [
        _Bar(
            marked(peer, timed[peer]),
            marked(variant(engine[0]), timed[engine[0]]),
            engine[1]["median"],
            *_ends(engine[1]),
        )
        for peer, engine in pairs
        if engine
    ]
    return sorted(bars, key=lambda bar: bar.ratio)


def _ends(ratio: Part) -> tuple[float, float]:
    each = [*ratio.get("rounds", ()), ratio["median"]]
    return min(each), max(each)


def _scale(bars: Sequence[_Bar]) -> _Scale:
    """Whole powers of two around all bars, beyond 1 on both sides."""
    low = math.floor(math.log2(max(_FARTHEST**-1, min(0.71, *(bar.low for bar in bars)))))
    high = math.ceil(math.log2(min(_FARTHEST, max(1.41, *(bar.high for bar in bars)))))
    left = 24 + max(_width(bar.peer) for bar in bars)
    return _Scale(low, high, left, WIDTH - 24 - max(_width(bar.label) for bar in bars))


def _bar(bar: _Bar, scale: _Scale, y: float) -> list[str]:
    """One peer's name, bar, range of rounds and ratio, which stands clear of the range."""
    one, end = scale.at(1), scale.at(bar.ratio)
    colour, weight = (_LOSS, "bold") if bar.ratio < 1 else (_WIN, "normal")
    return [
        _text(scale.left - 12, y, bar.peer, anchor="end"),
        _rect(min(one, end), y - 12, max(1.0, abs(end - one)), 15, colour),
        _line(scale.at(bar.low), y - 4.5, scale.at(bar.high), y - 4.5, _INK),
        _text(max(scale.at(bar.high), one) + 7, y, bar.label, weight=weight, halo=True),
    ]


def _budget(workloads: Mapping[str, Part]) -> str:
    """Throughput against batch budget, a panel for each workload that was swept."""
    panels = [
        (name, points) for name, w in workloads.items() if (points := _points(w.get("sweep", ())))
    ]
    if not panels:
        return ""
    body = _title("Throughput and batch budget", "The engine's speed at each batch_tokens.")
    for n, (name, points) in enumerate(panels):
        body += _panel(name, points, 64 + 270 * n)
    return _svg(body, 64 + 270 * len(panels))


def _points(sweep: Sequence[Part]) -> dict[str, dict[int, float]]:
    """{line: {budget: tokens a second}}, without settings that failed."""
    lines: dict[str, dict[int, float]] = {}
    for entry in sweep:
        if speed := entry.get("tokens_per_second"):
            workers, threads = entry.get("workers", 1), entry.get("threads", 1)
            label = f"{_count(workers, 'worker')} × {_count(threads, 'thread')}"
            lines.setdefault(label, {})[entry["batch_tokens"]] = speed
    return lines


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _panel(name: str, lines: Mapping[str, Mapping[int, float]], top: float) -> list[str]:
    budgets = sorted({budget for points in lines.values() for budget in points})
    left, right, bottom = 110.0, WIDTH - 24.0, top + 226
    step = _step(max(max(points.values()) for points in lines.values()))
    highest = step * math.ceil(max(max(p.values()) for p in lines.values()) / step)

    def at(budget: int, speed: float) -> tuple[float, float]:
        share = (budgets.index(budget) + 0.5) / len(budgets)
        return left + share * (right - left), bottom - speed / highest * (bottom - top - 40)

    drawn = [_text(12, top + 8, name, weight="bold")]
    colours = [_PALETTE[n % len(_PALETTE)][0] for n in range(len(lines))]
    drawn += _names(list(zip(lines, colours, strict=True)), 40 + _width(name), top + 8)
    for n in range(round(highest / step) + 1):
        y = at(budgets[0], n * step)[1]
        drawn += [_line(left, y, right, y, _GRID)]
        drawn += [_text(left - 8, y + 4, f"{n * step:,.6g}", anchor="end", fill=_FAINT)]
    drawn += [_text(left - 8, top + 30, "tokens/s", anchor="end", fill=_FAINT)]
    drawn += [_text(left - 8, bottom + 18, "batch_tokens", anchor="end", fill=_FAINT)]
    for budget in budgets:
        x = at(budget, 0)[0]
        drawn += [_text(x, bottom + 18, f"{budget:,}", anchor="middle", fill=_FAINT)]
    for points, colour in zip(lines.values(), colours, strict=True):
        dots = [at(budget, points[budget]) for budget in budgets if budget in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        drawn += [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in dots]
    return drawn


def _step(highest: float) -> float:
    """A round step that gives three to six lines."""
    power = 10.0 ** math.floor(math.log10(highest / 3))
    return max((m * power for m in (1, 2, 2.5, 5) if m * power <= highest / 3), default=power)


def _stages(workloads: Mapping[str, Part]) -> str:
    """Each workload's stages as shares of its total, since totals are far apart."""
    seconds_of = {n: w["stages"] for n, w in workloads.items() if sum(w.get("stages", {}).values())}
    if not seconds_of:
        return ""
    stages = list(dict.fromkeys(stage for each in seconds_of.values() for stage in each))
    styles = {stage: _PALETTE[n % len(_PALETTE)] for n, stage in enumerate(stages)}
    left = 24 + max(map(_width, seconds_of))
    right = WIDTH - 80.0
    body = _title("Time by stage", "The engine's seconds at work: stages overlap, workers add up.")
    body += _names([(stage, styles[stage][0]) for stage in stages], 12, 66)
    for n, (name, seconds) in enumerate(seconds_of.items()):
        y, total, x = 86 + 34.0 * n, sum(seconds.values()), left + 12
        body += [_text(left, y + 17, name, anchor="end", weight="bold")]
        for stage, spent in seconds.items():
            width = (right - left - 12) * spent / total
            fill, ink = styles[stage]
            body += [_rect(x, y, width, 24, fill)] if spent else []
            if width > _width(f"{spent:.2f}") + 6:
                body += [_text(x + width / 2, y + 17, f"{spent:.2f}", anchor="middle", fill=ink)]
            x += width
        body += [_text(right + 8, y + 17, f"{total:.2f} s")]
    return _svg(body, 86 + 34 * len(seconds_of) + 10)


def _names(entries: Sequence[tuple[str, str]], x: float, y: float) -> list[str]:
    """A legend in one line."""
    drawn = []
    for name, colour in entries:
        drawn += [_rect(x, y - 10, 12, 12, colour), _text(x + 17, y, name)]
        x += 17 + _width(name) + 18
    return drawn


def _title(title: str, subtitle: str) -> list[str]:
    return [_text(12, 24, title, weight="bold", size=15), _text(12, 42, subtitle, fill=_FAINT)]


def _width(text: str, size: int = 12) -> float:
    """An upper estimate of a text's width in pixels: fonts differ from reader to reader."""
    return 0.62 * size * len(text)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = _INK,
    weight: str = "normal",
    size: int = 12,
    halo: bool = False,
) -> str:
    """Text with its baseline at y; a halo keeps it readable across lines."""
    attributes = f'fill="{fill}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    if halo:
        attributes += ' stroke="#ffffff" stroke-width="3" paint-order="stroke"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1"/>'


def _svg(body: Sequence[str], height: float) -> str:
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    font = quoteattr("system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family={font}>'
    return "\n".join([head, _rect(0, 0, WIDTH, height, "#ffffff"), *body, "</svg>"]) + "\n"
