"""engine demo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.progress import shown
from engine.cli.run import summary


def demo(
    rows: Annotated[int, typer.Option(min=20, help="Rows of the sample corpus.")] = 3000,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where corpus and results go.")] = Path(
        "demo-out"
    ),
    seed: Annotated[int, typer.Option(help="Which corpus.")] = 0,
    export: Annotated[
        bool, typer.Option("--export", help="Export the checkpoint first, through Optimum.")
    ] = False,
    recipe: Annotated[str, typer.Option(help="With --export: the recipe.")] = "fp32",
    workers: Annotated[
        int, typer.Option(help="Batches at a time; 0 for one a core, 4 at most.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a sample corpus with the embedded model and show how right the answers are."""
    from engine.demo import BUNDLE
    from engine.demo.demonstration import demonstrate

    bundle = _exported(out, recipe, quiet=as_json) if export else BUNDLE
    with shown(quiet=as_json) as on_progress:
        found = demonstrate(
            out, rows=rows, seed=seed, bundle=bundle, on_progress=on_progress, workers=workers
        )
    typer.echo(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else _told(found))
    # Bad rows are part of this corpus, so exit 3 would say nothing; wrong answers are a failure.
    good = found.accuracy >= 0.99 and found.rejects_right and found.in_order
    raise typer.Exit(0 if good else 1)


def _exported(out: Path, recipe: str, *, quiet: bool) -> Path:
    from engine.demo import CHECKPOINT
    from engine.export import export

    folder = out / f"bundle-{recipe}"
    shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    report = export(
        str(CHECKPOINT), folder, task="translation_es_to_pt", recipe=recipe,
        progress=lambda text: None if quiet else typer.echo(text, err=True),
    )  # fmt: skip
    return report.path


def _told(found: Any) -> str:
    lines = [
        f"  {text}\n    answer  {answer}\n    truth   {truth}"
        for text, answer, truth in found.samples
    ]
    lines += [
        "",
        f"accuracy {found.accuracy:.2%} · rejects as planted: {_yes(found.rejects_right)} · "
        f"every other row answered, in order: {_yes(found.in_order)}",
        summary(found.report),
        f"corpus in {found.corpus}, answers in {found.results}",
        f"look closer: engine inspect {found.results}; engine verify {found.results}",
    ]
    return "\n".join(lines)


def _yes(fact: bool) -> str:
    return "yes" if fact else "NO"
