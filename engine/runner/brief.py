"""A report in 2 KB, for a scheduler that keeps what a task returns in its database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

MOST_BYTES = 2000
"""Bytes of a brief report as JSON, whatever it is a report of."""
_OUT_BYTES, _TEXT_BYTES, _NOTE_BYTES = 400, 100, 160
_REASONS, _REASON_BYTES = 6, 32
_CUT = "..."


def brief(report: Mapping[str, object]) -> dict[str, object]:
    """The numbers of a report and its names, without what grows with the parts.

    Args:
        report: The fields of a `Report`.

    Returns:
        JSON values of at most `MOST_BYTES` bytes. A name that is too long is cut, of the reasons
        of bad rows the most frequent are there, and as many notes as there is space for;
        `notes_left_out` counts the others.
    """
    rejected, notes = report["rejected"], report["notes"]
    assert isinstance(rejected, Mapping)
    assert isinstance(notes, Sequence)
    values = {name: _short(name, value) for name, value in report.items() if _is_plain(value)}
    values["rejected"] = _most_frequent(rejected)
    return {**values, **_that_fit(notes, MOST_BYTES - size(values))}


def size(value: object) -> int:
    """Bytes of a value as JSON in ASCII, its longest form."""
    return len(json.dumps(value))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _short(name: str, value: object) -> object:
    most = _OUT_BYTES if name == "out" else _TEXT_BYTES
    return cut(value, most) if isinstance(value, str) else value


def cut(text: str, most: int) -> str:
    """The beginning of a text, of which the JSON has at most so many bytes."""
    if size(text) <= most:
        return text
    end = min(len(text), most)
    while size(text[:end]) > most - len(_CUT):
        # Each character takes from 1 to 12 bytes.
        end -= max(1, (size(text[:end]) - most + len(_CUT)) // 12)
    return text[:end] + _CUT


def _most_frequent(rejected: Mapping[str, int]) -> dict[str, int]:
    """The most frequent reasons, and the rest as one."""
    reasons = sorted(rejected.items(), key=lambda one: (-one[1], one[0]))
    first = {cut(code, _REASON_BYTES): count for code, count in reasons[:_REASONS]}
    rest = sum(rejected.values()) - sum(first.values())
    return first | ({"others": rest} if rest else {})


def _that_fit(notes: Sequence[str], most: int) -> dict[str, object]:
    """The first notes, as many as the space takes."""
    space = most - size({"notes": [], "notes_left_out": len(notes)})
    first: list[str] = []
    for note in notes:
        short = cut(note, _NOTE_BYTES)
        space -= size(short) + 2
        if space < 0:
            break
        first.append(short)
    return {"notes": first, "notes_left_out": len(notes) - len(first)}
