"""The page of a comparison: one file, no script, no text of a row unless it was asked for."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from engine.cli import app

SECRET = "the text of a row"


class Page(HTMLParser):
    """Notes tags, and fails on one that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def outputs(folder: Path, other: str) -> list[str]:
    paths = []
    for name, label in (("a", "yes"), ("b", other)):
        path = folder / f"{name}.parquet"
        columns = {"id": range(9), "label": [label] + ["no"] * 8, "text": [SECRET] * 9}
        pq.write_table(pa.table(columns), path)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("examples", [0, 2])
def test_the_page_is_one_file_without_a_script(tmp_path: Path, examples: int) -> None:
    paths = outputs(tmp_path, "<script>&\x1b")
    words = ["compare", *paths, "--key", "id", "--examples", str(examples)]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "diff.html")])
    assert done.exit_code == 0, done.exception
    text = (tmp_path / "diff.html").read_text("utf-8")
    page = Page()
    page.feed(text)
    assert not page.opened
    assert {"table", "svg", "style"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "http" not in text
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text
    assert "\x1b" not in text
    assert (SECRET in text) == bool(examples)
    assert len(text) < 100_000


def test_a_page_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", "none", "none", "-o", "diff.pdf"])
    assert "a page ends in .html" in str(done.exception)
