"""What every page must be: one file that needs nothing else and runs nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

_VOID = {"meta"}


class ReadPage(HTMLParser):
    """Notes tags and texts, and fails on a tag that is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self._opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self._opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._opened[-1:] != ["style"]:
            self.texts.append(data.strip())


def read_page(text: str) -> ReadPage:
    """A page, of which all that holds for every page is checked."""
    page = ReadPage()
    page.feed(text)
    page.close()
    assert not page._opened
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert "http" not in text
    assert "url(" not in text.replace("url(#", "")
    assert len(text.encode()) < 1_000_000
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text
    assert "\x1b" not in text
    return page
