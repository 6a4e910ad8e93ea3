"""The file of a page: its name, and how it is written."""

from __future__ import annotations

from pathlib import Path

from engine.data import is_url, write_text
from engine.errors import SettingsError
from engine.pages.blocks import Page
from engine.pages.page import draw
from engine.runner.records import FOLDER

_ENDINGS = (".html", ".htm")


def check_page(file: Path | str, option: str) -> None:
    """Refuse the name of a page before anything is done for it.

    Args:
        file: The name; "" for no page.
        option: What named it, such as -o.

    Raises:
        SettingsError: It has another ending, is a URL or a folder, lies in a folder that is not
            there, or among the answers of a run, whose readers would take it for one of them.
    """
    path, name = Path(file), f"{option} {file}"
    if not str(file):
        return
    if is_url(file):
        raise SettingsError(f"{name}: a page is a local file", "such as report.html; copy it then")
    if path.suffix.lower() not in _ENDINGS or path.is_dir():
        raise SettingsError(f"{name}: a page ends in .html", f"such as {option} report.html")
    if not path.parent.is_dir():
        raise SettingsError(f"{name}: no folder {path.parent}", "make it first")
    if any((folder / FOLDER).is_dir() for folder in path.absolute().parents):
        raise SettingsError(
            f"{name}: lies in the output of a run, where readers take all files for answers",
            f"a place beside it, such as {default_page(path.parent)}",
        )


def default_page(out: Path | str) -> Path:
    """Where the page of an output goes: beside it; that of a URL into the current folder."""
    last = str(out).rstrip("/").rpartition("/")[2] if is_url(out) else Path(out).absolute().name
    folder = Path() if is_url(out) else Path(out).absolute().parent
    return folder / f"{last}.report.html"


def write_page(file: Path | str, page: Page) -> Path:
    """Write a page, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    path = Path(file)
    write_text(path, draw(page))
    return path
