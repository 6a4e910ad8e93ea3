"""Pages in headless Chromium: what the console says, and what is wider than the window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html import unescape
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
_LOOK = """<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("main *")].filter(e =>
    !e.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 1);
  parent.postMessage(JSON.stringify({
    width: innerWidth, content: document.documentElement.scrollWidth,
    wide: wide.slice(0, 5).map(e => e.tagName + " " + e.textContent.slice(0, 40)),
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    texts: [...document.querySelectorAll("svg text")].map(e => getComputedStyle(e).fill),
    smallest: Math.min(...[...document.querySelectorAll("svg text")].map(e =>
      e.getBoundingClientRect().height).filter(h => h > 0), 99),
  }), "*");
});
</script>"""
# A frame, since a window is at least 500 pixels wide.
_FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><script>
addEventListener("message", e => { document.documentElement.dataset.look = e.data; });
</script><iframe src="page.html" style="border:0;width:%dpx;height:900px"></iframe>"""


@dataclass(frozen=True)
class Look:
    """A page as it was rendered.

    Attributes:
        console: What the console says.
        width, content: Of the window and of what is in it, in pixels.
        wide: Elements that reach beyond the window, outside of tables that scroll.
        background, ink: Colours of the page; texts: those of the texts of figures.
        smallest: Height of the lowest text of a figure, in pixels.
    """

    console: list[str]
    width: int
    content: int
    wide: list[str]
    background: str
    ink: str
    texts: list[str]
    smallest: float


def look(page: str, width: int, *, dark: bool) -> Look:
    """Render a page with one script more, which measures it."""
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        file = Path(folder, "page.html")
        file.write_text(page.replace("</head>", f"{_LOOK}</head>", 1), encoding="utf-8")
        frame = Path(folder, "frame.html")
        frame.write_text(_FRAME % width, encoding="utf-8")
        scheme = ["--blink-settings=preferredColorScheme=0"] * dark
        run = subprocess.run(
            [CHROMIUM, *_FLAGS, *scheme, f"--user-data-dir={folder}/user", "--dump-dom",
             "--window-size=1300,1000", "--virtual-time-budget=5000", frame.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    found = re.search(r'data-look="(.*?)"', run.stdout)
    assert found, run.stderr[-2000:]
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return Look(console, **json.loads(unescape(found[1])))
