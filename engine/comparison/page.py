"""A comparison as one HTML file: no script, light and dark, to be printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from engine.printable import printable, without_secrets

_LONGEST = 400  # characters of a cell, so that a page with examples stays small
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#d0d7de;--bar:#2f6fb3}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;--bar:#6ea8dc}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;table-layout:fixed}
th,td{border-bottom:1px solid var(--line);padding:.25rem .5rem;text-align:left;
vertical-align:top;overflow-wrap:anywhere}
svg{width:100%;height:auto}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
rect,circle{fill:var(--bar)}line{stroke:var(--bar);stroke-width:3}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}tr{break-inside:avoid}}
"""


def page(found: Mapping[str, Any]) -> str:
    """The page of a comparison.

    Args:
        found: `Comparison.to_dict`; it has texts of rows only where examples were asked for.
    """
    title = f"{found['kind']}: {found['sides']['a']['path']} and {found['sides']['b']['path']}"
    sections = [
        f"<h1>{_text(title)}</h1>",
        _interval(found),
        _section("Rows", _pairs(_rows(found))),
        _section("Figures", _pairs(_flat(found["figures"]))),
        _section("Against truths", _pairs(_flat(found["truth"]))),
        _section("Confused most", _bars(found["figures"].get("confused_most", ()))),
        _section("Speed and size", _sides(found["sides"])),
        _section("Differ most", _examples(found["differ_most"])),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _text(value: object) -> str:
    """A value as it may stand in HTML."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "-"
    text = f"{value:,}" if type(value) is int else str(value)
    return escape(printable(without_secrets(text), _LONGEST))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n" if content else ""


def _table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    cells = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    above = "<tr>" + "".join(f"<th>{_text(name)}</th>" for name in head) + "</tr>" if head else ""
    body = above + "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table>{body}</table>" if cells else ""


def _pairs(figures: Mapping[str, object]) -> str:
    return _table((name.replace("_", " "), value) for name, value in figures.items())


def _rows(found: Mapping[str, Any]) -> dict[str, object]:
    counts = {**found["unpaired"], "null_a": found["null_a"], "null_b": found["null_b"]}
    return {
        "compared": found["rows"],
        "paired by": found["paired_by"],
        "agreement": found["agreement"],
        "agreement of all rows": found["agreement_of_all"],
        **{name: count for name, count in counts.items() if count},
    }


def _flat(figures: Mapping[str, Any], before: str = "") -> dict[str, object]:
    """Figures by name, those within others behind their name; no lists."""
    flat: dict[str, object] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name} ")
        elif not isinstance(value, (list, tuple)):
            flat[before + name] = value
    return flat


def _interval(found: Mapping[str, Any]) -> str:
    """The agreement and its interval on a line from 0 to 1."""
    if found["agreement"] is None:
        return ""
    at, low, high = (20 + 560 * max(0, v) for v in (found["agreement"], *found["interval"]))
    label = f"agreement {found['agreement']:.4f} (95%: {found['interval'][0]:.4f} to "
    label += f"{found['interval'][1]:.4f})"
    return (
        f'<svg viewBox="0 0 600 60" role="img" aria-label="{label}"><text x="20" y="16">{label}'
        '</text><rect x="20" y="34" width="560" height="1"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="34" y2="34"/><circle cx="{at:.1f}" cy="34" '
        'r="5"/><text x="20" y="56">0</text><text x="580" y="56" text-anchor="end">1</text></svg>'
    )


def _bars(pairs: Sequence[Mapping[str, Any]]) -> str:
    """A bar for each pair of labels, as long as it has rows."""
    most = max((pair["rows"] for pair in pairs), default=1)
    bars = []
    for i, pair in enumerate(pairs):
        label = f"{printable(pair['a'], 40)} → {printable(pair['b'], 40)}: {pair['rows']:,}"
        bars.append(
            f'<text x="0" y="{i * 34 + 12}">{escape(label)}</text>'
            f'<rect x="0" y="{i * 34 + 17}" width="{600 * pair["rows"] / most:.1f}" height="8"/>'
        )
    height = len(pairs) * 34
    return f'<svg viewBox="0 0 600 {height}" role="img">{"".join(bars)}</svg>' if bars else ""


def _sides(sides: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for side in sides.values() for name in side))
    rows = []
    for name in names:
        values = (side.get(name) for side in sides.values())
        shown = (", ".join(v) if isinstance(v, (list, tuple)) else v for v in values)
        rows.append([name.replace("_", " "), *shown])
    return _table(rows, ["", "A", "B"])


def _examples(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows that differ most, with what both sides have where that was asked for."""
    has_texts = any("a" in row for row in rows)
    names = ["row", "agreement", *(("a", "b") if has_texts else ())]
    cells = [[row.get(name, "") for name in names] for row in rows]
    return _table(cells, names)
