"""engine inspect, head, rejects, verify, tasks and doctor: they show, check and change nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from engine.cli import completion, numbers, terminal
from engine.cli.export import describe_figure
from engine.cli.progress import on_terminal
from engine.cli.typed_names import as_typed

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _bundles_and_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    return completion.bundles(ctx, incomplete) + completion.runs(ctx, incomplete)


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A bundle, a run's output folder or one part file.",
            autocompletion=_bundles_and_runs,
        ),
    ],
    rows: Annotated[
        int,
        typer.Option(
            parser=numbers.at_least(0), metavar=numbers.METAVAR, help="First rows to show."
        ),
    ] = 3,
    as_json: _Json = False,
) -> None:
    """Show what a bundle, an output folder or a part file holds."""
    from engine.runner.inspection import inspect as inspect_path

    facts = inspect_path(path, rows=rows)
    if as_json:
        terminal.show_json(facts)
    else:
        terminal.show(*_lines(_readable(facts)))


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    """The figures of an acceptance test in a line each, and no empty gate or tuned settings."""
    gate = dict(facts.get("gate") or {})
    if gate:
        gate["figures"] = {
            name: describe_figure(figure) for name, figure in gate["figures"].items()
        }
    return {
        n: gate if n == "gate" else v for n, v in facts.items() if v or n not in ("gate", "tuned")
    }


def head(
    out: Annotated[
        str,
        typer.Argument(help="The output folder of a finished run.", autocompletion=completion.runs),
    ],
    rows: Annotated[
        int,
        typer.Option(
            "--rows",
            "-n",
            parser=numbers.at_least(0),
            metavar=numbers.METAVAR,
            help="Rows to show.",
        ),
    ] = 10,
) -> None:
    """Print the first rows of a run's answers, in input order, as JSON lines."""
    from engine.data import json_lines
    from engine.runner.results import head as head_of

    for columns in head_of(out, rows).to_batches():
        terminal.show_json_lines(json_lines(columns).to_pybytes().decode())


def rejects(
    out: Annotated[
        str, typer.Argument(help="The output folder of a run.", autocompletion=completion.runs)
    ],
) -> None:
    """Print the bad rows of a run as JSON lines: file, row (from 0), code, message and, where one
    is at fault, column, expected and found type."""
    from engine.runner.results import rejects as rejects_of

    for row in rejects_of(out):
        terminal.show_json(row)


def verify(
    out: Annotated[
        str, typer.Argument(help="The output folder of a run.", autocompletion=completion.runs)
    ],
    inputs: Annotated[
        bool, typer.Option("--inputs/--no-inputs", help="Hash the inputs again.")
    ] = True,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every row of the parts and inputs again.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Check an output folder: hashes, row counts and inputs. The exit code is 1 on a problem."""
    from engine.runner.verify import verify as verify_folder

    with on_terminal(quiet=as_json) as on_progress:
        check = verify_folder(out, inputs=inputs, deep=deep, on_progress=on_progress)
    if as_json:
        terminal.show_json(dataclasses.asdict(check))
    else:
        for problem in check.problems:
            terminal.show(f"problem: {problem}")
        terminal.show(
            f"{check.parts} parts: {check.rows_in:,} rows in = {check.rows_out:,} answered "
            f"+ {check.rows_rejected:,} rejected; {check.inputs_checked} inputs checked, "
            f"{check.inputs_missing} missing"
        )
        terminal.show("no problems" if not check.problems else f"{len(check.problems)} problems")
    raise typer.Exit(1 if check.problems else 0)


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]",
            help="A task or alias; by default all.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """List the tasks: aliases, input columns, options with their defaults, result columns."""
    from engine.tasks import TASKS, describe, find

    rows = [describe(task) for task in ([find(name)] if name else TASKS.values())]
    if as_json:
        terminal.show_json(rows)
        return
    for row in rows:
        terminal.show(*task_lines(row))
    terminal.show("a checkpoint may set other defaults")


def task_lines(row: Mapping[str, Any]) -> list[str]:
    """What `engine.tasks.describe` says of a task, in lines."""
    lines = [
        f"{row['task']}: {row['summary']}",
        f"  aliases: {', '.join(row['aliases']) or '-'}",
        f"  input:   {', '.join(row['inputs'])}",
        f"  columns: {row['columns']}",
    ]
    for option in row["options"]:
        flag = "--" + option["name"].replace("_", "-")
        lines.append(f"  {flag}: {as_typed(option['help'])} [{json.dumps(option['default'])}]")
    return lines


def doctor(as_json: _Json = False) -> None:
    """Show Python, CPU, memory, the execution providers that load, versions, hints, and what would
    make this machine faster."""
    from engine.demo import BUNDLE
    from engine.runtime.doctor import diagnose

    facts = dataclasses.asdict(diagnose(BUNDLE / "encoder.onnx"))
    if as_json:
        terminal.show_json(facts)
        return
    hints, faster = facts.pop("hints"), facts.pop("faster")
    facts["memory"] = f"{facts['memory'] / 2**30:.1f} GiB"
    terminal.show(*_lines(facts))
    for hint in hints:
        terminal.show(f"hint: {hint}")
    for one in faster:
        terminal.show(f"faster: {one['about']}: {one['found']}")
        if one["do"]:
            terminal.show(f"  do: {one['do']}")


def _lines(facts: Mapping[str, object], indent: str = "") -> list[str]:
    """Nested values as indented text, a line for each row."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{name}:")
            lines += [
                f"{indent}  {_short(json.dumps(v, ensure_ascii=False, default=str))}" for v in value
            ]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(
                f"{indent}{name}: {value:,}" if type(value) is int else f"{indent}{name}: {value}"
            )
    return lines


def _short(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
