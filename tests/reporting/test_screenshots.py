"""The pictures of docs/report.md: there, small, and those that scripts/screenshots makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/report.md"
if not PAGE.is_file():
    pytest.skip("only in the repository", allow_module_level=True)
SHOWN = set(re.findall(r"\((screenshots/[\w-]+\.png)\)", PAGE.read_text(encoding="utf-8")))


def test_the_page_shows_all_pictures() -> None:
    there = {f"screenshots/{file.name}" for file in (ROOT / "docs/screenshots").iterdir()}
    assert there == SHOWN
    assert (ROOT / "scripts/screenshots").stat().st_mode & 0o111


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_picture_is_small(name: str) -> None:
    content = (ROOT / "docs" / name).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150_000
