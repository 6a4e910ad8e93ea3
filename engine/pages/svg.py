"""matplotlib's SVG made part of a page: colours of the page, names of its own, nothing besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

INK, MUTED, RULE, PAPER = "#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
"""Colours to draw with; each becomes a variable of the page, which has light and dark values."""
VARIABLES: Mapping[str, str] = {
    INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)",
    **{colour: f"var(--c{n})" for n, colour in enumerate(SERIES, 1)},
}  # fmt: skip

_COLOUR = re.compile("|".join(VARIABLES))
_FONT = re.compile(r"font: ([\d.]+px)[^;]*")
_FAMILY = re.compile(r"font-family:[^;]*(; )?")
_LONG = re.compile(r"-?\d+\.\d{2,}")
_PLACES = ("d", "x", "y", "width", "height", "transform")
_NAMED = re.compile(r"url\(#([\w-]+)\)|^#([\w-]+)$")
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")


def embedded(text: str, prefix: str, label: str) -> str:
    """An SVG file as an element of a page.

    Args:
        text: What matplotlib wrote.
        prefix: Before its names, so that two figures have none in common.
        label: What it shows, for who cannot see it.
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
    names = _names(root, prefix)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        element.attrib = _attributes(element.attrib, names)
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
    box = root.get("viewBox", "")
    root.attrib = {"viewBox": box, "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _names(root: ElementTree.Element, prefix: str) -> dict[str, str]:
    """New names of the elements that others name."""
    found = (match for e in root.iter() for v in e.attrib.values() for match in _NAMED.finditer(v))
    used = dict.fromkeys(match[1] or match[2] for match in found)
    return {name: f"{prefix}{n}" for n, name in enumerate(used)}


def _attributes(given: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    kept = {}
    for key, value in given.items():
        name = key.rpartition("}")[2]
        if name == "id":
            if value in names:
                kept["id"] = names[value]
        elif shown := _value(name, value, names):
            kept[name] = shown
    return kept


def _value(name: str, value: str, names: Mapping[str, str]) -> str:
    if name == "style":
        value = _FAMILY.sub("", _FONT.sub(r"font-size: \1", value))
        value = _COLOUR.sub(lambda m: VARIABLES[m[0]], value)
    if name == "transform":
        value = _NO_TURN.sub("", value).strip()
    value = _NAMED.sub(lambda m: m[0].replace(m[1] or m[2], names[m[1] or m[2]]), value)
    return " ".join((_LONG.sub(_short, value) if name in _PLACES else value).split())


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
