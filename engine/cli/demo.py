"""engine demo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import numbers, terminal
from engine.cli.progress import shown
from engine.cli.run import summary

if TYPE_CHECKING:
    from engine.demo.demonstration import Demonstration

_MOST_ROWS = 10_000_000
"""Of a sample corpus; that of a mistyped number would fill the disk."""


def demo(
    rows: Annotated[
        int,
        typer.Option(
            parser=numbers.at_least(20, _MOST_ROWS),
            metavar=numbers.METAVAR,
            help="Rows of the sample corpus.",
        ),
    ] = 3000,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the corpus and the results.")
    ] = Path("demo-out"),
    seed: Annotated[
        int,
        typer.Option(parser=numbers.whole, metavar=numbers.METAVAR, help="Seed of the corpus."),
    ] = 0,
    export: Annotated[
        bool,
        typer.Option("--export", help="Export the checkpoint first, with Optimum; in a clone."),
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe of the export.")] = "fp32",
    workers: Annotated[
        int,
        typer.Option(
            parser=numbers.at_least(0),
            metavar=numbers.METAVAR,
            help="Batches computed at the same time; 0 for one per core, at most 4.",
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the embedded model on a sample corpus and check every answer."""
    from engine.demo import BUNDLE
    from engine.demo.demonstration import demonstrate

    bundle = _exported(out, recipe, quiet=as_json) if export else BUNDLE
    with shown(quiet=as_json) as on_progress:
        demonstration = demonstrate(
            out, rows=rows, seed=seed, bundle=bundle, on_progress=on_progress, workers=workers
        )
    if as_json:
        terminal.show_json(demonstration.to_dict())
    else:
        terminal.show(*_summary(demonstration))
    # This corpus has bad rows on purpose, so exit code 3 would be no news; wrong answers are.
    good = demonstration.accuracy >= 0.99 and demonstration.rejects_right and demonstration.in_order
    raise typer.Exit(0 if good else 1)


def _exported(out: Path, recipe: str, *, quiet: bool) -> Path:
    from engine.demo import CHECKPOINT
    from engine.errors import SettingsError

    if not CHECKPOINT.is_dir():
        raise SettingsError(
            "--export: the demo's checkpoint does not come with the package, only its bundle",
            "it is in engine/demo/checkpoint of the repository: run scripts/demo --export in a "
            "clone, or leave --export out",
        )
    from engine.export import export

    folder = out / f"bundle-{recipe}"
    shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    report = export(
        str(CHECKPOINT), folder, task="translation_es_to_pt", recipe=recipe,
        progress=lambda text: None if quiet else terminal.tell(text),
    )  # fmt: skip
    return report.path


def _summary(demonstration: Demonstration) -> list[str]:
    lines = [
        line
        for text, answer, truth in demonstration.samples
        for line in (f"  {text}", f"    answer  {answer}", f"    truth   {truth}")
    ]
    lines += [
        "",
        f"accuracy {demonstration.accuracy:.2%} · "
        f"exactly the bad rows rejected: {_yes(demonstration.rejects_right)} · "
        f"all others answered, in order: {_yes(demonstration.in_order)}",
        *summary(demonstration.report),
        f"corpus in {demonstration.corpus}, answers in {demonstration.results}",
        f"next: engine inspect {demonstration.results}; engine verify {demonstration.results}",
    ]
    return lines


def _yes(fact: bool) -> str:
    return "yes" if fact else "NO"
