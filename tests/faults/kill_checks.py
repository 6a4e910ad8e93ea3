"""What has to be right in an output, whenever its run was killed; without the engine's code."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Contents = Mapping[str, bytes]
_PART = re.compile(r"part-\d{5,}-.+\.(arrow|parquet|jsonl|csv)")


def contents(root: Path) -> Contents:
    """All files but the inputs, locks and what each start did, by their paths; records are only
    named."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.parent.name != "starts")
    names = {path: path.relative_to(root).as_posix() for path in files}
    return {
        name: b"" if _is_record(path) else path.read_bytes()
        for path, name in names.items()
        if not name.startswith("in/") and path.name != ".lock"
    }


def _is_record(path: Path) -> bool:
    return path.suffix == ".json" or path.name == "_SUCCESS"


def differences(left: Contents, expected: Contents) -> list[str]:
    """In what two outputs differ, in words."""
    missing = [f"{name} is missing" for name in expected if name not in left]
    surplus = [f"{name} is left over" for name in left if name not in expected]
    both = (name for name in expected if name in left and left[name] != expected[name])
    return missing + surplus + [f"{name} has other bytes" for name in both]


def problems(root: Path, name: str) -> list[str]:
    """Where an output's `_SUCCESS` does not hold; [] where it has none."""
    out = root / (name if (root / name).is_dir() else f".{name}.run")
    if not (out / "_SUCCESS").exists():
        return []
    named = json.loads((out / "_SUCCESS").read_text())["files"]
    records = {file: _read(out / "_manifest" / f"{Path(file).stem}.json") for file in named}
    outputs = [
        record[kind] for record in records.values() for kind in ("part", "rejects") if record[kind]
    ]
    wrong = [f"{file} has no record" for file, record in records.items() if not record["part"]]
    wrong += [text for output in outputs for text in _differs(out, output)]
    known = {output["file"] for output in outputs}
    there = [*out.glob("part-*"), *(out / "_manifest" / "rejects").glob("part-*")]
    there = [path for path in there if _PART.fullmatch(path.name)]
    return wrong + [
        f"{path.name} has no record beside _SUCCESS"
        for path in there
        if path.relative_to(out).as_posix() not in known
    ]


def _differs(out: Path, output: Mapping[str, Any]) -> Iterator[str]:
    file = out / output["file"]
    if not file.is_file():
        yield f"{output['file']} is gone, and _SUCCESS is there"
    elif hashlib.sha256(file.read_bytes()).hexdigest() != output["sha256"]:
        yield f"{output['file']} is not what its record says, and _SUCCESS is there"


def _read(record: Path) -> Mapping[str, Any]:
    empty = {"part": None, "rejects": None}
    return json.loads(record.read_text()) if record.is_file() else empty
