"""Answer the good rows of a file, and list the bad ones with their reasons.

    python examples/rejects.py OUT

By default the first bad row ends the run. `on_error="reject"` sets bad rows aside instead, and
`max_rejects` ends the run after all if there are more of them than that.
"""

import json
import sys
from pathlib import Path

import engine
from engine.demo import BUNDLE

LINES = [
    json.dumps({"id": 1, "text": "siete"}),
    json.dumps({"id": 2, "text": None}),  # no text
    '{"id": 3, "text": "nuev',  # broken JSON
    json.dumps({"id": 4, "text": "veintiuno"}),
]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "numerals.jsonl"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    try:
        engine.run(BUNDLE, file, folder / "strict", text="text")
    except engine.errors.RowError as error:
        print(f"on_error='fail': {error}")
    out = folder / "out"
    report = engine.run(
        BUNDLE, file, out, text="text", keep="id", on_error="reject", max_rejects=10
    )
    print(f"{report.rows_in} rows in, {report.rows_out} answered, rejected: {report.rejected}")
    for part in sorted((out / "_manifest/rejects").glob("*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            print(json.loads(line))


if __name__ == "__main__":
    main()
