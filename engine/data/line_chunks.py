"""The lines of a text file, plain or compressed, in chunks of whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from engine.core.types import CorpusFile
from engine.data.long_lines import LONG, NOTHING, LongLineReader, Wanted
from engine.errors import InputError

CHUNK = 1 << 20
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


def chunks(
    path: Path, kind: str, start: int, stop: int, wanted: Wanted = NOTHING
) -> Iterator[bytes]:
    """Whole lines, about CHUNK bytes at a time, without a byte order mark; a long line alone, as a
    LongLine that holds what is `wanted` of it."""
    rest: list[bytes] = []
    long: LongLineReader | None = None
    for block in _blocks(path, kind, start, stop):
        begin = 0
        if long is not None:
            end = block.find(b"\n")
            long.feed(block if end < 0 else block[:end])
            if end < 0:
                continue
            yield long.end(b"\n")
            long, begin = None, end + 1
        end = block.rfind(b"\n", begin) + 1
        if end:
            yield b"".join([*rest, block[begin:end]])
            rest = []
        rest.append(block[end or begin :])
        if sum(map(len, rest)) > LONG:
            long = LongLineReader(wanted)
            for piece in rest:
                long.feed(piece)
            rest = []
    if long is not None:
        yield long.end(b"")
    elif last := b"".join(rest):
        yield last


def _blocks(path: Path, kind: str, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of a range, or of a whole compressed file, without a byte order mark."""
    left = stop - start if kind == "jsonl" else -1
    with path.open("rb") if kind == "jsonl" else _open(path, kind) as stream:
        if start:
            stream.seek(start)
        first = start == 0
        while left and (block := stream.read(CHUNK if left < 0 else min(CHUNK, left))):
            left -= len(block) if left > 0 else 0
            yield block.removeprefix(_BOM) if first else block
            first = False


def check_kind(file: CorpusFile, head: bytes) -> None:
    """Raise InputError where a file begins as one of another kind."""
    if kind := next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None):
        raise InputError(f"{file.path}: {kind}, not JSON lines", "rename it to its own ending")
