"""Types of columns by name, as Arrow writes them: `int64`, `list<string>`, `timestamp[us, tz=UTC]`.

`--schema` names them, in a JSON file or as the columns of an Arrow or Parquet file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core import json_text
from engine.core.local_file import opened
from engine.core.suggestions import path_meant
from engine.errors import SettingsError
from engine.library_errors import reason_of

if TYPE_CHECKING:
    import pyarrow as pa

_ALIASES = {
    *("bool", "string", "large_string", "binary", "large_binary", "date32", "date64"),
    *("float16", "float32", "float64", "halffloat", "float", "double"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("time32[s]", "time32[ms]", "time64[us]", "time64[ns]"),
    *(f"{name}[{unit}]" for name in ("timestamp", "duration") for unit in ("s", "ms", "us", "ns")),
}
_SAME = {"text": "string", "date32[day]": "date32", "date64[ms]": "date64"}
KNOWN = (
    "int8 to int64, uint8 to uint64, float32, float64, bool, string, large_string, binary, date32, "
    "timestamp[us], timestamp[us, tz=UTC], time64[us], duration[us], decimal128(20, 0), "
    "list<T>, struct<name: T, ...>"
)


def parse_type(text: str) -> pa.DataType:
    """The type that a text names.

    Raises:
        SettingsError: It names none.
    """
    import pyarrow as pa

    text = _SAME.get(text.strip(), text.strip())
    if text in _ALIASES:
        return pa.type_for_alias(text)
    if match := re.fullmatch(r"timestamp\[(s|ms|us|ns), tz=([\w/+:-]+)\]", text):
        return pa.timestamp(match[1], match[2])
    if match := re.fullmatch(r"decimal(128|256)?\((\d{1,2}), *(-?\d{1,2})\)", text):
        maker = pa.decimal256 if match[1] == "256" else pa.decimal128
        try:
            return maker(int(match[2]), int(match[3]))
        except ValueError as error:
            raise _unknown(text) from error
    if match := re.fullmatch(r"(large_)?list<(.*)>", text, re.DOTALL):
        return (pa.large_list if match[1] else pa.list_)(_parse_item(match[2]))
    if match := re.fullmatch(r"struct<(.*)>", text, re.DOTALL):
        return pa.struct(_fields(match[1]))
    raise _unknown(text)


def _unknown(text: str) -> SettingsError:
    return SettingsError(f"unknown type {text!r}", f"known: {KNOWN}")


def _parse_item(text: str) -> pa.DataType:
    """The type of a list's values, with a name such as `item: ` before it or without."""
    try:
        return parse_type(text)
    except SettingsError:
        name, _, kind = text.partition(": ")
        if not kind or "<" in name:
            raise
        return parse_type(kind)


def _fields(text: str) -> list[tuple[str, pa.DataType]]:
    fields = []
    for part in _divided(text):
        name, separator, kind = part.partition(":")
        if not separator or not name.strip():
            raise _unknown(part)
        fields.append((name.strip(), parse_type(kind)))
    return fields


def _divided(text: str) -> list[str]:
    """The parts between the commas that lie in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "<([") - (character in ">)]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts if text.strip() else []


def read_types(name: str, value: object) -> dict[str, str]:
    """Types by column, as text, of a mapping or of the file that a path names; for `Setting.read`.

    Raises:
        SettingsError: The file cannot be read, or a type is unknown.
    """
    where, types = f"{name} {value!r}", value
    if isinstance(value, (str, Path)):
        if not str(value):
            return {}
        where, types = str(value), _read_file(Path(value).expanduser())
    if not isinstance(types, Mapping):
        raise SettingsError(f"{where}: not types by column", 'such as {"id": "int64"}')
    return {str(column): _checked(where, str(column), kind) for column, kind in types.items()}


def _checked(where: str, column: str, kind: object) -> str:
    try:
        return str(parse_type(str(kind)))
    except SettingsError:
        message = f"{where}: column {column!r}: unknown type {str(kind)[:100]!r}"
        raise SettingsError(message, f"known: {KNOWN}") from None


def _read_file(path: Path) -> object:
    import pyarrow as pa

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet as pq

            return _by_column(pq.read_schema(opened(path)))
        if path.suffix.lower() in (".arrow", ".ipc", ".feather"):
            return _by_column(_arrow_schema(path))
        return json_text.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else reason_of(error)
        raise SettingsError(
            f"{path}: no types of columns: {reason}",
            f"{path_meant(path)}"
            'a JSON file such as {"id": "int64"}, or an Arrow or Parquet file with these columns',
        ) from error


def _arrow_schema(path: Path) -> pa.Schema:
    import pyarrow as pa

    with opened(path) as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        opener: Any = pa.ipc.open_file if is_file else pa.ipc.open_stream
        return opener(stream).schema


def _by_column(schema: pa.Schema) -> dict[str, str]:
    import pyarrow as pa

    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    types = (
        (field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in schema
    )
    return {name: str(plain.get(kind, kind)) for name, kind in types}


def types_of(schema: str | Mapping[str, str]) -> dict[str, pa.DataType]:
    """The types of columns that a setting `schema` gives."""
    types = read_types("schema", schema)
    return {name: parse_type(kind) for name, kind in types.items()}
