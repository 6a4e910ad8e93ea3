"""What a notebook shows of a value: a small table of facts in the colours of its page."""

from __future__ import annotations

import html
from collections.abc import Iterable

from engine.printable import printable, without_secrets

_CELL = "text-align:left;vertical-align:top;padding:0.15em 1em 0.15em 0"


def facts_table(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """HTML of a title over names and values, all of which are escaped; empty values are left out.

    It has no colours of its own, so that it is read on a dark page, too.
    """
    rows = "".join(
        f'<tr><th scope="row" style="{_CELL}">{_text(name)}</th>'
        f'<td style="{_CELL}">{_text(value)}</td></tr>'
        for name, value in facts
        if value
    )
    caption = f'<caption style="text-align:left;font-weight:bold">{_text(title)}</caption>'
    return f"<table>{caption}<tbody>{rows}</tbody></table>"


def _text(value: str) -> str:
    return html.escape(printable(without_secrets(value)))
