"""Write the outputs that `read_outputs.py` reads: python tests/readers/write_outputs.py FOLDER.

A folder is named FORMAT-PARTS-REJECTS. The names of the inputs are such that a reader may take
them for splits of a dataset, or for partitions; the kept columns are nested, null in a part, and of
texts with everything that CSV has to quote.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import engine
from engine.core.config import FORMATS
from engine.demo import BUNDLE
from engine.runner import conversion

TEXTS = ["uno", 'd"o",\ns', "tres\r\n", "ción; 'x' \\n", "cinco\tseis"]
PARTS = {
    "one": {"numbers": 5},
    "many": {"train": 5, "test-2024": 3, "year=2024/lang=es/numbers": 4, "validation": 5},
    "empty": {"numbers": 5, "test": 0, "train": 4},
    "first": {"a": 0, "b": 5},
}


def row(part: int, number: int) -> dict[str, Any]:
    """A row with its number in every column."""
    return {
        "id": 100 * part + number,
        "text": TEXTS[number],
        "late": None if part == 0 else f"late {number}",
        "score": None if number == 1 else number / 3,
        "flag": number % 2 == 0,
        "tags": [{"word": TEXTS[number], "at": [number, 7]}, {"word": "x", "at": [1]}],
        "source": {"name": "a,b", "line": number},
    }


def main() -> None:
    folder = Path(sys.argv[1])
    for parts, rejects in itertools.product(PARTS, (True, False)):
        name = f"{parts}-{'rejects' if rejects else 'none'}"
        corpus = folder / "corpora" / name
        for part, (file, rows) in enumerate(PARTS[parts].items()):
            path = corpus / f"{file}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row(part, n)) for n in range(rows)]
            lines += ["{broken"] * (rejects and rows > 0)
            path.write_text("".join(f"{line}\n" for line in lines))
        for kind in FORMATS:
            out = folder / "outputs" / f"{kind}-{name}"
            settings: Any = {"text": "text", "keep": "all", "on_error": "reject", "format": kind}
            report = engine.run(BUNDLE, corpus, out, **settings)
            if kind == "arrow":
                answers = report.table().to_pylist()
                (folder / f"{name}.json").write_text(json.dumps(answers))
                for other in FORMATS:  # a converted output is read as a run's own is
                    new = folder / "outputs" / f"{other}-{name}-converted"
                    if parts == "many" and other != kind:
                        conversion.convert(out, new, to=other)


if __name__ == "__main__":
    main()
