"""engine inspect, verify, tasks and doctor: what there is, and whether it holds."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from engine.cli.export import told

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def inspect(
    path: Annotated[str, typer.Argument(help="A bundle, a run's output folder or one part file.")],
    rows: Annotated[int, typer.Option(help="First rows to show.")] = 3,
    as_json: _Json = False,
) -> None:
    """Show what a bundle, an output folder or a part file holds."""
    from engine.runner.inspection import inspect as look

    found = look(path, rows=rows)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, default=str))
    else:
        typer.echo("\n".join(_lines(_readable(found))))


def _readable(found: dict[str, Any]) -> dict[str, Any]:
    """A gate's figures in a line each, and nothing that is not there."""
    gate = dict(found.get("gate") or {})
    if gate:
        gate["figures"] = {name: told(figure) for name, figure in gate["figures"].items()}
    return {
        n: gate if n == "gate" else v for n, v in found.items() if v or n not in ("gate", "tuned")
    }


def verify(
    out: Annotated[str, typer.Argument(help="The output folder of a run.")],
    inputs: Annotated[bool, typer.Option("--inputs/--no-inputs", help="Hash inputs again.")] = True,
    as_json: _Json = False,
) -> None:
    """Recount and rehash what an output folder claims; exit 1 where something does not hold."""
    from engine.runner.verify import verify as check

    verdict = check(out, inputs=inputs)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(verdict), ensure_ascii=False))
    else:
        for problem in verdict.problems:
            typer.echo(f"problem: {problem}")
        typer.echo(
            f"{verdict.parts} parts: {verdict.rows_in:,} rows in = {verdict.rows_out:,} answered "
            f"+ {verdict.rows_rejected:,} rejected; {verdict.inputs_checked} inputs as they were "
            f"read, {verdict.inputs_missing} no longer there"
        )
        typer.echo("all holds" if not verdict.problems else f"{len(verdict.problems)} problems")
    raise typer.Exit(1 if verdict.problems else 0)


def tasks(as_json: _Json = False) -> None:
    """List the tasks: aliases, input columns, options with their defaults, result columns."""
    from engine.tasks import TASKS, describe

    rows = [describe(task) for task in TASKS.values()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['task']}: {row['summary']}")
        typer.echo(f"  aliases: {', '.join(row['aliases']) or '-'}")
        typer.echo(f"  input:   {', '.join(row['inputs'])}")
        typer.echo(f"  columns: {row['columns']}")
        for option in row["options"]:
            flag = "--" + option["name"].replace("_", "-")
            typer.echo(f"  {flag}: {option['help']} [{json.dumps(option['default'])}]")
    typer.echo("defaults are those of a checkpoint that names none; its own go before them")


def doctor(as_json: _Json = False) -> None:
    """Show Python, CPU, memory, providers that really load, versions and hints."""
    from engine.demo import BUNDLE
    from engine.runtime.doctor import diagnose

    found = dataclasses.asdict(diagnose(BUNDLE / "encoder.onnx"))
    if as_json:
        typer.echo(json.dumps(found))
        return
    hints = found.pop("hints")
    found["memory"] = f"{found['memory'] / 2**30:.1f} GiB"
    typer.echo("\n".join(_lines(found)))
    for hint in hints:
        typer.echo(f"hint: {hint}")


def _lines(found: Any, indent: str = "") -> list[str]:
    """Nested values as indented text; rows one a line."""
    lines = []
    for name, value in found.items():
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


def _short(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
