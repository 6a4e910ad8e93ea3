"""Run the engine over the table of corpora: python tests/readers/write_corpora.py FOLDER.

Each corpus is a folder with its input, the output and `corpus.json`: what was run and what the
output's records say of it. `check_corpora.py` compares them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "data"))

from all_corpora import ALL
from corpora import Corpus

import engine
from engine.demo import BUNDLE
from engine.errors import EngineError
from engine.runner import results
from engine.runner.manifest import Manifest


def main() -> None:
    folder, bundle = Path(sys.argv[1]), engine.Bundle.load(BUNDLE)
    for number, corpus in enumerate(ALL):
        here = folder / f"{number:03d}"
        description = run(corpus, bundle, here)
        (here / "corpus.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    print(f"{len(ALL)} corpora")  # a script


def run(corpus: Corpus, bundle: engine.Bundle, here: Path) -> dict[str, Any]:
    """Write and run a corpus, and describe what came of it."""
    inputs = corpus.write(here / "in")
    settings = {"on_error": "reject", "device": "cpu", **corpus.settings, "keep": corpus.keep}
    described = {"name": corpus.name, "inputs": corpus.inputs, "settings": settings}
    try:
        report = engine.run(bundle, inputs, here / "out", **settings)
    except EngineError as error:
        return {**described, "error": error.message}
    manifest = Manifest(here / "out")
    entries = (manifest.entry(file) for file in report.files)
    parts = [{"input": e.input.path, "part": e.part.file, **e.counts} for e in entries if e]
    rejects = list(results.rejects(here / "out"))
    return {**described, "parts": parts, "rejects": rejects, "notes": report.notes}


if __name__ == "__main__":
    main()
