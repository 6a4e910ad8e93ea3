"""The columns of a run, settled over all files of its corpus before the first batch.

Each part of a run has the same schema: a kept column has one type in all of them, the one that
Arrow's permissive promotion gives the types of the files. What cannot be promoted is refused, and
the error names both files.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from engine.core.types import Column, Columns, CorpusFile
from engine.data.columnar import Names, check_columns, check_type
from engine.data.kinds import KINDS
from engine.errors import ColumnError, InputError


def settle(files: Sequence[CorpusFile], inputs: Sequence[Column], keep: Sequence[str]) -> Columns:
    """Check the columns of every file, and settle the types of those that are kept.

    Args:
        files: The corpus.
        inputs: The columns that the task takes; every file must have them.
        keep: Names of the columns to keep; ("all",) for every one of any file.

    Raises:
        ColumnError: A file lacks an input column or no file has a kept one, a column is not of the
            type that the task takes, or two files have types of a kept column that do not unify.
        InputError: A file cannot be read.
    """
    every = tuple(keep) == ("all",)
    texts = [column.name for column in inputs]
    kept: dict[str, tuple[pa.DataType, CorpusFile]] = {}
    for file in files:
        schema = _schema(file, None if every else [*texts, *keep], types=bool(keep))
        if not len(schema) and _names_nothing(file):
            continue
        if missing := [name for name in texts if name not in schema.names]:
            check_columns(file.path, _schema(file, None).names, "--text", missing)
        for column in inputs if KINDS[file.kind].typed else ():
            check_type(file.path, column, schema.field(column.name).type)
        for name in schema.names if every else keep:
            if name in schema.names:
                _promote(kept, name, schema.field(name).type, file)
    return Columns(tuple(inputs), _ordered(files, kept, keep))


def _schema(file: CorpusFile, names: Names, *, types: bool = True) -> pa.Schema:
    """Names and types of a file's columns, each once."""
    schema: pa.Schema = KINDS[file.kind].schema(file, names, types)
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise InputError(
            f"{file.path}: two columns are called {twice!r}", "give them different names"
        )
    return schema


def _names_nothing(file: CorpusFile) -> bool:
    """Whether the columns of a file are named by its lines, and it has no line that does."""
    return not KINDS[file.kind].typed and not len(_schema(file, None))


def _promote(
    kept: dict[str, tuple[pa.DataType, CorpusFile]], name: str, kind: pa.DataType, file: CorpusFile
) -> None:
    """Take a file's type of a kept column into the settled one."""
    if name not in kept:
        kept[name] = kind, file
        return
    before, first = kept[name]
    if before == kind:
        return
    try:
        schemas = [pa.schema([(name, one)]) for one in (before, kind)]
        settled = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException as error:
        raise ColumnError(
            f"{file.path}: column {name!r} holds {kind}, and {before} in {first.path}",
            f"leave {name!r} out of --keep, or write both files with one type",
        ) from error
    kept[name] = settled, first if settled == before else file


def _ordered(
    files: Sequence[CorpusFile],
    kept: dict[str, tuple[pa.DataType, CorpusFile]],
    keep: Sequence[str],
) -> pa.Schema:
    """The settled columns in the order of `keep` or, for all, in that of the files."""
    if tuple(keep) == ("all",):
        return pa.schema([(name, _writable(kind)) for name, (kind, _) in kept.items()])
    for name in keep:
        if name not in kept:
            named = next((file for file in files if not _names_nothing(file)), None)
            if named is not None:
                check_columns(named.path, _schema(named, None).names, "--keep", [name])
    types = {name: _writable(kind) for name, (kind, _) in kept.items()}
    return pa.schema([(name, types.get(name, pa.string())) for name in dict.fromkeys(keep)])


def _writable(kind: pa.DataType) -> pa.DataType:
    """The type of a column in the parts: text where every value of the corpus is null."""
    return pa.string() if pa.types.is_null(kind) else kind
