"""The lines of a text file, plain or compressed, in chunks of whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import IO

from engine.core.types import InputPath
from engine.data.compression import compression_of, open_bytes, plain_kind
from engine.data.json_layout import LINES, as_lines, layout_of
from engine.data.long_lines import LONG, NOTHING, LongLineReader, Wanted

CHUNK = 1 << 20
HEAD = CHUNK - 64
"""First bytes of a file that tell what it is; a block has so many, with or without its mark."""
_BOM = b"\xef\xbb\xbf"


def chunks(
    path: InputPath, kind: str, start: int, stop: int, wanted: Wanted = NOTHING
) -> Iterator[bytes]:
    """Whole lines, about CHUNK bytes at a time, without a byte order mark; a long line alone, as a
    LongLine that holds what is `wanted` of it."""
    rest: list[bytes] = []
    long: LongLineReader | None = None
    for block in _lines(path, kind, start, stop):
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


def first_bytes(path: InputPath, kind: str) -> bytes:
    """About HEAD bytes of a file, decompressed, as they are."""
    return b"".join(_head(blocks(path, kind, 0, path.stat().st_size)))


def layout(path: InputPath, kind: str) -> str:
    """How a file is laid out, by its first bytes; see `json_layout.layout_of`."""
    return _layout(kind, _head(blocks(path, kind, 0, path.stat().st_size)))


def _lines(path: InputPath, kind: str, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of a range, or of a whole compressed file, as lines; see `json_layout.as_lines`."""
    content = blocks(path, kind, start, stop)
    if start or (not compression_of(kind) and stop < path.stat().st_size):
        return content  # only a file of lines is cut into ranges
    head = _head(content)
    form, content = _layout(kind, head), chain(head, content)
    return content if form == LINES else as_lines(path, content, form)


def _head(content: Iterator[bytes]) -> list[bytes]:
    """The first blocks, of HEAD bytes together."""
    head: list[bytes] = []
    while sum(map(len, head)) < HEAD and (block := next(content, None)) is not None:
        head.append(block)
    return head


def _layout(kind: str, head: list[bytes]) -> str:
    if plain_kind(kind) != "jsonl":
        return LINES
    content = b"".join(head)
    return layout_of(content[:HEAD], whole=len(content) < HEAD)


def blocks(path: InputPath, kind: str, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of a range, or of a whole compressed file, CHUNK at a time, without a byte order
    mark."""
    with open_bytes(path, kind) as stream:
        if start:
            stream.seek(start)
        left = -1 if compression_of(kind) else stop - start
        while left and (block := _read(stream, CHUNK if left < 0 else min(CHUNK, left))):
            left -= len(block) if left > 0 else 0
            yield block.removeprefix(_BOM) if not start else block
            start = 1


def _read(stream: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
