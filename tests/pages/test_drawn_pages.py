"""Pages as HTML: what is in them, what is escaped, and that the same values give the same bytes."""

from __future__ import annotations

import math

import pytest
from support.pages import read_page

from engine.pages import figures
from engine.pages.blocks import (
    Bars,
    Figure,
    Grid,
    Histogram,
    Intervals,
    Lines,
    Page,
    Points,
    Section,
    Table,
    Tile,
    Tiles,
)
from engine.pages.page import draw

BAD = "<script>alert('$x_1$')</script>&\x1b[31m\u202e"
FIGURES: list[Figure] = [
    Bars(names=[BAD, "b", "c"], values=[3, 0, math.nan], unit="rows", caption=BAD),
    Histogram(edges=[0, 0.5, 1], counts=[0, 9], unit="score", caption="Scores"),
    Lines(x=[0, 1, 2], series={BAD: [1, math.nan, 3], "b": [0, 0, 0]}, x_unit="s", unit="rows/s"),
    Lines(x=[5], series={"one": [-1]}),
    Points(x=[0, 1], y=[1, 0], groups=[BAD, "b"], caption="Plane"),
    Points(x=range(5000), y=range(5000), groups=[str(n % 9) for n in range(5000)]),
    Grid(rows=[BAD, "b"], columns=["a" * 99, "b"], counts=[[0, 1], [0, 0]], caption="Confused"),
    Grid(rows=list(map(str, range(40))), columns=list("ab"), counts=[[1, 2]] * 40),
    Intervals(names=[BAD], values=[0.5], lows=[0.4], highs=[0.6], caption="Agreement"),
]
NOTHING: list[Figure] = [
    Bars(names=[], values=[]),
    Histogram(edges=[], counts=[]),
    Lines(x=[], series={"none": []}),
    Points(x=[], y=[]),
    Grid(rows=[], columns=[], counts=[]),
    Intervals(names=[], values=[], lows=[], highs=[]),
]


def page(*figures_: Figure) -> Page:
    tiles = Tiles([Tile(BAD, BAD, BAD), Tile("rows", 1234567, warns=True)])
    table = Table(rows=[(BAD, 1, 0.25), ("x" * 9999, None, math.nan)], head=(BAD, "n", "share"))
    empty = Table(rows=[])
    return Page(BAD, [Section(BAD, [tiles, table, empty, *figures_], BAD), Section("")], BAD)


@pytest.mark.parametrize("drawn", [True, False])
def test_a_page_is_one_file_and_escapes_what_it_shows(
    drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if drawn:
        pytest.importorskip("matplotlib")
    monkeypatch.setattr(figures, "available", lambda: drawn)
    text = draw(page(*FIGURES))
    found = read_page(text)
    assert ("svg" in found.tags) == drawn
    assert "\u202e" not in text
    assert "x" * 500 not in text
    assert "1,234,567" in found.texts
    assert any("figures are tables" in shown for shown in found.texts) != drawn


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_figure_of_nothing_is_left_out(nothing: Figure) -> None:
    assert "figure>" not in draw(page(nothing))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_takes_its_colours_from_the_page(figure: Figure) -> None:
    pytest.importorskip("matplotlib")
    svg = figures.draw(figure, "f1-")
    assert "#0" not in svg.replace("url(#", "")
    assert "DejaVu" not in svg
    assert svg == figures.draw(figure, "f1-")


def test_what_a_person_has_set_for_matplotlib_does_not_count() -> None:
    mpl = pytest.importorskip("matplotlib")
    before = figures.draw(FIGURES[2], "f")
    with mpl.rc_context({"axes.grid": True, "font.size": 30, "svg.fonttype": "path"}):
        assert figures.draw(FIGURES[2], "f") == before
        assert mpl.rcParams["font.size"] == 30


def test_numbers_are_aligned_and_read_as_people_write_them() -> None:
    rows = [("a", 1234.0, "1.5 MB"), ("b", 12345.678, "12 MB"), ("c", None, "-")]
    text = draw(Page("t", [Section("s", [Table(rows=rows, head=("n", "v", "size"))])]))
    assert '<td class="number">1,234</td>' in text
    assert '<td class="number">12,346</td>' in text
    assert '<td class="number">–</td>' in text
    assert "<td>1.5 MB</td>" in text  # a dash is no number
