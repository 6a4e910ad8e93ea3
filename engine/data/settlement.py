"""The columns of a run, settled over all files of its corpus before the first batch.

Each part of a run has the same schema: a kept column has one type in all of them, the one that
Arrow's permissive promotion gives the types of the files. What cannot be promoted is refused, and
the error names both files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import pyarrow as pa

from engine.core.activity import proceeding
from engine.core.types import Column, Columns, CorpusFile
from engine.data.columnar import Names, check_columns, check_fields, check_type, is_text, unify
from engine.data.json_values import LONG, LONGEST
from engine.data.kinds import KINDS
from engine.data.nested_fields import (
    FieldPath,
    check_items,
    heads,
    is_inner,
    list_names,
    may_be_nested,
    outer_names,
    take_paths,
    with_fields,
    with_inner,
)
from engine.data.origins import FILE, ROW, check_alike, derived_types
from engine.data.schema_cache import SchemaCache
from engine.errors import ColumnError, InputError


def settle(
    files: Sequence[CorpusFile],
    inputs: Sequence[Column],
    keep: Sequence[str],
    given: Mapping[str, pa.DataType] = MappingProxyType({}),
    cache: SchemaCache | None = None,
) -> Columns:
    """Check the columns of every file, and settle the types of those that are kept.

    Args:
        files: The corpus.
        inputs: The columns that the task takes; every file must have them.
        keep: Names of the columns to keep, those of `origins` among them; "all" first, for every
            column of any file and every Hive key.
        given: Types of columns that the person gave; no file is read for these.
        cache: What passes over large files have found at an earlier start.

    Raises:
        ColumnError: A file lacks an input column or no file has a kept or given one, a column is
            not of the type that the task takes, or two files have types of a kept column that do
            not unify.
        InputError: A file cannot be read.
    """
    types, first, paths = _types_of_files(files, inputs, keep, given, cache)
    derived = derived_types(files)
    _check_given(files, [name for name in given if name not in types], derived)
    by_hand = [name for name in given if name in keep or (is_every(keep) and name in derived)]
    hand = {name: given[name] for name in by_hand}
    derived = {name: hand.pop(name, kind) for name, kind in derived.items() if name not in types}
    types |= hand
    keys = (name for name in derived if name not in (FILE, ROW))
    names = list(dict.fromkeys([*types, *keys, *keep[1:]] if is_every(keep) else keep))
    every = types | derived
    if first and (absent := [name for name in names if name not in every]):
        _refuse_missing(first, _schema(first, None, types=False), "--keep", absent)
    nested = {name: path for name, path in paths.items() if path[1:]}
    _check_not_nested(given, nested)
    settled = {name: _writable(every.get(name, pa.null())) for name in names}
    return Columns(
        tuple(inputs),
        pa.schema(list(settled.items())),
        frozenset(given) & frozenset(names),
        frozenset(derived) & frozenset(names),
        nested=nested,
    )


def _types_of_files(
    files: Sequence[CorpusFile],
    inputs: Sequence[Column],
    keep: Sequence[str],
    given: Mapping[str, pa.DataType],
    cache: SchemaCache | None,
) -> tuple[dict[str, pa.DataType], CorpusFile | None, dict[str, FieldPath]]:
    """Check the columns of every file.

    Returns:
        The types of the kept columns that files have, but for those that only `given` has looked
        at, the first file with columns, and where names lie in the files.
    """
    texts, every = [column.name for column in inputs], is_every(keep)
    open_types = [name for name in keep if name not in given or heads(name)]
    paths: dict[str, tuple[FieldPath, CorpusFile]] = {}
    kept: dict[str, tuple[pa.DataType, CorpusFile]] = {}
    in_folders: dict[str, frozenset[str]] = {}
    first: CorpusFile | None = None
    alike = _Alike()
    for file in proceeding(files):
        of_lines = KINDS[file.kind].inputs
        wanted = None if every else [*texts, *(open_types if of_lines else keep)]
        read = _read_schema(file, wanted, texts, types=bool(open_types), cache=cache)
        known = None if of_lines or file.constants else alike.types(file, read)
        if known is not None:
            _note_keys(in_folders, file, known)
            continue
        schema = _checked_schema(file, read, wanted, texts)
        take_paths(paths, file, schema, [*texts, *open_types])
        types = {field.name: field.type for field in schema}
        if missing := [name for name in texts if name not in types]:
            columns = _schema(file, None, types=False)
            if of_lines and not columns.names:
                continue  # no line of it names a column
            _refuse_missing(file, columns, "--text", missing)
        first = first or file
        _note_keys(in_folders, file, types)
        if of_lines:
            types = with_inner(types | of_lines(file, inputs), schema, texts)
        else:
            for column in inputs:
                check_type(file.path, column, types[column.name])
        for name in [f.name for f in schema if not is_inner(f)] if every else keep:
            if name in types:
                if name in given and not of_lines:
                    _check_cast(file, name, types[name], given[name])
                _promote(kept, name, given.get(name, types[name]), file, paths.get(name))
        alike.add(file, read, types)
    if first:
        check_fields(first.path, (kind for kind, _ in kept.values()))
    for name, (kind, own) in kept.items():
        _check_depth(own, name, kind)
        check_alike(name, own, in_folders)
    places = {name: path for name, (path, _) in paths.items()}
    return {name: kind for name, (kind, _) in kept.items()}, first, places


class _Alike:
    """Schemas of files that were settled, each with its types: another file of one of these changes
    nothing."""

    def __init__(self) -> None:
        self._schemas: dict[str, list[tuple[pa.Schema, Mapping[str, pa.DataType]]]] = {}

    def types(self, file: CorpusFile, schema: pa.Schema) -> Mapping[str, pa.DataType] | None:
        """The types of a file with this schema, where one of its kind was settled."""
        schemas = self._schemas.get(file.kind, ())
        return next((types for other, types in schemas if schema.equals(other)), None)

    def add(self, file: CorpusFile, schema: pa.Schema, types: Mapping[str, pa.DataType]) -> None:
        """Remember a file that was settled."""
        schemas = self._schemas.setdefault(file.kind, [])
        if len(schemas) < _MOST_ALIKE and not file.constants:
            schemas.append((schema, types))


_MOST_ALIKE = 8


def _note_keys(
    in_folders: dict[str, frozenset[str]], file: CorpusFile, types: Mapping[str, pa.DataType]
) -> None:
    """Note the keys in the names of a file's folders that are no columns of it."""
    if file.partition:
        in_folders[file.text] = frozenset(key for key, _ in file.partition if key not in types)


def _refuse_missing(
    file: CorpusFile, columns: pa.Schema, flag: str, missing: Sequence[str]
) -> None:
    check_items(file, columns, missing)
    check_columns(file.path, list_names(columns), flag, missing)


def _check_not_nested(given: Mapping[str, pa.DataType], nested: Mapping[str, FieldPath]) -> None:
    """Raise ColumnError where a type is given for a field of a nested column."""
    if inner := next((name for name in given if name in nested), None):
        raise ColumnError(
            f"--schema: {inner!r} is a field of column {nested[inner][0]!r}",
            f"leave it out of --schema, or keep {nested[inner][0]!r} and give its type",
        )


def is_every(keep: Sequence[str]) -> bool:
    """Whether all columns are kept: `all`, beside which `_file` and `_row` may be named."""
    return tuple(keep[:1]) == ("all",) and {*keep[1:]} <= {FILE, ROW}


def _check_given(
    files: Sequence[CorpusFile], names: Sequence[str], derived: Collection[str]
) -> None:
    """Raise ColumnError where a type is given for a column that no file has, nor its folders."""
    missing = list(names)
    for file in files:
        if not missing:
            return
        there = _schema(file, missing, types=False).names
        missing = [name for name in missing if name not in there]
    if files and (missing := [name for name in missing if name not in derived]):
        listed = ", ".join(map(repr, _schema(files[0], None, types=False).names[:30]))
        raise ColumnError(
            f"--schema: no file has a column {missing[0]!r}",
            f"{files[0].path} has: {listed or 'no columns'}",
        )


def _schema(
    file: CorpusFile,
    names: Names,
    texts: Sequence[str] = (),
    *,
    types: bool,
    cache: SchemaCache | None = None,
) -> pa.Schema:
    """Names and types of a file's columns, each once, and of the fields of nested ones that the
    names, or those of texts, reach."""
    read = _read_schema(file, names, texts, types=types, cache=cache)
    return _checked_schema(file, read, names, texts)


def _read_schema(
    file: CorpusFile,
    names: Names,
    texts: Sequence[str],
    *,
    types: bool,
    cache: SchemaCache | None,
) -> pa.Schema:
    """Names and types of a file's columns as it has them."""
    types = types or may_be_nested(file, [*(names or ()), *texts])
    outer = outer_names(names)
    read = partial(KINDS[file.kind].schema, file, outer, types)
    passes = cache is not None and types and KINDS[file.kind].inputs is not None
    return cache.schema(file, outer and sorted(outer), read) if cache and passes else read()


def _checked_schema(
    file: CorpusFile, schema: pa.Schema, names: Names, texts: Sequence[str]
) -> pa.Schema:
    """As `_schema`, of what was read of a file."""
    for name, value in file.constants:
        if name not in schema.names and (names is None or name in names):
            schema = schema.append(pa.field(name, value.type))
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise InputError(
            f"{file.path}: two columns are called {twice!r}", "give them different names"
        )
    check_items(file, schema, names or texts)
    return with_fields(schema, names, texts)


def _promote(
    kept: dict[str, tuple[pa.DataType, CorpusFile]],
    name: str,
    kind: pa.DataType,
    file: CorpusFile,
    place: tuple[FieldPath, CorpusFile] | None,
) -> None:
    """Take a file's type of a kept column into the settled one: text where files of texts differ,
    whatever they seem to hold, or differ from the texts of another kind of file."""
    if name not in kept:
        kept[name] = kind, file
        return
    before, first = kept[name]
    typed = file if KINDS[first.kind].untyped else first
    if before == kind:
        kept[name] = before, typed
        return
    try:
        settled = unify(before, kind)
    except pa.ArrowException as error:
        texts = [of for of, at in ((before, first), (kind, file)) if at is typed and is_text(of)]
        mixed = any(KINDS[one.kind].untyped for one in (first, file))
        if KINDS[typed.kind].untyped or (mixed and texts):
            kept[name] = (*texts, pa.string())[0], typed
            return
        hint = (
            f'give its type with --schema, such as {{{json.dumps(name)}: "string"}} in a JSON file'
        )
        nested = before.num_fields or kind.num_fields  # which Arrow does not cast to text
        if nested or (place and place[0][1:]):
            hint = "cast it in one of the files, or run these files apart"
        raise ColumnError(
            f"{file.path}: column {name!r} holds {kind}, and {before} in {first.path}",
            f"leave {name!r} out of --keep, or {hint}",
        ) from error
    kept[name] = settled, typed if settled == before else file


def _check_depth(file: CorpusFile, name: str, kind: pa.DataType) -> None:
    """Raise ColumnError where a type has more levels than a reader of Arrow files takes."""
    level, kinds = 0, [kind]
    while kinds := [one.field(i).type for one in kinds for i in range(one.num_fields)]:
        level += 1
        if level > _LEVELS:
            raise ColumnError(
                f"{file.path}: column {name!r} has lists or structs on more than {_LEVELS} levels",
                f"leave {name!r} out of --keep, or write it as text",
            )


_LEVELS = 60  # Arrow's readers take 63


def _check_cast(file: CorpusFile, name: str, kind: pa.DataType, given: pa.DataType) -> None:
    """Raise ColumnError where a file has a type that Arrow casts to the given one for no value."""
    try:
        pa.nulls(0, kind).cast(given)
    except pa.ArrowNotImplementedError as error:
        raise ColumnError(
            f"--schema: {file.path}: column {name!r} holds {kind}, which cannot become {given}",
            f"give it another type, or leave {name!r} out of --schema",
        ) from error


def long_numbers(columns: Columns, files: Sequence[CorpusFile]) -> list[str]:
    """Names of kept columns that are decimals since JSON has longer whole numbers than 64 bits."""
    if not any(KINDS[file.kind].inputs for file in files):
        return []
    fields = (field for field in columns.kept if field.name not in columns.given)
    return [f"{field.name} ({field.type})" for field in fields if _is_long(field.type)]


def _is_long(kind: pa.DataType) -> bool:
    nested = (kind.field(i).type for i in range(kind.num_fields))
    return kind in (LONG, LONGEST) or any(map(_is_long, nested))


def _writable(kind: pa.DataType) -> pa.DataType:
    """The type of a column in the parts: text where every value of the corpus is null."""
    return pa.string() if pa.types.is_null(kind) else kind
