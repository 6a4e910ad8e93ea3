"""Figures as tables, for a page that is made without matplotlib."""

from __future__ import annotations

from engine.pages.blocks import Bars, Figure, Grid, Histogram, Intervals, Lines, Points, Table

_ROWS = 25


def as_table(figure: Figure) -> Table:
    """The values of a figure; a series has about `_ROWS` of its points, and a cloud of points only
    their number."""
    head, rows = _content(figure)
    return Table(rows=rows, head=head, caption=figure.caption)


def has_values(figure: Figure) -> bool:
    """Whether there is something to draw."""
    match figure:
        case Bars(names=values) | Intervals(names=values) | Grid(rows=values):
            return len(values) > 0
        case Histogram(counts=counts):
            return len(counts) > 0
        case Lines(x=x) | Points(x=x):
            return len(x) > 0


def _content(figure: Figure) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    match figure:
        case Bars(names=names, values=values, unit=unit):
            return ("", unit or "value"), list(zip(names, values, strict=True))
        case Histogram(edges=edges, counts=counts, unit=unit):
            head = (f"from {unit}".rstrip(), "to", "count")
            return head, list(zip(edges, edges[1:], counts, strict=False))
        case Lines(x=x, series=series, x_unit=x_unit):
            rows = list(zip(x, *series.values(), strict=True))
            return (x_unit, *series), rows[:: max(1, len(rows) // _ROWS)]
        case Points(x=x):
            return (), [("points", len(x))]
        case Grid(rows=names, columns=columns, counts=counts):
            return ("", *columns), [(n, *row) for n, row in zip(names, counts, strict=True)]
        case Intervals(names=names, values=values, lows=lows, highs=highs):
            return ("", "value", "from", "to"), list(zip(names, values, lows, highs, strict=True))
