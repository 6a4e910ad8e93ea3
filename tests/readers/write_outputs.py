"""Write the outputs that `read_outputs.py` reads: python tests/readers/write_outputs.py FOLDER.

A folder is named KIND-PARTS-REJECTS. The names of the inputs are such that a reader may take them
for splits of a data set.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import engine
from engine.demo import BUNDLE

TEXTS = ["uno", "dos", "tres", "cuatro", "cinco"]
PARTS = {
    "one": {"numbers": 5},
    "many": {"train": 5, "test-2024": 3, "numbers": 4},
    "empty": {"numbers": 5, "test": 0, "train": 4},
}


def main() -> None:
    folder = Path(sys.argv[1])
    for kind, parts, rejects in itertools.product(("arrow", "parquet"), PARTS, (True, False)):
        name = f"{kind}-{parts}-{'rejects' if rejects else 'none'}"
        corpus = folder / "corpora" / name
        corpus.mkdir(parents=True)
        for number, (file, rows) in enumerate(PARTS[parts].items()):
            objects = [{"id": 100 * number + i, "text": TEXTS[i]} for i in range(rows)]
            lines = [json.dumps(o) for o in objects] + ["{broken"] * (rejects and rows > 0)
            (corpus / f"{file}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        out = folder / "outputs" / name
        report = engine.run(
            BUNDLE, corpus, out, text="text", keep="id", on_error="reject", format=kind
        )
        ids = report.table()["id"].to_pylist()
        (folder / f"{name}.json").write_text(json.dumps(ids))


if __name__ == "__main__":
    main()
