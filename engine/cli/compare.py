"""engine compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from engine.cli import completion, numbers, terminal
from engine.core.settings import split_commas
from engine.errors import SettingsError

DISAGREE = 4
"""The exit code of outputs that agree less than was asked for."""


_Output = Annotated[
    str,
    typer.Argument(
        help="An output: a run's folder or file, or any table.", autocompletion=completion.runs
    ),
]
_Other = Annotated[
    str,
    typer.Argument(
        help="The other: Parquet, Arrow, JSON lines or CSV.", autocompletion=completion.runs
    ),
]
_Key = Annotated[
    str,
    typer.Option(
        help="Columns by which rows belong together, a,b; without: by order.",
        autocompletion=completion.columns,
    ),
]

_Truth = Annotated[
    str,
    typer.Option(
        help="A column of A or B with what is true: accuracy, F1, McNemar.",
        autocompletion=completion.columns,
    ),
]
_Examples = Annotated[
    int,
    typer.Option(
        parser=numbers.at_least(0),
        metavar=numbers.METAVAR,
        help="Rows that differ most to show with their texts.",
    ),
]


def compare(
    a: _Output,
    b: _Other,
    key: _Key = "",
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="OURS=THEIRS, a column by another name; once for each."),
    ] = None,
    truth: _Truth = "",
    out: Annotated[
        str, typer.Option("--out", "-o", help="A file to write as a page: one HTML, no script.")
    ] = "",
    min_agreement: Annotated[
        float, typer.Option(help="From 0 to 1: exit with 4 where they agree less.")
    ] = 0.0,
    examples: _Examples = 0,
    by_order: Annotated[
        bool, typer.Option("--by-order", help="Both have the same rows in the same order.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two outputs row by row: agreement, figures of their kind, and where they differ
    most. Rows that one side lacks count as different under --min-agreement."""
    from engine.comparison import check_agreement
    from engine.comparison import compare as compare_outputs
    from engine.reporting.page_file import check_page

    check_agreement(min_agreement)
    check_page(out, "-o")
    found = compare_outputs(
        a,
        b,
        key=split_commas(key),
        mapping=_mapping(mapping or []),
        truth=truth,
        examples=examples,
        by_order=by_order,
    ).to_dict()
    if out:
        from engine.comparison.page import page
        from engine.reporting.page_file import write_page

        write_page(out, page(found))
    if as_json:
        terminal.show_json(found)
    else:
        terminal.show(*_lines(found))
    if found["agreement_of_all"] < min_agreement:
        terminal.tell(
            f"the agreement of all rows is {found['agreement_of_all']:.6g}, less than "
            f"--min-agreement {min_agreement}"
        )
        raise typer.Exit(DISAGREE)


def _mapping(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for (ours, _, theirs), word in zip(pairs, words, strict=True):
        if not ours or not theirs:
            raise SettingsError(
                f"--map {word}: not two names", "write OURS=THEIRS, such as label=prediction"
            )
    return {ours: theirs for ours, _, theirs in pairs}


def _lines(found: Mapping[str, Any]) -> list[str]:
    """The table that a person reads."""
    lines = [f"{found['kind']}, {found['rows']:,} rows compared by {found['paired_by']}"]
    low, high = found["interval"]
    if found["agreement"] is not None:
        lines.append(
            _line("agreement", f"{found['agreement']:.6g}  (95%: {low:.6g} to {high:.6g})")
        )
    lines.append(_line("of all rows", f"{found['agreement_of_all']:.6g}"))
    skipped = {**found["unpaired"], "null_a": found["null_a"], "null_b": found["null_b"]}
    lines += [_line(name, f"{count:,}") for name, count in skipped.items() if count]
    if not found["rows"]:
        lines.append(f"note: no row of one side is a row of the other by {found['paired_by']}")
    lines += _figures(found["figures"])
    lines += _figures({f"truth {name}": v for name, v in found["truth"].items()})
    for one in found["figures"].get("confused_most", []):
        lines.append(f"  {one['rows']:>10,} × {one['a']} -> {one['b']}")
    lines += [f"side {name}: {_side(side)}" for name, side in found["sides"].items()]
    if found["differ_most"]:
        lines.append("differ most:")
    for row in found["differ_most"]:
        lines.append(f"  {row['row']}  agreement {row['agreement']:.6g}")
        lines += [f"    {side}: {row[side]}" for side in "ab" if side in row]
    return lines


def _figures(figures: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            lines += _figures({f"{name} {n}": v for n, v in value.items()})
        elif value is None or isinstance(value, (int, float)):
            text = "-" if value is None else f"{value:,}" if type(value) is int else f"{value:.6g}"
            lines.append(_line(name, text))
    return lines


def _line(name: str, value: str) -> str:
    return f"  {name.replace('_', ' '):<24} {value}"


def _side(side: Mapping[str, Any]) -> str:
    parts = [str(side["path"]), f"{side['bytes']:,} bytes"]
    if side.get("rows_per_worker_second"):
        parts.append(
            f"{side['rows']:,} rows in {side['worker_seconds']:,.1f} worker seconds "
            f"({side['rows_per_worker_second']:,.1f} rows/s each)"
        )
        parts.append(", ".join(side["devices"]))
    return "; ".join(parts)
