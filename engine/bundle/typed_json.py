"""JSON from strangers as the dataclasses that it should be: types, bounds and names are checked.

Nothing is built before all of it is right, and what is wrong is a `MismatchError` that names the
key, what is expected there and what is there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
MOST_BYTES = 64 << 20
"""Of a file."""
_LONGEST, _DEEPEST = 4 << 20, 40
_SURROGATE = re.compile("[\ud800-\udfff]")

Bounds = Mapping[str, tuple[float, float]]
"""Least and most of numbers, by the name of their field."""


class MismatchError(ValueError):
    """What is wrong, as a sentence without its file."""


def read_bytes(file: Path) -> bytes:
    """The bytes of a file of JSON.

    Raises:
        MismatchError: It cannot be read, or is too large.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise MismatchError(f"it cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise MismatchError(f"it has more than {MOST_BYTES:,} bytes")
    return content


def parse(text: bytes) -> object:
    """The value of a JSON file; numbers are finite, no key comes twice.

    Raises:
        MismatchError: It is no such JSON.
    """
    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number
        )
    except RecursionError as error:
        raise MismatchError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise MismatchError("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise MismatchError(f"it is no JSON (line {error.lineno}, column {error.colno})") from error
    except ValueError as error:
        raise (
            error if isinstance(error, MismatchError) else MismatchError("a number is too long")
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise MismatchError(
            f"the key {shown(next(n for n in names if names.count(n) > 1))} comes twice"
        )
    return content


def _no_number(text: str) -> float:
    raise MismatchError(f"{text} is no number of JSON")


def read(kind: type[T], value: object, bounds: Bounds, key: str = "") -> T:
    """A value of JSON as a dataclass.

    Args:
        kind: The dataclass. Its fields are whole numbers, numbers, texts, truth values, Literals,
            tuples, mappings with text keys, dataclasses, unions of these, or `Any` JSON.
        value: As `parse` gives it.
        bounds: Of its numbers, and those of the dataclasses in it.
        key: Where the value is, for messages.

    Raises:
        MismatchError: A key is missing or unknown, or a value is not what its field takes.
    """
    if not isinstance(value, dict):
        raise _mismatch(key, "an object", value)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass is no type that could be named
    if unknown := sorted(value.keys() - fields.keys()):
        raise MismatchError(f"unknown key {_key(key, unknown[0])}")
    hints = get_type_hints(kind)
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in value and not has_default:
            raise MismatchError(f"{_key(key, name)} is missing")
    return kind(
        **{name: _read(hints[name], each, bounds, _key(key, name)) for name, each in value.items()}
    )


def _read(kind: Any, value: object, bounds: Bounds, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, bounds, key)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _mismatch(key, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(key, "a list", value)
        return tuple(_read(arguments[0], v, bounds, f"{key}[{n}]") for n, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _mismatch(key, "an object", value)
        for name in value:
            _read_text(name, bounds, f"a key of {key}")
        return {n: _read(arguments[1], v, bounds, _key(key, n)) for n, v in value.items()}
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return read(kind, value, bounds, key)
    return _SIMPLE[kind](value, bounds, key)


def _read_union(kinds: Sequence[Any], value: object, bounds: Bounds, key: str) -> Any:
    for kind in kinds:
        if _is_meant(kind, value):
            return None if value is None else _read(kind, value, bounds, key)
    raise _mismatch(key, " or ".join(_WORDS.get(kind, "another value") for kind in kinds), value)


def _is_meant(kind: Any, value: object) -> bool:
    """Whether a value is of this kind of a union, right or wrong."""
    if kind is type(None):
        return value is None
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    return type(value) is kind


_WORDS = {type(None): "null", str: "a text", bool: "true or false", int: "a whole number"}


def _read_text(value: object, bounds: Bounds, key: str) -> str:
    if not isinstance(value, str):
        raise _mismatch(key, "a text", value)
    if len(value) > _LONGEST:
        raise MismatchError(f"{key} has {len(value):,} characters, of at most {_LONGEST:,}")
    if _SURROGATE.search(value):
        raise MismatchError(f"{key} is no Unicode text")
    return value


def _read_flag(value: object, bounds: Bounds, key: str) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(key, "true or false", value)
    return value


def _read_whole(value: object, bounds: Bounds, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _mismatch(key, "a whole number", value)
    _check_bounds(value, bounds, key, "a whole number")
    return value


def _read_number(value: object, bounds: Bounds, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _mismatch(key, "a number", value)
    _check_bounds(value, bounds, key, "a number")
    if not math.isfinite(value):
        raise _mismatch(key, "a number", value)
    return float(value)


def _check_bounds(value: float, bounds: Bounds, key: str, what: str) -> None:
    name = re.sub(r"\[\d+\]", "", key).rpartition(".")[2]
    least, most = bounds.get(name, (-(2**53), 2**53))
    if not least <= value <= most:
        raise _mismatch(key, f"{what} from {least:,} to {most:,}", value)


def _read_any(value: object, bounds: Bounds, key: str, depth: int = 0) -> object:
    if depth > _DEEPEST:
        raise MismatchError(f"{key} is nested too deeply")
    if isinstance(value, dict):
        for name in value:
            _read_text(name, bounds, f"a key of {key}")
        return {n: _read_any(v, bounds, _key(key, n), depth + 1) for n, v in value.items()}
    if isinstance(value, list):
        return [_read_any(each, bounds, f"{key}[]", depth + 1) for each in value]
    if isinstance(value, (int, float)) and not abs(value) <= 1e300:
        raise _mismatch(key, "a number", value)
    return _read_text(value, bounds, key) if isinstance(value, str) else value


_SIMPLE: dict[Any, Callable[[object, Bounds, str], Any]] = {
    str: _read_text,
    bool: _read_flag,
    int: _read_whole,
    float: _read_number,
    Any: _read_any,
}


def _key(key: str, name: str) -> str:
    plain = name if re.fullmatch(r"[\w-]{1,60}", name) else shown(name)
    return f"{key}.{plain}" if key else plain


def _mismatch(key: str, expected: str, value: object) -> MismatchError:
    return MismatchError(f"{key or 'it'} is {shown(value)}, where {expected} is expected")


def shown(value: object) -> str:
    """A value as a message shows it: short, and in printable characters."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a number of many digits"
    text = "null" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
