"""The acceptance test of a recipe as a section of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.pages.blocks import Section, Table


def acceptance(gate: Mapping[str, Any], recipe: str) -> Section:
    """What the test found.

    Args:
        gate: `GateReport.to_dict` of a bundle's export.
        recipe: Its name.
    """
    figures = [
        (name.replace("_", " "), figure["value"], figure["limit"], figure["holds"])
        for name, figure in gate.get("figures", {}).items()
    ]
    beside = [
        ("sample", f"{gate.get('rows', 0):,} rows: {gate.get('sample', '')}"),
        ("size", f"{gate.get('size', 0):.2f} times that of fp32"),
        ("speed where it was made", f"{gate.get('speed', 0):.2f} times that of fp32"),
        ("worst layers", ", ".join(gate.get("worst_layers", ()))),
    ]
    head = ("figure", recipe, "limit", "holds")
    return Section(
        f"Acceptance test of {recipe}",
        [Table(rows=figures, head=head), Table(rows=[pair for pair in beside if pair[1]])],
        "The recipe's bundle was compared with the fp32 one before it was written.",
    )
