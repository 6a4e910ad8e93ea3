"""Files to splits: whole files, or ranges of large ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from engine.core.activity import proceed, proceeding, working
from engine.core.types import CorpusFile, InputPath, Split
from engine.data.columnar import row_count, row_group_starts
from engine.data.json_layout import LINES
from engine.data.line_chunks import layout
from engine.data.object_files import ObjectPath
from engine.errors import InputError
from engine.printable import plain_name

CUT = ("parquet", "jsonl")
"""Kinds of files of which a large one is several splits."""
_CHUNK = 1 << 20
_OF_LINES = ("jsonl", "txt")
"""Kinds that are cut between lines."""


def split_files(
    files: Sequence[CorpusFile],
    split_size: int,
    states: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Iterator[Split]:
    """Cut files into splits, in order.

    Where a file is larger than `split_size` bytes, Parquet is cut between row groups, and plain
    text or JSON lines between lines; every other file is one split.

    Args:
        files: The files.
        split_size: Bytes.
        states: Their sizes and dates by name, of those that have been looked at already.

    Raises:
        InputError: A file cannot be opened.
    """
    for file in proceeding(files):
        try:
            state = states.get(file.name)
            yield from _split_file(file, state[0] if state else _size(file), split_size)
        except OSError as error:
            raise InputError(f"{file.path}: {error.strerror or error}", "check the file") from error


def _split_file(file: CorpusFile, size: int, split_size: int) -> Iterator[Split]:
    kind = file.kind
    # The hash is of the whole name, so that a/x.parquet and b/x.parquet have parts of their own;
    # it does not depend on the other inputs, so that adding one does not rename the rest.
    digest = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:8]
    name = f"{plain_name(_last(file).split('.')[0][:50])}-{digest}"
    if size <= split_size:
        yield Split(file, 0, name, 0, size)
        return
    path = file.path
    if kind == "parquet":
        groups = _row_group_ranges(row_group_starts(path), size, split_size)
        for i, (first, end, row, start, stop) in enumerate(groups):
            yield Split(file, i, name, start, stop, (first, end), row)
    elif kind in _OF_LINES and layout(path, kind) == LINES:
        for i, (start, stop, row) in enumerate(_line_ranges(path, size, split_size)):
            yield Split(file, i, name, start, stop, first_row=row)
    else:
        yield Split(file, 0, name, 0, size)


def _size(file: CorpusFile) -> int:
    place = file.place
    return (os.stat(file.text) if isinstance(place, str) else place.stat()).st_size


def _last(file: CorpusFile) -> str:
    """The last part of a file's path."""
    return os.path.basename(file.name) if isinstance(file.place, str) else file.path.name


def _row_group_ranges(
    groups: list[tuple[int, int]], size: int, split_size: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """(first group, end group, first row, start, stop) of neighbouring row groups that together
    have about split_size bytes."""
    if not groups:
        yield 0, 0, 0, 0, size
    starts = [0, *(start for start, _ in groups[1:]), size]
    first = 0
    for end in range(1, len(groups) + 1):
        if starts[end] - starts[first] >= split_size or end == len(groups):
            yield first, end, groups[first][1], starts[first], starts[end]
            first = end


def _line_ranges(path: InputPath, size: int, split_size: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, lines before it) of ranges of whole lines that have about split_size bytes."""
    with path.open("rb") as stream:
        start = row = 0
        while start < size:
            stream.seek(min(start + split_size, size) - 1)
            while (line := stream.readline(_CHUNK)) and not line.endswith(b"\n"):
                pass
            stop = stream.tell()
            yield start, stop, row
            row += sum(chunk.count(b"\n") for chunk in _read_range(path, start, stop))
            start = stop


def _read_range(path: InputPath, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while start < stop and (chunk := stream.read(min(_CHUNK, stop - start))):
            start += len(chunk)
            yield chunk


def content_hash(split: Split) -> str:
    """Hex sha256 of all bytes that a split's rows depend on: what a resumed run compares, whatever
    the file's date is; of an object of a store, of its e-tag and size instead, unless the person
    wants its bytes compared.

    Raises:
        InputError: The file cannot be read.
    """
    with working("hashing", str(split.path)):
        return _content_hash(split)


def identities(split: Split) -> Iterator[str]:
    """What a run may have recorded as `content_hash` of a split; of an object of a store its bytes
    are read only where its e-tag is not what is looked for."""
    yield content_hash(split)
    if isinstance(path := split.path, ObjectPath):
        file = replace(split.file, place=replace(path, by_content=True))
        yield content_hash(replace(split, file=file))


def _content_hash(split: Split) -> str:
    digest = hashlib.sha256()
    if isinstance(split.path, ObjectPath) and (identity := split.path.identity()):
        return hashlib.sha256(f"e-tag {identity}".encode()).hexdigest()
    try:
        for start, stop in ((split.start, split.stop), _shared_range(split)):
            for chunk in _read_range(split.path, start, stop):
                proceed()
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{split.path}: {error.strerror or error}", "check the file") from error
    return digest.hexdigest()


def _shared_range(split: Split) -> tuple[int, int]:
    """(start, stop) of the bytes outside its own range that a split of a large file depends on: the
    head of JSON lines, which decides the types of the columns, or the footer of Parquet."""
    if split.kind == "jsonl":
        return 0, min(split.start, _CHUNK)
    size = split.path.stat().st_size
    if split.kind != "parquet" or split.stop >= size:
        return 0, 0
    length = b"".join(_read_range(split.path, size - 8, size - 4))
    return max(split.stop, size - 8 - int.from_bytes(length, "little")), size


def estimate_rows(split: Split) -> int:
    """About how many rows a split has, to estimate the time left; 0 where only reading it tells."""
    if split.kind == "parquet":
        return row_count(split.path, split.row_groups)
    if split.kind not in _OF_LINES:
        return 0
    try:
        if layout(split.path, split.kind) != LINES:
            return 0
        head = next(_read_range(split.path, split.start, split.stop), b"")
    except OSError:
        return 0  # reading its rows says what is wrong with the file
    return max(1, head.count(b"\n") * (split.stop - split.start) // len(head)) if head else 0
