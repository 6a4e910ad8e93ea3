"""What the documentation site takes from the code besides docstrings: --help, and the examples.

A page asks for it by a line of its own: `[help: run]` or `[example: sentiment.py]`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    markdown = re.sub(r"^\[help: ([\w ]*)\]$", _help, markdown, flags=re.MULTILINE)
    return re.sub(r"^\[example: ([\w.]+)\]$", _example, markdown, flags=re.MULTILINE)


def _help(asked: re.Match[str]) -> str:
    every = "--help-all" if asked[1] in ("run", "bench", "tune") else "--help"
    command = ["engine", *asked[1].split(), every]
    output = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "90"},
    ).stdout
    text = output.replace("python -m engine", "engine")
    return f"```text\n$ {' '.join(command)}\n{text}```"


def _example(asked: re.Match[str]) -> str:
    """The docstring as text, then the script."""
    source = (ROOT / "examples" / asked[1]).read_text(encoding="utf-8")
    docstring, code = re.match(r'"""(.*?)"""\n+(.*)', source, re.DOTALL).groups()  # type: ignore[union-attr] # every example begins with a docstring; a test holds that
    return f"{docstring.strip()}\n\n```python\n{code}```"
