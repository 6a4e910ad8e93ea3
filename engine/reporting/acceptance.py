"""The acceptance test of a recipe as a section of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.export.report import ExportReport
from engine.pages.blocks import Page, Section, Table, Tile, Tiles


def acceptance(gate: Mapping[str, Any], recipe: str) -> Section:
    """What the test found.

    Args:
        gate: `GateReport.to_dict` of a bundle's export.
        recipe: Its name.
    """
    figures = [
        (name.replace("_", " "), figure.get("value"), figure.get("limit"), figure.get("holds"))
        for name, figure in gate.get("figures", {}).items()
    ]
    beside = [
        ("sample", f"{gate.get('rows', 0):,} rows: {gate.get('sample', '')}"),
        ("size", f"{gate.get('size', 0):.2f} times that of fp32"),
        ("speed where it was made", f"{gate.get('speed', 0):.2f} times that of fp32"),
        ("worst layers", ", ".join(map(str, gate.get("worst_layers") or ()))),
    ]
    head = ("figure", recipe, "limit", "holds")
    return Section(
        f"Acceptance test of {recipe}",
        [Table(rows=figures, head=head), Table(rows=[pair for pair in beside if pair[1]])],
        "The recipe's bundle was compared with the fp32 one before it was written.",
    )


def recipe_page(report: ExportReport) -> Page:
    """The page of a bundle that was made by a recipe."""
    gate = report.gate
    tiles = [Tile("recipe", report.recipe), Tile("size", f"{report.bytes / 1e6:.1f} MB")]
    if gate:
        tiles += [
            Tile("size beside fp32", f"{gate['size']:.2f} ×"),
            Tile("speed beside fp32", f"{gate['speed']:.2f} ×", "where it was made"),
            Tile("rows compared", gate["rows"]),
        ]
        failed = sum(not figure["holds"] for figure in gate["figures"].values())
        tiles.append(Tile("limits that do not hold", failed, "", bool(failed)))
    made: list[tuple[str, object]] = [
        ("bundle", str(report.path)),
        ("compared with the checkpoint", report.compared),
        ("largest difference", f"{report.largest_difference:.1e}"),
        ("tolerance", f"{report.tolerance:.0e}"),
        ("time", f"{report.seconds:.0f} s"),
        *(("note", note) for note in report.notes),
    ]
    sections = [Section("", [Tiles(tiles)])]
    sections += [acceptance(gate, report.recipe)] if gate else []
    sections.append(Section("Made of", [Table(rows=made)]))
    return Page(f"{report.path.name}: recipe {report.recipe}", sections, report.task)
