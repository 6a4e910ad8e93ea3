"""The lines of a text file, plain or compressed, in chunks of whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from engine.core.types import CorpusFile
from engine.errors import InputError

CHUNK = 1 << 20
LONGEST_LINE = 256 << 20
_BOM = b"\xef\xbb\xbf"
_COMPRESSION = {"jsonl": None, "jsonl.gz": "gzip", "jsonl.zst": "zstd"}
_FOREIGN = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def _open(path: Path, kind: str) -> IO[bytes]:
    codec = _COMPRESSION[kind]
    if not path.stat().st_size:
        raise InputError(f"{path}: empty, which no {codec} file is", "copy or write it again")
    stream: IO[bytes] = pa.input_stream(str(path), compression=codec, buffer_size=CHUNK)
    return stream


def chunks(path: Path, kind: str, start: int, stop: int) -> Iterator[bytes]:
    """Whole lines, about CHUNK bytes at a time, without a byte order mark."""
    left = stop - start if kind == "jsonl" else -1
    rest: list[bytes] = []
    with path.open("rb") if kind == "jsonl" else _open(path, kind) as stream:
        if start:
            stream.seek(start)
        first = start == 0
        while block := stream.read(CHUNK if left < 0 else min(CHUNK, left)):
            left -= len(block) if left > 0 else 0
            if first:
                block, first = block.removeprefix(_BOM), False
            end = block.rfind(b"\n") + 1
            if end:
                yield b"".join([*rest, block[:end]])
                rest = []
            rest.append(block[end:])
            if sum(map(len, rest)) > LONGEST_LINE:
                raise InputError(
                    f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB",
                    "JSON lines have one object on each line",
                )
            if left == 0:
                break
    if last := b"".join(rest):
        yield last


def check_kind(file: CorpusFile, head: bytes) -> None:
    """Raise InputError where a file begins as one of another kind."""
    if kind := next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None):
        raise InputError(f"{file.path}: {kind}, not JSON lines", "rename it to its own ending")
