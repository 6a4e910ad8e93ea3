"""A page as HTML: one file that needs nothing else and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import count, groupby

from engine.pages import figures
from engine.pages.blocks import Block, Page, Section, Table, Tile, Tiles
from engine.pages.cells import is_number, shown
from engine.pages.figure_tables import as_table, has_values
from engine.pages.style import STYLE
from engine.version import __version__

_LONG = 40
"""Characters from which a text may be broken anywhere."""
_WIDE = 3
"""Columns from which a table is as wide as the page."""


def draw(page: Page) -> str:
    """The page as HTML, without a script and without anything from elsewhere.

    Names and texts are escaped: control characters as Python writes them, and addresses lose
    passwords. Where matplotlib is not installed, figures are tables.
    """
    title = shown(page.title)
    names = (f"f{number}-" for number in count(1))
    sections = "".join(_sections(page.sections, names))
    subtitle = f'<p class="subtitle">{shown(page.subtitle)}</p>' if page.subtitle else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f"<body><main><header><h1>{title}</h1>{subtitle}</header>\n{sections}"
        f"<footer>{_footer(page)}</footer></main></body></html>\n"
    )


def _footer(page: Page) -> str:
    has_figures = any(not isinstance(b, (Table, Tiles)) for s in page.sections for b in s.blocks)
    without = f"; figures are tables: {figures.EXTRA} draws them"
    extra = "" if figures.available() or not has_figures else without
    return escape(f"corpus-engine {__version__}{extra}")


def _sections(sections: Sequence[Section], names: Iterator[str]) -> Iterator[str]:
    """All sections; small ones that follow each other stand beside each other."""
    for small, group in groupby(sections, key=_is_small):
        drawn = [_section(section, names) for section in group]
        yield (
            f'<div class="beside">{"".join(drawn)}</div>' if small and drawn[1:] else "".join(drawn)
        )


def _is_small(section: Section) -> bool:
    """Whether a section is one figure and nothing else."""
    alone = len(section.blocks) == 1 and not section.note and bool(section.title)
    return alone and not isinstance(section.blocks[0], (Table, Tiles))


def _section(section: Section, names: Iterator[str]) -> str:
    heading = f"<h2>{shown(section.title)}</h2>" if section.title else ""
    note = f'<p class="note">{shown(section.note)}</p>' if section.note else ""
    drawn = [_block(block, names) for block in section.blocks]
    inside = f'<div class="blocks">{"".join(drawn)}</div>' if any(drawn) else ""
    return f"<section>{heading}{note}{inside}</section>\n"


def _block(block: Block, names: Iterator[str]) -> str:
    if isinstance(block, Tiles):
        return f'<dl class="tiles wide">{"".join(map(_tile, block.tiles))}</dl>'
    if isinstance(block, Table):
        return _table(block)
    if not has_values(block):
        return ""
    if not figures.available():
        return _table(as_table(block))
    caption = f"<figcaption>{_caption(block.caption)}</figcaption>" if block.caption else ""
    return f"<figure>{caption}{figures.draw(block, next(names))}</figure>"


def _caption(text: str) -> str:
    """It stands as a heading does, without a full stop."""
    return shown(text.removesuffix("."))


def _tile(tile: Tile) -> str:
    note = f"<dd>{shown(tile.note)}</dd>" if tile.note else ""
    kind = ' class="warns"' if tile.warns else ""
    value = f'<dd class="value">{shown(tile.value)}</dd>'
    return f"<div{kind}><dt>{shown(tile.name)}</dt>{value}{note}</div>"


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    numbers = _number_columns(table.rows)
    head = "".join(
        f"<th{_kind(numbers, place)}>{shown(name)}</th>" for place, name in enumerate(table.head)
    )
    rows = "".join(f"<tr>{_cells(row, numbers)}</tr>" for row in table.rows)
    above = f"<thead><tr>{head}</tr></thead>" if head else ""
    caption = f'<p class="caption">{_caption(table.caption)}</p>' if table.caption else ""
    long = table.head and any(len(shown(cell)) >= _LONG for row in table.rows for cell in row)
    wide = " wide" if long or max(map(len, table.rows)) > _WIDE else ""
    pairs = "" if head else ' class="pairs"'
    body = f'<div class="scroll"><table{pairs}>{above}<tbody>{rows}</tbody></table></div>'
    return f'<div class="table{wide}">{caption}{body}</div>'


def _number_columns(rows: Sequence[Sequence[object]]) -> set[int]:
    """Columns of numbers, and of nothing in some rows."""
    width = max(map(len, rows))
    columns = ([row[n] for row in rows if n < len(row) and row[n] not in (None, "")]
               for n in range(width))  # fmt: skip
    return {n for n, values in enumerate(columns) if values and all(map(is_number, values))}


def _cells(row: Sequence[object], numbers: set[int]) -> str:
    cells = []
    for place, value in enumerate(row):
        text = shown(value)
        long = "" if len(text) < _LONG else ' class="long"'
        cells.append(f"<td{_kind(numbers, place) or long}>{text}</td>")
    return "".join(cells)


def _kind(numbers: set[int], place: int) -> str:
    return ' class="number"' if place in numbers else ""
