"""What the engine reads of files, as plain values: every row, good or bad, by its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from engine import data
from engine.core.config import RunConfig
from engine.core.types import Column, CorpusFile


class Contents(NamedTuple):
    """What is read of a corpus.

    Attributes:
        rows: (text, kept values) of each good row by its number.
        rejects: (code, column) of each bad row by its number.
    """

    rows: dict[int, tuple[str, tuple[Any, ...]]]
    rejects: dict[int, tuple[str, str]]


def read_all(path: Path, keep: Sequence[str] = ("all",), split_size: int = 1 << 28) -> Contents:
    """All rows of one file."""
    rows: dict[int, tuple[str, tuple[Any, ...]]] = {}
    rejects: dict[int, tuple[str, str]] = {}
    for window in _windows(path, keep, split_size):
        texts = window.texts[0].to_pylist()
        kept = zip(*(c.to_pylist() for c in window.kept.columns), strict=True)
        values = [*kept] if window.kept.num_columns else [()] * len(texts)
        rows |= dict(zip(window.numbers.tolist(), zip(texts, values, strict=True), strict=True))
        bad = window.rejects
        rejects |= dict(
            zip(bad.rows.tolist(), zip(bad.codes, bad.columns, strict=True), strict=True)
        )
    return Contents(rows, rejects)


def count_all(path: Path, keep: Sequence[str] = ("all",)) -> tuple[int, int]:
    """How many rows of a file are good and bad, without holding them."""
    good = bad = 0
    for window in _windows(path, keep, 1 << 28):
        good, bad = good + len(window), bad + len(window.rejects.rows)
    return good, bad


def first_rows(path: Path, most: int) -> int:
    """How many rows of a file are read until there are `most`."""
    count = 0
    for window in _windows(path, ("all",), 1 << 28):
        count += len(window) + len(window.rejects.rows)
        if count >= most:
            break
    return count


def _windows(path: Path, keep: Sequence[str], split_size: int) -> Iterator[Any]:
    files: list[CorpusFile] = data.find_files([path])
    columns = replace(
        data.settle(files, [Column("text")], tuple(keep)), max_row_bytes=RunConfig().max_row_bytes
    )
    for split in data.split_files(files, split_size):
        yield from data.read(split, columns, window=4096)
