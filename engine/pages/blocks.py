"""What a page is made of: sections of tables and figures, as plain values. Nothing here draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A figure that is read first. `note` is a word or two below it; `warns` has it stand out."""

    name: str
    value: object
    note: str = ""
    warns: bool = False


@dataclass(frozen=True)
class Tiles:
    """Key figures beside each other."""

    tiles: Sequence[Tile]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Values in rows; `head` has the names of the columns, or is () for pairs of name and value."""

    rows: Sequence[Sequence[object]]
    head: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A bar for each name, in the order given."""

    names: Sequence[str]
    values: Sequence[float]
    unit: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges: `counts[i]` of the values in `edges[i]` to `edges[i + 1]`."""

    edges: Sequence[float]
    counts: Sequence[int]
    unit: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Series over a common `x`, each of its length; NaN leaves a gap."""

    x: Sequence[float]
    series: Mapping[str, Sequence[float]]
    x_unit: str = ""
    unit: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of a plane; those of one group have one colour, () for one group."""

    x: Sequence[float]
    y: Sequence[float]
    groups: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Counts of pairs: `counts[i][j]` of row `i` and column `j`, such as truths and answers."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Estimates from 0 to 1 with their intervals: `lows[i]` <= `values[i]` <= `highs[i]`."""

    names: Sequence[str]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    caption: str = ""


Figure = Bars | Histogram | Lines | Points | Grid | Intervals
Block = Tiles | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two of plain text below it, and what is shown."""

    title: str
    blocks: Sequence[Block] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page: what a person reads first, and sections in order."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
