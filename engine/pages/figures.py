"""Figures drawn by matplotlib, as SVG that takes the colours and the font of the page."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np

from engine.pages.blocks import Bars, Figure, Grid, Histogram, Intervals, Lines, Points
from engine.pages.svg import INK, MUTED, RULE, SERIES, embedded
from engine.printable import printable

EXTRA = 'pip install "corpus-engine[report]"'
WIDTH = 440
"""Units of a figure's width, about a pixel each where two stand beside each other."""
MOST_BARS, MOST_CELLS, MOST_POINTS = 30, 16, 1500
_BAR, _HEIGHT, _TEXT = 24, 200, 11
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "engine", "text.parse_math": False,
    "font.size": _TEXT, "text.color": INK, "axes.edgecolor": RULE, "axes.linewidth": 1,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED, "axes.titlesize": _TEXT, "axes.labelsize": _TEXT,
    "axes.titlelocation": "left", "axes.titleweight": "normal", "axes.unicode_minus": False,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": _TEXT, "ytick.labelsize": _TEXT, "grid.color": RULE, "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": _TEXT, "legend.labelcolor": INK,
    "lines.linewidth": 1.6, "path.simplify": True,
}  # fmt: skip
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@cache
def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(figure: Figure, prefix: str) -> str:
    """A figure as an SVG element; `prefix` goes before the names in it."""
    with _canvas(_height(figure)) as (canvas, axes):
        _DRAWN[type(figure)](axes, figure)
        text = StringIO()
        canvas.savefig(text, format="svg", metadata=_NO_METADATA)
    return embedded(text.getvalue(), prefix, printable(figure.caption, 200))


@contextmanager
def _canvas(height: int) -> Iterator[tuple[Any, Any]]:
    """An empty figure with its axes; whatever a user has set for matplotlib does not count."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that its own font lacks the page's has
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        canvas = Canvas(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        yield canvas, canvas.subplots()


def _height(figure: Figure) -> int:
    if isinstance(figure, (Bars, Intervals)):
        extra = 28 if isinstance(figure, Intervals) else 8
        return _BAR * min(len(figure.names), MOST_BARS) + extra
    if isinstance(figure, Grid):
        return 60 + 26 * min(len(figure.rows), MOST_CELLS)
    return 300 if isinstance(figure, Points) else _HEIGHT


def _bars(axes: Any, figure: Bars) -> None:
    count = min(len(figure.names), MOST_BARS)
    values = np.asarray(figure.values[:count], float)
    axes.barh(range(count), values, height=0.62, color=SERIES[0])
    most = max(float(np.nanmax(values, initial=0)), 1e-12)
    for place, value in enumerate(values):
        text = f"{number(value)} {figure.unit}".rstrip()
        axes.text(max(value, 0) + most * 0.015, place, text, va="center", color=INK)
    axes.set_xlim(min(0.0, float(np.nanmin(values, initial=0))), most * 1.28)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    _names(axes, figure.names[:count])


def _names(axes: Any, names: Sequence[str]) -> None:
    """Names at the left, from top to bottom."""
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _histogram(axes: Any, figure: Histogram) -> None:
    edges, counts = np.asarray(figure.edges, float), np.asarray(figure.counts)
    gap = np.diff(edges) * 0.06
    axes.bar(edges[:-1] + gap, counts, np.diff(edges) - 2 * gap, align="edge", color=SERIES[0])
    axes.set_xlabel(shortened(figure.unit, 48))
    axes.set_xlim(edges[0], edges[-1])
    _scaled(axes)


def _lines(axes: Any, figure: Lines) -> None:
    for colour, (name, values) in zip(_colours(), figure.series.items(), strict=False):
        axes.plot(figure.x, values, color=colour, label=shortened(name))
    if len(figure.series) > 1:
        axes.legend(loc="best", handlelength=1.2)
    else:
        for values in figure.series.values():
            axes.fill_between(figure.x, 0, values, color=SERIES[0], alpha=0.14, linewidth=0)
    every = np.concatenate([np.asarray(v, float) for v in figure.series.values()] or [np.zeros(1)])
    if np.nanmin(every, initial=0) >= 0:
        axes.set_ylim(0, (float(np.nanmax(every, initial=0)) or 1.0) * 1.06)
    if len(figure.x) > 1 and figure.x[0] < figure.x[-1]:
        axes.set_xlim(figure.x[0], figure.x[-1])
    axes.set_xlabel(shortened(figure.x_unit, 48))
    axes.set_title(shortened(figure.unit, 48))
    _scaled(axes)


def _scaled(axes: Any) -> None:
    """Few marks with short numbers, and lines across."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis, count in ((axes.xaxis, 6), (axes.yaxis, 4)):
        low, high = axis.get_view_interval()
        digits = _digits(low, high)
        axis.set_major_locator(MaxNLocator(count, steps=(1, 2, 2.5, 5, 10)))
        axis.set_major_formatter(FuncFormatter(lambda value, _, n=digits: number(value, n)))
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _digits(low: float, high: float) -> int:
    """Digits by which marks from one value to another differ."""
    span, size = abs(high - low), max(abs(low), abs(high))
    return 4 if span <= 0 or size <= 0 else max(4, math.ceil(math.log10(size / span)) + 3)


def _points(axes: Any, figure: Points) -> None:
    every = max(1, math.ceil(len(figure.x) / MOST_POINTS))
    x, y = (np.asarray(values, float)[::every] for values in (figure.x, figure.y))
    groups = np.asarray(figure.groups[::every] if figure.groups else [""] * len(x), object)
    names = sorted(set(groups), key=lambda name: -int((groups == name).sum()))
    for number_, name in enumerate(names):
        mine = groups == name if number_ < len(SERIES) - 1 else np.isin(groups, names[number_:])
        rest = number_ == len(SERIES) - 1 and len(names) > len(SERIES)
        label = "others" if rest else shortened(str(name))
        axes.plot(
            x[mine], y[mine], "o", markersize=3.2, markeredgewidth=0, alpha=0.6,
            color=SERIES[number_], label=label,
        )  # fmt: skip
        if number_ == len(SERIES) - 1:
            break
    if len(names) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=0.6, markerscale=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(True)


def _grid(axes: Any, figure: Grid) -> None:
    from matplotlib.patches import Rectangle

    counts = np.asarray(figure.counts)[:MOST_CELLS, :MOST_CELLS]
    sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for (row, column), count in np.ndenumerate(counts):
        share = float(count / sums[row, 0])
        cell = (column - 0.48, row - 0.46)
        axes.add_patch(Rectangle(cell, 0.96, 0.92, color=SERIES[0], alpha=0.06 + 0.5 * share, lw=0))
        axes.text(column, row, number(float(count)), ha="center", va="center", color=INK)
    rows, columns = (names[:MOST_CELLS] for names in (figure.rows, figure.columns))
    _names(axes, rows)
    turn = 90 if len(columns) * max(map(len, columns), default=0) > 46 else 0
    axes.set_xticks(range(len(columns)), [shortened(name, 14) for name in columns], rotation=turn)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
    for side in axes.spines.values():
        side.set_visible(False)


def _intervals(axes: Any, figure: Intervals) -> None:
    count = len(figure.names)
    axes.hlines(range(count), figure.lows, figure.highs, color=SERIES[0], linewidth=5, alpha=0.35)
    axes.plot(figure.values, range(count), "o", color=SERIES[0], markersize=7)
    for place, value in enumerate(figure.values):
        place_ = {"x": 1, "y": place, "transform": axes.get_yaxis_transform()}
        axes.text(**place_, s=f"{value:.4f}", va="center", ha="right", color=INK)
    low, high = min(figure.lows, default=0.0), max(figure.highs, default=1.0)
    room = max(2 * (high - low), 0.002)
    low, high = max(0.0, low - room), min(1.0, high + room)
    axes.set_xlim(low, high + 0.16 * (high - low))
    _scaled(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    _names(axes, figure.names)


_DRAWN: dict[type[Figure], Callable[[Any, Any], None]] = {
    Bars: _bars, Histogram: _histogram, Lines: _lines, Points: _points, Grid: _grid,
    Intervals: _intervals,
}  # fmt: skip


def _colours() -> Iterator[str]:
    while True:
        yield from SERIES


def number(value: float, digits: int = 4) -> str:
    """A number at a mark: 0.25, 1,500, 12k or 3.4M."""
    size = abs(value)
    if size < 10_000:
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{digits}g}"
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= one:
            return f"{value / one:.{digits - 1}g}{unit}"
    return f"{value:.3g}"


def shortened(name: str, longest: int = 26) -> str:
    """A name in few letters, those that act on a page escaped."""
    shown = printable(name, 200)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
