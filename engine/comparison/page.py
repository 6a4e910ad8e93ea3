"""A comparison as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.pages.blocks import Bars, Block, Grid, Intervals, Page, Section, Table, Tile, Tiles

_NAMES = 40
"""Characters of a label in the name of a bar."""
_GRID = 12
"""Labels of a grid at most."""


def page(found: Mapping[str, Any]) -> Page:
    """The page of a comparison.

    Args:
        found: `Comparison.to_dict`; it has texts of rows only where examples were asked for.
    """
    a, b = (str(found["sides"][side]["path"]) for side in "ab")
    sections = [
        Section("", _overview(found)),
        Section("Rows", [Table(rows=_rows(found)), *_confused(found["figures"])]),
        Section("Figures", _figures(found)),
        Section("Speed and size", [*_speeds(found["sides"]), _sides(found["sides"])]),
        Section("Differ most", [_examples(found["differ_most"])]),
    ]
    there = [section for section in sections if any(map(_is_filled, section.blocks))]
    return Page(f"{_last(a)} and {_last(b)}: {found['kind']}", there, f"A is {a}, B is {b}")


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path


def _is_filled(block: Block) -> bool:
    return not isinstance(block, Table) or bool(block.rows)


def _overview(found: Mapping[str, Any]) -> list[Block]:
    """The agreement, what of it is sure, and how fast and large both sides are."""
    agreement = found["agreement"]
    low, high = found["interval"]
    tiles = [
        Tile("rows compared", found["rows"]),
        Tile("agreement", _ratio(agreement), f"95%: {_ratio(low)} to {_ratio(high)}"),
        Tile("agreement of all rows", _ratio(found["agreement_of_all"])),
        *_truths(found["truth"]),
    ]
    blocks: list[Block] = [Tiles(tiles)]
    if agreement is not None:
        blocks.append(
            Intervals(
                names=["agreement"],
                values=[max(0.0, agreement)],
                lows=[max(0.0, low)],
                highs=[max(0.0, high)],
                caption="Agreement, and where 95% of draws with replacement have it",
            )
        )
    return blocks


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _truths(truth: Mapping[str, Any]) -> list[Tile]:
    """How right each side is, where truths are given."""
    return [
        Tile(f"accuracy of {side.upper()}", _ratio(truth[f"accuracy_{side}"]))
        for side in "ab"
        if f"accuracy_{side}" in truth
    ]


def _rows(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    counts = {**found["unpaired"], "null_a": found["null_a"], "null_b": found["null_b"]}
    return [
        ("compared", found["rows"]),
        ("paired by", found["paired_by"]),
        *((name.replace("_", " "), count) for name, count in counts.items() if count),
    ]


def _confused(figures: Mapping[str, Any]) -> list[Block]:
    pairs: Sequence[Mapping[str, Any]] = figures.get("confused_most", ())
    grid = _grid(figures.get("confusion", ()))
    if not pairs:
        return grid
    return [
        *grid,
        Bars(
            names=[f"{str(p['a'])[:_NAMES]} → {str(p['b'])[:_NAMES]}" for p in pairs],
            values=[pair["rows"] for pair in pairs],
            unit="rows",
            caption="Confused most: A → B",
        ),
    ]


def _grid(pairs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """All pairs of labels, where a grid can show them."""
    rows: dict[str, int] = {}
    for pair in pairs:
        for label in (str(pair["a"]), str(pair["b"])):
            rows[label] = rows.get(label, 0) + pair["rows"]
    names = sorted(rows, key=lambda label: -rows[label])
    if not names or len(names) > _GRID:
        return []
    counts = [[0] * len(names) for _ in names]
    for pair in pairs:
        counts[names.index(str(pair["a"]))][names.index(str(pair["b"]))] += pair["rows"]
    return [Grid(rows=names, columns=names, counts=counts, caption="A (downwards) and B")]


def _figures(found: Mapping[str, Any]) -> list[Block]:
    return [
        Table(rows=list(_flat(found["figures"]).items()), caption="Of both sides"),
        Table(rows=list(_flat(found["truth"]).items()), caption="Against truths"),
    ]


def _flat(figures: Mapping[str, Any], before: str = "") -> dict[str, object]:
    """Figures by name, those within others behind their name; no lists."""
    flat: dict[str, object] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name} ")
        elif not isinstance(value, (list, tuple)):
            flat[before + name.replace("_", " ")] = value
    return flat


def _speeds(sides: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Rows of each side for a second of CPU time, where both record it."""
    speeds = [side.get("rows_per_cpu_second") for side in sides.values()]
    if not all(speeds):
        return []
    names = [f"{name.upper()} ({side.get('recipe', '')})" for name, side in sides.items()]
    values = [round(float(speed or 0), 1) for speed in speeds]
    return [Bars(names=names, values=values, unit="rows", caption="Rows a second of CPU time")]


def _sides(sides: Mapping[str, Mapping[str, Any]]) -> Table:
    names = dict.fromkeys(name for side in sides.values() for name in side)
    rows = [
        (name.replace("_", " "), *(side.get(name) for side in sides.values())) for name in names
    ]
    return Table(rows=rows, head=("", "A", "B"))


def _examples(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows that differ most, with what both sides have where that was asked for."""
    has_texts = any("a" in row for row in rows)
    names = ("row", "agreement", *(("a", "b") if has_texts else ()))
    return Table(rows=[[row.get(name, "") for name in names] for row in rows], head=names)
