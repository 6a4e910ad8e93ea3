"""Single values of JSON lines: parsed without loss, named in words, and compared with a type."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, NamedTuple, TypeGuard

import pyarrow as pa

LONG = pa.decimal128(38, 0)
"""The type of whole numbers that neither int64 nor uint64 holds all of."""
LONGEST = pa.decimal256(76, 0)


class Fault(NamedTuple):
    """What is wrong with a value.

    Attributes:
        column: The path of keys to it, such as `m.b[].c`.
        expected, found: The type that it should have and the one it has, in words.
    """

    column: str
    expected: str
    found: str


def parse_line(line: bytes) -> Any:
    """The value of a line, None where it is not JSON. Numbers that a float does not reach are
    infinite, which is enough to find types."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
    except ValueError:  # a whole number has more digits than the standard library takes
        try:
            return json.loads(line, parse_int=_whole)
        except ValueError:
            return None
    except RecursionError:
        return None


def parse_exactly(text: str) -> Any:
    """The value of a line; a number beyond floats, or of thousands of digits, is a Decimal.

    Raises:
        ValueError, RecursionError: It is not JSON.
    """
    return json.loads(text, parse_int=_whole, parse_float=_number)


def _whole(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)


def _number(digits: str) -> float | Decimal:
    value = float(digits)
    if isfinite(value):
        return value
    try:
        return Decimal(digits)
    except InvalidOperation:  # its exponent has dozens of digits
        return Decimal(value)


def is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def word(value: object) -> str:
    """What a value of JSON is, in a word."""
    if is_whole(value) and abs(value) >= 10**15:
        return f"whole number of {len(str(abs(value)))} digits" if abs(value) < 10**100 else _HUGE
    if is_whole(value):
        return "negative whole number" if value < 0 else "whole number"
    return next(name for kind, name in _WORDS.items() if isinstance(value, kind))


_HUGE = "number too large for any type"
_WORDS: dict[type, str] = {
    type(None): "null",
    bool: "true/false",
    float: "number",
    Decimal: _HUGE,
    str: "text",
    list: "list",
    dict: "object",
}


def expected_word(kind: pa.DataType) -> str:
    """A type in the words of JSON; that of a number by its name in Arrow."""
    names = {pa.types.is_string: "text", pa.types.is_boolean: "true/false"}
    names |= {pa.types.is_list: "list", pa.types.is_struct: "object"}
    return next((name for is_kind, name in names.items() if is_kind(kind)), str(kind))


def widened(before: pa.DataType, values: Sequence[Any]) -> pa.DataType:
    """`before`, made to hold all values too or, where no type does, as many as the first one's can;
    a key that is not UTF-8 is left out. (pyarrow would take lists of pairs for objects.)"""
    classes = set(map(type, values)) - {type(None)}
    if len(classes) > 1:
        for value in values:
            before = widened(before, [value])
        return before
    present = [value for value in values if value is not None]
    if dict in classes:
        fields = _fields(before)
        for key in filter(is_encodable, dict.fromkeys(key for value in present for key in value)):
            child = fields.get(key, pa.null())
            fields[key] = widened(child, [value.get(key) for value in present])
        return promoted(before, pa.struct(list(fields.items())))
    if list in classes:
        child = before.value_type if pa.types.is_list(before) else pa.null()
        return promoted(
            before, pa.list_(widened(child, [one for value in present for one in value]))
        )
    if int in classes:
        return promoted(
            promoted(before, _type_of_whole(min(present))), _type_of_whole(max(present))
        )
    return promoted(before, next((_SIMPLE[one] for one in classes), pa.null()))


def _fields(kind: pa.DataType) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}


_SIMPLE = {bool: pa.bool_(), float: pa.float64(), str: pa.string(), Decimal: LONGEST}
NATURAL = pa.uint8()
"""Stands for int64 while types are looked for, where no number is negative."""


def _type_of_whole(value: int) -> pa.DataType:
    if 0 <= value < 2**64:
        return NATURAL if value < 2**63 else pa.uint64()
    if -(2**63) <= value < 0:
        return pa.int64()
    return LONG if abs(value) < 10**38 else LONGEST


def is_encodable(text: str) -> bool:
    """Whether it is without halves of surrogate pairs."""
    try:
        return text.encode() is not None
    except UnicodeEncodeError:
        return False


def promoted(before: pa.DataType, kind: pa.DataType) -> pa.DataType:
    """The type that holds the values of both; where none does, at any depth, the former."""
    if pa.types.is_null(before):
        return kind
    if pa.types.is_struct(before) and pa.types.is_struct(kind):
        fields = _fields(before)
        for field in kind:
            fields[field.name] = promoted(fields.get(field.name, pa.null()), field.type)
        return pa.struct(list(fields.items()))
    if pa.types.is_list(before) and pa.types.is_list(kind):
        return pa.list_(promoted(before.value_type, kind.value_type))
    if {before, kind} == {pa.int64(), pa.uint64()}:
        return LONG
    return max(before, kind, key=_NUMBERS.index) if {before, kind} <= {*_NUMBERS} else before


# Each but uint64 holds those before it; a float holds not all whole numbers, and such a row is bad.
_NUMBERS = [NATURAL, pa.int64(), pa.uint64(), LONG, LONGEST, pa.float64()]


def find_fault(value: Any, kind: pa.DataType, name: str) -> Fault | None:
    """The first part of a value that its type does not hold unchanged."""
    if value is None:
        return None
    if pa.types.is_struct(kind) and isinstance(value, dict):
        types = _fields(kind)
        for key, one in value.items():
            path = f"{name}.{_printable(key)}"
            if key not in types and one is not None:
                return Fault(path, "no such key", word(one))
            if fault := find_fault(one, types.get(key, pa.null()), path):
                return fault
        return None
    if pa.types.is_list(kind) and isinstance(value, list):
        faults = (find_fault(one, kind.value_type, f"{name}[]") for one in value)
        return next(filter(None, faults), None)
    return None if _holds(kind, value) else Fault(name, expected_word(kind), word(value))


def narrowed(value: Any, kind: pa.DataType) -> Any:
    """A value with those keys of objects that its type has."""
    if not pa.types.is_struct(kind) or not isinstance(value, dict):
        return value
    types = _fields(kind)
    return {key: narrowed(one, types[key]) for key, one in value.items() if key in types}


def value_at(value: Any, name: str) -> Any:
    """The value of a key or, for `a.b`, of a key of an object within; None where there is none."""
    if not isinstance(value, dict) or name in value:
        return value.get(name) if isinstance(value, dict) else None
    dots = (i for i in reversed(range(1, len(name))) if name[i] == ".")
    inner = (value_at(value.get(name[:i]), name[i + 1 :]) for i in dots)
    return next((one for one in inner if one is not None), None)


def _holds(kind: pa.DataType, value: object) -> bool:
    """Whether a type that is not nested holds a value."""
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return isinstance(value, str if pa.types.is_string(kind) else bool)
    if pa.types.is_floating(kind):
        return isinstance(value, float) or (is_whole(value) and abs(value) <= 2**53)
    if pa.types.is_decimal(kind):
        return (is_whole(value) or isinstance(value, Decimal)) and _is_decimal(kind, value)
    if not is_whole(value):
        return False
    if pa.types.is_uint64(kind):
        return 0 <= value < 2**64
    return bool(pa.types.is_int64(kind)) and -(2**63) <= value < 2**63


def _is_decimal(kind: pa.DataType, value: int | Decimal) -> bool:
    try:
        return bool(pa.array([value], kind)[0].as_py() == value)
    except (pa.ArrowException, ValueError, OverflowError):
        return False


def natural_type(kind: pa.DataType) -> pa.DataType:
    """The type in which JSON is read for a type that the person gave, which Arrow casts to it: text
    for dates, 64 bits for numbers."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, natural_type(field.type)) for field in kind])
    if any(is_kind(kind) for is_kind in _LISTS):
        return pa.list_(natural_type(kind.value_type))
    if pa.types.is_integer(kind):
        return pa.uint64() if pa.types.is_uint64(kind) else pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    same = pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
    return kind if same else pa.string()


_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def without_large(kind: pa.DataType) -> pa.DataType:
    """The type in which JSON is read for one that other files have: with texts and lists that its
    reader has, which Arrow casts to the large ones."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, without_large(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(without_large(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) else kind


def converted(value: Any, kind: pa.DataType) -> Any:
    """A number as text, or text as the number that it is, where the person gave that type; any
    other value as it is."""
    if pa.types.is_string(kind) and is_whole(value):
        return str(value)
    if pa.types.is_string(kind) and isinstance(value, (bool, float)):
        return json.dumps(value)
    if isinstance(value, str) and pa.types.is_integer(kind):
        return int(value) if re.fullmatch("-?(0|[1-9][0-9]{0,80})", value) else value
    if isinstance(value, str) and pa.types.is_floating(kind):
        return float(value) if re.fullmatch(_NUMBER, value) else value
    if pa.types.is_decimal(kind) and isinstance(value, (str, float)):
        text = value if isinstance(value, str) else repr(value)
        return Decimal(text) if re.fullmatch(_NUMBER, text) else value
    return value


_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?"


def _printable(key: str) -> str:
    """A key as it can be written to a file: without halves of surrogate pairs, and not too long."""
    return key.encode(errors="backslashreplace").decode()[:_LONGEST_KEY]


_LONGEST_KEY = 200
