"""What a person at a prompt or in a notebook sees of the package."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import typing
from html.parser import HTMLParser
from pathlib import Path

import pytest

import engine
from engine.core.notebook import facts_table
from engine.demo import BUNDLE

REPORT = engine.Report(
    out="s3://user:secret@bucket/out<b>\x1b", task="translation", device="cpu", rows_in=1002,
    rows_out=1000, rows_rejected=2, tokens=5000, truncated=3, output_tokens=0, splits=2,
    splits_skipped=1, rows_computed=500, padded_tokens=5500, seconds=2.5, rows_per_second=200.0,
    tokens_per_second=2000.0, padding=1.1, stage_seconds={}, rejected={"null_text": 2},
    notes=("cut <script>alert(1)</script>",),
)  # fmt: skip


class Tags(HTMLParser):
    """The tags of a page, its attributes, and how deep it is at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.styles: list[str] = []
        self.depth = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.styles += [value or "" for name, value in attrs if name == "style"]
        self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1


def test_dir_names_what_is_public_alone() -> None:
    names = [name for name in dir(engine) if not name.startswith("__")]
    assert names == sorted(name for name in engine.__all__ if not name.startswith("__"))
    assert {"__name__", "__version__", "__all__"} <= set(dir(engine))


def test_dir_loads_nothing() -> None:
    code = "import engine, sys; dir(engine); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "numpy", "onnxruntime"} & set(done.stdout.split())


def test_what_is_loaded_later_is_what_type_checkers_see() -> None:
    source = inspect.getsource(engine)
    typed = source.partition("if TYPE_CHECKING:")[2].partition("__all__")[0]
    imported = {
        (name.strip(), line.split()[1])
        for line in typed.splitlines()
        if line.startswith("    from ")
        for name in line.partition(" import ")[2].split(",")
    }
    assert imported == set(engine._LATER.items())
    now = {"EngineError", "errors", "__version__"}
    assert {name for name, _ in imported} | now == set(engine.__all__)


def test_a_report_in_a_notebook() -> None:
    shown = REPORT._repr_html_()
    assert "1,000 answered of 1,002" in shown
    assert "2: null_text 2" in shown
    assert "cut &lt;script&gt;alert(1)" in shown
    assert "secret" not in shown
    assert "\x1b" not in shown
    tags = Tags(shown)
    assert tags.names == {"table", "caption", "tbody", "tr", "th", "td"}
    assert tags.depth == 0


def test_a_small_table_without_colours_fits_a_dark_page() -> None:
    tags = Tags(facts_table("a title", [("name", "value"), ("none", "")]))
    assert not any("color" in style or "background" in style for style in tags.styles)
    assert "none" not in facts_table("a title", [("none", "")])


def test_a_run_shows_no_text_of_a_row(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    corpus = tmp_path / "rows.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": t}) for t in ("dos mil", 7)))
    report = engine.run(BUNDLE, corpus, tmp_path / "out", text="text", on_error="reject")
    shown = report._repr_html_()
    assert "1 answered of 2" in shown
    assert "1: not_text 1" in shown
    assert "dos mil" not in shown
    assert all(str(row) not in shown for row in report.table()["translation_text"].to_pylist())


def test_a_bundle_in_a_notebook() -> None:
    pytest.importorskip("onnxruntime")
    bundle = engine.Bundle.load(BUNDLE)
    shown = bundle._repr_html_()
    assert f"translation: {BUNDLE}" in shown
    for fact in ("fp32", "t5", "device</th>", "cpu"):
        assert fact in shown
    labels = tuple(f"<label {n}>" for n in range(20))
    bundle.model_config = dataclasses.replace(bundle.model_config, labels=labels)
    shown = bundle._repr_html_()
    assert "&lt;label 7&gt; and 12 more" in shown
    assert "label 8" not in shown


def test_read_is_typed() -> None:
    hints = typing.get_type_hints(engine.read)
    assert hints["return"].__name__ == "Table"
