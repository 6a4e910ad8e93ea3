"""Where a row came from, as columns that may be kept: its file, its number, and Hive keys.

    _file       the file's name below the input that was given
    _row        the row's number within its file, from 0, as bad rows have it
    KEY         of folders called KEY=VALUE on the way to the file, such as year=2024/month=01

A column that a file has itself comes before. The values of a key are decoded as addresses are, and
whole numbers where all of the corpus are, none with a zero before it; Hive's name for null is null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from engine.core.types import Columns, CorpusFile, Rows
from engine.errors import ColumnError
from engine.printable import encodable

FILE, ROW = "_file", "_row"
_ALWAYS = {FILE: pa.string(), ROW: pa.int64()}
_NULL = "__HIVE_DEFAULT_PARTITION__"
_FOLDER = re.compile(r"([^=]+)=(.*)", re.S)
_WHOLE = re.compile(r"-?[1-9]\d{0,17}|0")


def partition_of(name: str) -> tuple[tuple[str, str], ...]:
    """Keys and values, as text, of the folders called key=value in a file's name; of a key that
    comes twice the last."""
    if "=" not in name:
        return ()
    folders = (_FOLDER.fullmatch(folder) for folder in name.split("/")[:-1])
    return tuple({unquote(f[1]): unquote(f[2]) for f in folders if f}.items())


def derived_types(files: Sequence[CorpusFile]) -> dict[str, pa.DataType]:
    """Types of the columns that a corpus has from where its rows lie, by name, Hive keys first."""
    whole: dict[str, bool] = {}
    for file in files:
        for key, value in file.partition:
            fits = value == _NULL or bool(_WHOLE.fullmatch(value))
            whole[key] = whole.get(key, True) and fits
    keys = {key: pa.int64() if fits else pa.string() for key, fits in whole.items()}
    return keys | {name: kind for name, kind in _ALWAYS.items() if name not in keys}


def check_alike(name: str, own: CorpusFile, files: Mapping[str, frozenset[str]]) -> None:
    """Raise ColumnError where a kept column is one of a file, and a key in the folders of another.

    Args:
        name: Of the column.
        own: A file that has it.
        files: The keys in the folders of each file that are no columns of it.
    """
    if other := next((path for path, keys in files.items() if name in keys), None):
        raise ColumnError(
            f"{own.path}: has a column {name!r} of its own, and for {other} it is in the name of "
            "its folder",
            f"leave {name!r} out of --keep, or run these files apart",
        )


def with_origins(rows: Rows, columns: Columns) -> Rows:
    """Rows with the derived columns among the kept ones, in the settled order."""
    if not columns.derived:
        return rows
    assert rows.split is not None
    assert rows.numbers is not None
    assert rows.kept is not None
    partition = dict(rows.split.file.partition)
    arrays = []
    for field in columns.kept:
        if field.name not in columns.derived:
            arrays.append(rows.kept.column(field.name))
        elif field.name == ROW and ROW not in partition:
            arrays.append(pa.array(np.asarray(rows.numbers, np.int64)).cast(field.type))
        else:
            value = value_of(rows.split.file, field)
            arrays.append(pa.repeat(value, len(rows)).cast(field.type))
    return replace(rows, kept=pa.RecordBatch.from_arrays(arrays, schema=columns.kept))


def value_of(file: CorpusFile, field: pa.Field) -> pa.Scalar:
    """The value that a derived column has in all rows of a file; for `ROW` it has none.

    Raises:
        ColumnError: A type was given for a key, and the value does not fit.
    """
    text = dict(file.partition).get(field.name, file.name if field.name == FILE else _NULL)
    value = None if text == _NULL else encodable(text)
    try:
        return pa.scalar(value, pa.string()).cast(field.type)
    except pa.ArrowException as error:
        raise ColumnError(
            f"{file.path}: {field.name!r} in the name of its folder is no {field.type}",
            f"give {field.name!r} another type with --schema",
        ) from error
