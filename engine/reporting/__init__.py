"""The report of a run as one HTML file: its rows, its answers, its time, and where it ran."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.pages.blocks import Page
from engine.reporting import run_sections
from engine.reporting.page_file import check_page, default_page, write_page
from engine.runner.facts import RunFacts, facts_of
from engine.runner.results import manifest_of
from engine.summary import summarize


@dataclass(frozen=True)
class RunReport:
    """What an output says of its run, and the page of it.

    Attributes:
        facts: Rows, time and place.
        page: All that is shown.
    """

    facts: RunFacts
    page: Page

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return self.facts.to_dict()


def report(out: Path | str, file: Path | str = "", *, truth: str = "", examples: int = 0,
           colour: str = "") -> Path:  # fmt: skip
    """Write the report of a run as one HTML file, without a script and without anything from
    elsewhere. Where matplotlib is not installed (the extra `report`) its figures are tables.

    Args:
        out: The output of a run, finished or not: a folder, one file, or the URL of a folder.
        file: The page, ending in .html; by default beside the output, `out.report.html`.
        truth: A kept column with what is true.
        examples: Rows of each kind to show with their texts; with 0 no text of a row is in the
            page.
        colour: A kept column by which embeddings are coloured.

    Returns:
        The path of the page.

    Raises:
        SettingsError: The page cannot lie there.
        ColumnError: The output has no such column.
        OutputError: `out` is not the output of a run, or the page cannot be written.
    """
    page = file or default_page(out)
    check_page(page, "file")
    return write_page(page, read_report(out, truth=truth, examples=examples, colour=colour).page)


def read_report(
    out: Path | str, *, truth: str = "", examples: int = 0, colour: str = ""
) -> RunReport:
    """What an output says of its run; the arguments are those of `report`."""
    manifest = manifest_of(out)
    facts = facts_of(manifest, str(out))
    sections = [
        run_sections.overview(facts),
        *run_sections.rejected(facts),
        *summarize(out, truth=truth, examples=examples, colour=colour),
        run_sections.time(facts),
        *run_sections.place(facts),
    ]
    return RunReport(facts, Page(_title(facts), sections, _subtitle(facts)))


def _title(facts: RunFacts) -> str:
    name = str(facts.out).rstrip("/").rpartition("/")[2] or str(facts.out)
    return f"{name}: {facts.task}" if facts.task else name


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _subtitle(facts: RunFacts) -> str:
    parts = [_counted(facts.files, "file"), _counted(facts.parts, "part")]
    if facts.starts:
        latest = facts.starts[-1]
        model = latest.model
        parts.insert(0, f"{model.get('name', '')}, recipe {model.get('recipe', '')}")
        parts.append(f"began {facts.starts[0].began[:16].replace('T', ' ')} UTC")
    parts.append("finished" if facts.finished else "not finished")
    return " · ".join(parts)
