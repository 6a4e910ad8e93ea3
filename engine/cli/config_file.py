"""The settings of `engine run` in a TOML file, with the names of the options as keys.

What counts is, in this order: the command line, a variable such as ENGINE_MAX_LENGTH, the file, the
default. The same form, with absolute paths, records the command of a run in its output.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from engine.core.settings import check_names
from engine.core.suggestions import path_meant
from engine.errors import OutputError, SettingsError
from engine.printable import without_secrets

PREFIX = "ENGINE"
"""What the variables of the options begin with."""

RECORD = "command.toml"
"""The command of a run, in its folder of records."""

ANY_NAME = "surrogateescape"
"""How Python holds the bytes of names that are not UTF-8, which a path may have."""

_NOT_KEPT = ("config", "save", "help", "help-all", "dry-run")
_PATHS = ("inputs", "model", "out", "schema", "scratch", "report", "log-file", "metrics-file")


def load(ctx: typer.Context, path: str | None) -> str | None:
    """Callback of --config: what the file says takes the place of the defaults.

    Raises:
        SettingsError: It cannot be read, or has a key that is no option.
    """
    if path:
        ctx.default_map = _defaults(ctx, path)
    return path


def _defaults(ctx: Any, path: str) -> dict[str, object]:
    known = _by_key(ctx)
    values = {key.replace("_", "-"): value for key, value in read(path).items()}
    check_names(f"key in {path}:", values, known)
    return {str(known[key].name): _typed(known[key], value) for key, value in values.items()}


def read(path: str | Path, errors: str = "strict") -> dict[str, Any]:
    """The keys and values of a file; for a file of ours `errors` is ANY_NAME.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8", errors=errors))
    except OSError as error:
        hint = path_meant(Path(path)) + "engine run ... --save FILE writes one"
        raise SettingsError(f"{path}: {error.strerror}", hint) from None
    except (ValueError, RecursionError) as error:
        what = _fault(error)
        raise SettingsError(f"{path}: no TOML: {what}", "lines such as limit = 100") from None


def _fault(error: Exception) -> str:
    """What is wrong with a file, without what it holds: the place, where that is known."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a number is too long"


def given(ctx: Any) -> dict[str, object]:
    """The settings of a command that somebody gave, wherever, by key."""
    values = {}
    for key, parameter in _by_key(ctx).items():
        source = ctx.get_parameter_source(parameter.name)
        value = ctx.params.get(parameter.name)
        if source is not None and source.name != "DEFAULT" and value not in (None, (), []):
            values[key] = list(value) if isinstance(value, tuple) else value
    return values


def save(path: str | Path, values: Mapping[str, object]) -> None:
    """Write settings.

    Raises:
        OutputError: The file cannot be written.
    """
    text = "".join(f"{key} = {_value(value)}\n" for key, value in values.items())
    temporary = Path(f"{path}.new")
    try:
        temporary.write_text(text, encoding="utf-8", errors=ANY_NAME)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", "choose another file") from error


def absolute(values: Mapping[str, object]) -> dict[str, object]:
    """Settings that mean the same in any folder, without passwords and signatures in addresses."""
    return {k: _in_any_folder(k, v) if k in _PATHS else v for k, v in values.items()}


def words(values: Mapping[str, object]) -> list[str]:
    """Settings as a command line: flags and options, then what has no name."""
    named: list[str] = []
    for key, value in values.items():
        if key not in ("model", "inputs"):
            named += [_word(key, one) for one in _listed(value)]
    return [*named, "--", *_texts(values.get("model")), *_texts(values.get("inputs"))]


def _word(key: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key}={value}"


def _in_any_folder(key: str, value: object) -> object:
    if isinstance(value, list):
        return [_in_any_folder(key, one) for one in value]
    text = str(value)
    if "://" in text or text == "-" or (key == "model" and not os.path.exists(text)):
        return without_secrets(text)
    return os.path.abspath(os.path.expanduser(text))


def _by_key(ctx: Any) -> dict[str, Any]:
    """The parameters of a command by their keys in a file."""
    parameters = {_key(p): p for p in ctx.command.get_params(ctx)}
    return {key: p for key, p in parameters.items() if key not in _NOT_KEPT}


def _key(parameter: Any) -> str:
    option = max(parameter.opts, key=len)
    return str(option.removeprefix("--") if option.startswith("--") else parameter.name)


def _typed(parameter: Any, value: object) -> object:
    """A value of TOML as a command line would have it."""
    if getattr(parameter, "is_flag", False):
        return value
    texts = _texts(value)
    many = getattr(parameter, "multiple", False) or parameter.nargs == -1
    return texts if many else ",".join(texts)


def _texts(value: object) -> list[str]:
    return ["true" if v is True else "false" if v is False else str(v) for v in _listed(value)]


def _listed(value: object) -> Iterable[object]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0"):
        return text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
