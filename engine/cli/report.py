"""engine report."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli import completion, numbers, terminal


def report(
    out: Annotated[
        str,
        typer.Argument(
            help="The output of a run: a folder, one file, or a folder's URL.",
            autocompletion=completion.runs,
        ),
    ],
    page: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="The page, one HTML file; by default OUT.report.html beside OUT."
        ),
    ] = "",
    truth: Annotated[
        str,
        typer.Option(
            help="A kept column with what is true: accuracy, F1, calibration.",
            autocompletion=completion.columns,
        ),
    ] = "",
    examples: Annotated[
        int,
        typer.Option(
            parser=numbers.at_least(0),
            metavar=numbers.METAVAR,
            help="Rows of each kind to show with their texts; by default no text is in the page.",
        ),
    ] = 0,
    colour: Annotated[
        str,
        typer.Option(
            help="A kept column by which embeddings are coloured.",
            autocompletion=completion.columns,
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; a page only with -o.")
    ] = False,
) -> None:
    """Make a page of a run to look at: its rows, its answers, where its time went, where it ran."""
    from engine.reporting import read_report
    from engine.reporting.page_file import check_page, default_page, write_page

    check_page(page, "-o")
    found = read_report(out, truth=truth, examples=examples, colour=colour)
    if page or not as_json:
        file = write_page(page or default_page(out), found.page)
        if not as_json:
            terminal.show(str(file))
    if as_json:
        terminal.show_json(found.to_dict())
