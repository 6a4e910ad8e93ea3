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
from engine.demo import BUNDLE
from engine.pages import figures

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
    assert {"table", "style"} <= set(page.tags)
    assert ("svg" in page.tags) == figures.available()
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


def test_what_both_runs_record_is_shown(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": 1, "text": "uno"}\n{"id": 2, "text": "dos"}\n')
    for out in "ab":
        words = ["run", str(BUNDLE), str(rows), "-o", str(tmp_path / out), "--keep", "id"]
        assert CliRunner().invoke(app, words).exit_code == 0
    page = tmp_path / "diff.html"
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(page)]
    assert CliRunner().invoke(app, words).exit_code == 0
    text = page.read_text("utf-8")
    for shown in ("Rows a second of CPU time", "A (fp32)", "cpu seconds"):
        assert shown in text
