"""Fields of nested columns under the names that reach them: `doc.text` is field `text` of `doc`.

A column that is called so itself comes before a field. A field of a Parquet file is read without
its neighbours; of other kinds of files the outermost column is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from engine.core.types import Columns, CorpusFile, Split
from engine.data.columnar import Names
from engine.data.kinds import KINDS
from engine.data.plain_types import PART_OF_STRUCT
from engine.data.stretches import Bad, Stretch
from engine.errors import ColumnError

FieldPath = tuple[str, ...]
_Fields = Mapping[str, pa.DataType]


def heads(name: str) -> list[str]:
    """The names that an outer column may have if this is one of its fields, the longest first."""
    return [name[:i] for i in reversed(range(1, len(name) - 1)) if name[i] == "."]


def locate(schema: pa.Schema, name: str) -> tuple[FieldPath, pa.DataType] | None:
    """Names from the outermost column to what a name reaches, and its type; None where there is no
    such column or field. A field of a column that only null has is null too."""
    return _locate({field.name: field.type for field in schema}, name)


def _locate(fields: _Fields, name: str) -> tuple[FieldPath, pa.DataType] | None:
    if name in fields:
        return (name,), fields[name]
    for head in (head for head in heads(name) if head in fields):
        kind, rest = fields[head], name[len(head) + 1 :]
        if pa.types.is_null(kind):
            return (head, *rest.split(".")), kind
        if pa.types.is_struct(kind) and (inner := _locate(_fields(kind), rest)):
            return (head, *inner[0]), inner[1]
    return None


def may_be_nested(file: CorpusFile, names: Iterable[str]) -> bool:
    """Whether some of these names may mean fields in the columns of a file."""
    return not KINDS[file.kind].untyped and any(map(heads, names))


def outer_names(names: Names) -> Names:
    """Names of the columns by which these names may be reached."""
    return names and list(dict.fromkeys([*names, *(one for name in names for one in heads(name))]))


def with_fields(schema: pa.Schema, names: Names, texts: Sequence[str]) -> pa.Schema:
    """Of the columns of a file those of these names, and behind them the fields that these names,
    or those of texts, reach."""
    columns = [field for field in schema if names is None or field.name in names]
    inner = (name for name in dict.fromkeys(names or texts) if name not in schema.names)
    located = ((name, place) for name in inner if (place := locate(schema, name)))
    fields = (
        pa.field(name, kind, metadata={_PATH: json.dumps(path)}) for name, (path, kind) in located
    )
    return pa.schema([*columns, *fields])


_PATH = b"path"


def take_paths(
    settled: dict[str, tuple[FieldPath, CorpusFile]],
    file: CorpusFile,
    schema: pa.Schema,
    names: Sequence[str],
) -> None:
    """Take where a file has these names into what is settled.

    Raises:
        ColumnError: It is in another place than in an earlier file.
    """
    for field in (schema.field(name) for name in names if name in schema.names):
        path = (field.name,)
        if is_inner(field):
            path = tuple(json.loads(field.metadata[_PATH]))
        before, first = settled.setdefault(field.name, (path, file))
        if path != before:
            raise ColumnError(
                f"{file.path}: {field.name!r} is {_place(path)}, and {_place(before)} in "
                f"{first.path}",
                "give the column another name, or run these files apart",
            )


def with_inner(
    types: dict[str, pa.DataType], schema: pa.Schema, names: Sequence[str]
) -> dict[str, pa.DataType]:
    """The types of columns with those of the fields that these names reach in their structs too."""
    changed = dict(types)
    for field in (schema.field(name) for name in names if is_inner(schema.field(name))):
        head, *rest = json.loads(field.metadata[_PATH])
        if head in types and pa.types.is_struct(changed[head]):
            changed[head] = _with_field(changed[head], rest, types[field.name])
    return changed


def is_inner(field: pa.Field) -> bool:
    """Whether a field of `with_fields` lies in a column."""
    return bool(field.metadata) and _PATH in field.metadata


def _place(path: FieldPath) -> str:
    return f"field {'.'.join(path[1:])!r} of column {path[0]!r}" if path[1:] else "a column"


def check_items(file: CorpusFile, schema: pa.Schema, names: Sequence[str]) -> None:
    """Raise ColumnError where a name means a field of what has none, such as items of a list."""
    for name in names:
        if locate(schema, name):
            continue
        if name in list_names(schema):
            raise ColumnError(
                f"{file.path}: two fields are called {name!r}", "give them different names"
            )
        outer = next((one for head in heads(name) if (one := locate(schema, head))), None)
        if outer and not pa.types.is_struct(outer[1]):
            raise ColumnError(
                f"{file.path}: no column {name!r}, and {'.'.join(outer[0])!r} holds {outer[1]}",
                "only fields of a struct or a JSON object are named with a dot",
            )


def list_names(schema: pa.Schema) -> list[str]:
    """Names of all columns and of the fields of structs."""
    return [name for field in schema for name in _list_names(field, "")]


def _list_names(field: pa.Field, before: str) -> Iterator[str]:
    name = before + field.name
    yield name
    if pa.types.is_struct(field.type):
        for i in range(field.type.num_fields):
            yield from _list_names(field.type.field(i), f"{name}.")


def _fields(kind: pa.DataType) -> dict[str, pa.DataType]:
    """Types of the fields of a struct, but for those that share a name."""
    fields = (kind.field(i) for i in range(kind.num_fields))
    return {field.name: field.type for field in fields if kind.get_field_index(field.name) >= 0}


def read_columns(split: Split, columns: Columns) -> Iterator[Stretch]:
    """As the reader of the split's kind, with fields of nested columns as columns of their own."""
    kind = KINDS[split.kind]
    if not columns.nested:
        yield from kind.read(split, columns)
        return
    inputs = [column for column in columns.inputs if column.name in columns.nested]
    types = {name: columns.kept.field(name).type for name in columns.kept.names}
    if kind.inputs and inputs and not kind.untyped:
        types |= kind.inputs(split.file, inputs)
    outer = _outer(columns, () if kind.untyped else columns.nested, types)
    for stretch in kind.read(split, outer):
        bad = [_of_input(one, columns) for one in stretch.bad]
        yield Stretch(_flat(stretch.columns, columns), stretch.rows, bad)


def _outer(columns: Columns, names: Iterable[str], types: _Fields) -> Columns:
    """What is read of a file: outermost columns, with those of their fields that are needed."""
    nested = columns.nested
    fields = {field.name: field for field in columns.kept if field.name not in nested}
    for name in names:
        head, *rest = nested[name]
        whole = fields.get(head)
        metadata = whole.metadata if whole else {PART_OF_STRUCT: "yes"}
        kind = whole.type if whole else pa.struct([])
        fields[head] = pa.field(
            head, _with_field(kind, rest, types.get(name, pa.string())), metadata=metadata
        )
    inputs = tuple(column for column in columns.inputs if column.name not in nested)
    return dataclasses.replace(
        columns, inputs=inputs, kept=pa.schema([*fields.values()]), nested={}
    )


def _with_field(kind: pa.DataType, path: Sequence[str], leaf: pa.DataType) -> pa.DataType:
    """A struct that has a type at the end of a path of fields."""
    if not path:
        return leaf
    fields = _fields(kind) if pa.types.is_struct(kind) else {}
    name, *rest = path
    fields[name] = _with_field(fields.get(name, pa.struct([])), rest, leaf)
    return pa.struct([*fields.items()])


def _flat(batch: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    """The needed columns of a batch that has their outermost ones; without those it lacks."""
    arrays = {}
    for name in dict.fromkeys([*columns.kept.names, *columns.texts]):
        array = _field_at(batch, columns.nested.get(name, (name,)))
        if array is not None:
            arrays[name] = array
    return pa.RecordBatch.from_arrays([*arrays.values()], names=[*arrays])


def _field_at(batch: pa.RecordBatch, path: FieldPath) -> pa.Array | None:
    """What lies at the end of a path, null where a struct on the way is."""
    head, *rest = path
    if head not in batch.schema.names:
        return None
    array = batch.column(head)
    for name in rest:
        if pa.types.is_null(array.type):
            return array
        index = array.type.get_field_index(name) if pa.types.is_struct(array.type) else -1
        if index < 0:
            return None
        array = pc.struct_field(array, [index])
    return array


def _of_input(bad: Bad, columns: Columns) -> Bad:
    """A bad row whose fault lies in an input column, as such."""
    if bad.code != "kept_type":
        return bad
    names = (".".join(columns.nested[n]) for n in columns.texts if n in columns.nested)
    places = [bad.column, *heads(bad.column), bad.column.partition("[")[0]]
    if any(name in places or bad.column in heads(name) for name in names):
        return bad._replace(code="not_text")
    return bad
