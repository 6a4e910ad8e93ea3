"""Small files that unpack to much, or that take much work for their size: how each of them is read.

    PYTHONPATH=.:tests:benchmarks python -m faults.bombs --save FILE.json [--points NAME ...]

Each is read in a child, as a run reads it: seconds and memory, and how it ends. No row is lost: all
are read or refused, and none takes more than a gibibyte.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from faults.reading_rows import count_all
from faults.sandbox import CRASH, HANG, MIB, TRACEBACK, call_apart
from machine import describe

GIB = 1024 * MIB
HANG_SECONDS = 10.0
MOST_SECONDS = 120.0
ROW = b'{"text": "t", "id": 1}\n'
_HEADER = b"text,id\nt,1\n"


def _compressed(path: Path) -> IO[Any]:
    if path.suffix == ".gz":
        return gzip.open(path, "wb", compresslevel=1)
    return pa.output_stream(str(path), compression="zstd")


def _filled(before: bytes, piece: bytes, behind: bytes, size: int = GIB) -> Callable[[Path], None]:
    """What writes a file of `size` bytes of a piece, between two others."""

    def write(path: Path) -> None:
        block = piece * (16 * MIB // len(piece))
        with _compressed(path) as stream:
            stream.write(before)
            for _ in range(size // len(block)):
                stream.write(block)
            stream.write(behind)

    return write


def _lines(lines: Callable[[], Iterator[bytes]]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with open(path, "wb") as stream:
            stream.writelines(lines())

    return write


def _different_keys() -> Iterator[bytes]:
    for number in range(1_000_000):
        yield b'{"text": "t", "key%d": 1}\n' % number


def _keys_of_a_line() -> Iterator[bytes]:
    yield b'{"text": "t"'
    for number in range(1_000_000):
        yield b', "key%d": 1' % number
    yield b"}\n"


def _wide_csv() -> Iterator[bytes]:
    yield b"text," + b",".join(b"c%d" % n for n in range(40_000)) + b"\n"
    for _ in range(200):
        yield b"t" + b",1" * 40_000 + b"\n"


def _repeated_text(path: Path) -> None:
    """Four gigabytes of text that Parquet's dictionary holds once."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), ["x" * MIB])
    pq.write_table(pa.table({"text": words}), path, row_group_size=4096)


def _nulls(path: Path) -> None:
    rows = 1_000_000
    pq.write_table(pa.table({"text": pa.nulls(rows, pa.string())}), path, row_group_size=rows)


def _zipped_arrow(path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    batch = pa.record_batch({"text": ["x" * (64 * MIB)]})
    with pa.ipc.new_file(path, batch.schema, options=options) as writer:
        for _ in range(16):
            writer.write_batch(batch)


BOMBS: dict[str, Callable[[Path], None]] = {
    "blank-lines.jsonl.gz": _filled(ROW, b"\n", ROW),
    "blank-lines.jsonl.zst": _filled(ROW, b" \r\n", ROW),
    "blank-lines.csv.gz": _filled(_HEADER, b"\n", b"t,2\n"),
    "blank-lines.txt.gz": _filled(b"t\n", b"\n", b"t\n", GIB // 8),
    "zeros.jsonl.gz": _filled(ROW, b"\0", b"\n" + ROW),
    "zeros.txt.gz": _filled(b"t\n", b"\0", b"\nt\n"),
    "zeros.csv.gz": _filled(_HEADER, b"\0", b"\nt,2\n"),
    "long-text.jsonl.zst": _filled(b'{"text": "', b"word ", b'"}\n' + ROW),
    "long-other.jsonl.gz": _filled(b'{"text": "t", "b": "', b"word ", b'"}\n' + ROW),
    "escapes.jsonl.gz": _filled(b'{"text": "', b"\\u0041", b'"}\n' + ROW, 192 * MIB),
    "open-lists.jsonl.gz": _filled(ROW, b"[", b"\n" + ROW),
    "nested-lists.jsonl.gz": _filled(b'{"text": "t", "a": ', b"[", b"}\n" + ROW, 64 * MIB),
    "spaces-before.json.gz": _filled(b"", b" ", b'[{"text": "t"}]'),
    "spaces-within.json.gz": _filled(b'[{"text": "t"}', b" ", b"]"),
    "different-keys.jsonl": _lines(_different_keys),
    "keys-of-a-line.jsonl": _lines(_keys_of_a_line),
    "columns.csv": _lines(_wide_csv),
    "commas.csv.gz": _filled(_HEADER, b",", b"\nt,2\n"),
    "open-quote.csv.gz": _filled(_HEADER + b'"', b"word ", b"\n"),
    "quotes.csv.gz": _filled(_HEADER + b'"', b'""', b'",3\n'),
    "repeated.parquet": _repeated_text,
    "nulls.parquet": _nulls,
    "zipped.arrow": _zipped_arrow,
}


def read(write: Callable[[Path], None], path: Path) -> dict[str, Any]:
    """How a bomb is read."""
    write(path)
    outcome = call_apart(count_all, path, seconds=MOST_SECONDS, space=8192 * MIB)
    size = path.stat().st_size
    path.unlink()
    result = {"bytes": size, "state": outcome.state, "seconds": round(outcome.seconds, 2)}
    value = outcome.value if isinstance(outcome.value, tuple) else outcome.value.split("\n")[0]
    return result | {"peak_mib": outcome.peak // MIB, "rows": value}


def faults_of(figures: dict[str, dict[str, Any]]) -> list[str]:
    """What must not be, in words."""
    bad = []
    for name, one in figures.items():
        if one["state"] in (CRASH, HANG, TRACEBACK):
            bad.append(f"{name}: {one['state']}")
        if one["seconds"] > HANG_SECONDS:
            bad.append(f"{name}: {one['seconds']} s")
        if one["peak_mib"] > 1024:
            bad.append(f"{name}: {one['peak_mib']} MiB")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", nargs="*", choices=BOMBS, default=[*BOMBS])
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.points:
            figures[name] = read(BOMBS[name], Path(scratch, name))
            print(name, json.dumps(figures[name]), flush=True)
    result = {"machine": describe(), "bombs": figures, "faults": faults_of(figures)}
    if arguments.save:
        arguments.save.write_text(json.dumps(result, indent=2) + "\n")
    print(*result["faults"], sep="\n")


if __name__ == "__main__":
    main()
