"""Pages as a browser shows them: at two widths, light and dark, without an error or overflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.browser import CHROMIUM, look
from support.commands import call

from engine.demo import BUNDLE
from engine.pages.blocks import Bars, Grid, Lines, Page, Section, Table, Tile, Tiles
from engine.pages.page import draw

if not CHROMIUM:
    pytest.skip("no Chromium is installed", allow_module_level=True)
pytest.importorskip("matplotlib")

LONG = "a-name-without-a-place-to-break/" * 9
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(18, 20, 23)"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages of a run and of a comparison, and one of long names."""
    folder = tmp_path_factory.mktemp("pages")
    rows = folder / f"{LONG[:200].replace('/', '-')}.jsonl"
    texts = [json.dumps({"id": n, "text": "dos mil" * (n % 3)}) for n in range(300)]
    rows.write_text("\n".join([*texts, '{"text": null}', ""]))
    for out, length in (("a", 64), ("b", 3)):
        words = ["run", BUNDLE, rows, "-o", folder / out, "--max-new-tokens", length]
        words += ["--keep", "all", "--on-error", "reject", "--report", folder / f"{out}.html"]
        assert call(*words).returncode == 3
    words = ["compare", folder / "a", folder / "b", "--examples", 3, "-o", folder / "c.html"]
    assert call(*words).returncode == 0
    made = {name: (folder / f"{name}.html").read_text("utf-8") for name in "ac"}
    return {"run": made["a"], "comparison": made["c"], "long names": long_names()}


def long_names() -> str:
    cells = [[LONG, 123456789, 0.123456789] for _ in range(3)]
    blocks = [
        Tiles([Tile(LONG, LONG, LONG), Tile("rows", 10**15)]),
        Table(rows=cells),
        Table(rows=[[*row, *row, *row] for row in cells], head=[LONG[:40]] * 9, caption=LONG),
        Bars(names=[LONG, "b"], values=[1e9, 1], unit="rows", caption=LONG),
        Lines(x=[0, 1e9], series={LONG: [1e9, 0], "b": [0, 1]}, x_unit="s", unit=LONG[:60]),
        Grid(rows=[LONG] * 9, columns=[LONG] * 9, counts=[[10**9] * 9] * 9),
    ]
    return draw(Page(LONG, [Section(LONG, blocks, LONG)], LONG))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("name", ["run", "comparison", "long names"])
def test_a_page_fits_its_window_in_both_colours(
    pages: dict[str, str], name: str, width: int, dark: bool
) -> None:
    seen = look(pages[name], width, dark=dark)
    assert seen.console == []
    assert seen.width == width
    assert seen.content <= width
    assert seen.wide == []
    assert seen.background == (DARK if dark else LIGHT)
    assert seen.texts
    assert seen.background not in seen.texts
    assert seen.smallest >= 9


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        ("<script>console.error('broken')</script>", "console"),
        ("<script>nothing.at.all()</script>", "console"),
        ('<p style="width:2000px">wide</p>', "wide"),
    ],
)
def test_what_is_wrong_is_seen(wrong: str, seen: str, tmp_path: Path) -> None:
    page = draw(Page("t", [Section("s", [Tiles([Tile("a", 1)])])]))
    found = look(page.replace("</main>", f"{wrong}</main>"), 400, dark=False)
    assert getattr(found, seen)
