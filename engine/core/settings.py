"""How a setting is declared: one dataclass field with its help, its bounds and its form as text.

`RunConfig` and the options of every task are declared this way. Validation, the options of the
command line, `engine tasks` and the docstrings all come from these declarations.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any, TypeVar, cast

from engine.core.suggestions import did_you_mean
from engine.errors import SettingsError

T = TypeVar("T")
KEY = "setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a field's metadata says about it; the field's type says the rest.

    Attributes:
        help: For `--help`, `engine tasks` and the docstrings.
        least, most: Bounds of a number, which are allowed themselves.
        above: A lower bound of a number, which is not allowed itself.
        choices: The texts that are allowed; empty for any text.
        read: (name, value) -> the value to keep, in place of the checks that go by type.
        size: A number of bytes, which the command line takes as text such as 256MB.
        flag: On the command line only --name, without --no-name.
        shapes: Another value can change a byte of the output.
        needs: What a run must have, or else the setting changes nothing: keys of
            `runner/unused_settings.py:NEEDS`.
    """

    help: str
    least: float = -inf
    most: float = inf
    above: float = -inf
    choices: tuple[str, ...] = ()
    read: Callable[[str, object], object] | None = None
    size: bool = False
    flag: bool = False
    shapes: bool = False
    needs: tuple[str, ...] = ()


def setting(default: T, help: str, **metadata: Any) -> T:
    """A field of `RunConfig`: its default, and what `Setting` holds."""
    return dataclasses.field(default=default, metadata={KEY: Setting(help=help, **metadata)})


def option(help: str, **metadata: Any) -> Any:
    """A field of a task's options, whose default follows from the checkpoint."""
    return dataclasses.field(metadata={KEY: Setting(help=help, **metadata)})


def declared(settings: object) -> dict[str, tuple[str, Setting]]:
    """The type (as written) and the declaration of every field of a dataclass, by name."""
    fields = dataclasses.fields(cast(Any, settings))
    return {field.name: (str(field.type), field.metadata[KEY]) for field in fields}


def documented(settings: type) -> str:
    """The "Attributes" section of a docstring, from the declarations."""
    lines = [
        f"        {name}: {setting.help}{' In bytes.' * setting.size}"
        for name, (_, setting) in declared(settings).items()
    ]
    return "\n".join(["    Attributes:", *lines])


def check_settings(settings: object) -> None:
    """Check every field of a frozen dataclass against its declaration.

    Raises:
        SettingsError: A value has another type or is out of range.
    """
    for name, (kind, setting) in declared(settings).items():
        value = getattr(settings, name)
        if (read := checked(name, value, kind, setting)) is not value:
            object.__setattr__(settings, name, read)


def checked(name: str, value: object, kind: str, setting: Setting) -> object:
    """A value as its declaration keeps it.

    Raises:
        SettingsError: It has another type or is out of range.
    """
    if setting.read:
        return setting.read(name, value)
    value = from_text(value, kind, setting)
    if setting.choices:
        check_choice(name, value, setting.choices)
    else:
        _CHECKS[kind](name, value, setting)
    return value


def from_text(value: object, kind: str, setting: Setting) -> object:
    """The number, size, true or false that a text says, as on the command line; another value, or
    a text that says none, as it is."""
    if not isinstance(value, str) or setting.read:
        return value
    text = value.strip()
    try:
        if kind == "int":
            return _read_size(text) if setting.size else parse_count(text)
        if kind == "float":
            return float(text)
    except ValueError:
        return value
    return _WORDS.get(text.lower(), value) if kind == "bool" else value


_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}


def values_of(settings: Mapping[str, object], declared_by: object) -> dict[str, object]:
    """Settings by name, with the values that texts say; those that are not declared as they are.

    Args:
        settings: As a person gave them.
        declared_by: The dataclass that declares them.
    """
    known = declared(declared_by)
    return {n: from_text(v, *known[n]) if n in known else v for n, v in settings.items()}


def _read_size(text: str) -> int:
    """A size, or a number such as 0 or -1."""
    try:
        return parse_size(text)
    except SettingsError:
        return int(text)


def _check_bool(name: str, value: object, setting: Setting) -> None:
    check_choice(name, value, (True, False))


def _check_int(name: str, value: object, setting: Setting) -> None:
    check_whole(name, value, setting.least, setting.most)


def _check_float(name: str, value: object, setting: Setting) -> None:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else nan
    within = setting.least <= number <= setting.most and number > setting.above
    if not within or not isfinite(number):
        bounds = {"above": setting.above, "at least": setting.least, "at most": setting.most}
        named = [f"{word} {bound:g}" for word, bound in bounds.items() if isfinite(bound)]
        raise SettingsError(f"{name} is {value!r}", f"a number {', '.join(named)}".strip())


def _check_str(name: str, value: object, setting: Setting) -> None:
    if not isinstance(value, str):
        raise SettingsError(f"{name} is {value!r}", "a text, such as 'translate: '")


_CHECKS: dict[str, Callable[[str, object, Setting], None]] = {
    "bool": _check_bool,
    "int": _check_int,
    "float": _check_float,
    "str": _check_str,
}


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first name that is not known, and offer the nearest that is.

    Raises:
        SettingsError: With all known names in the hint.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            raise SettingsError(
                f"unknown {what} {name!r}",
                f"{did_you_mean(name, known)}known: {', '.join(known) or 'none'}",
            )


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise SettingsError unless value is one of the choices."""
    if value not in (known := tuple(choices)):
        # An empty choice is that of not giving the option.
        names = [str(one) for one in known if one != ""]
        near = did_you_mean(value, names) if isinstance(value, str) else ""
        raise SettingsError(f"{name} is {value!r}", f"{near}one of: {', '.join(names)}")


def check_whole(name: str, value: object, least: float, most: float = inf) -> None:
    """Raise SettingsError unless value is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounds = f"from {least} to {most}" if isfinite(most) else f"{least} or more"
        raise SettingsError(f"{name} is {value!r}", f"a whole number, {bounds}")


def as_texts(name: str, value: object) -> tuple[str, ...]:
    """One text or several as a tuple; for `Setting.read`.

    Raises:
        SettingsError: It is something else.
    """
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (tuple, list)) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise SettingsError(f"{name} is {value!r}", "texts, such as ('good', 'bad')")


def comma_separated(name: str, value: object) -> tuple[str, ...]:
    """As `as_texts`, but a single text is split at its commas."""
    return split_commas(value) if isinstance(value, str) else as_texts(name, value)


def split_commas(text: str) -> tuple[str, ...]:
    """The names in "a, b", without empty ones. A backslash before a comma, a space or a backslash
    takes it into the name: "a\\,b" is one."""
    parts = re.findall(r"(?:\\.|[^,])+", text, re.DOTALL)
    names = (re.fullmatch(r"\s*((?:\\.|[^\\]|\\\Z)*?)\s*", part, re.DOTALL) for part in parts)
    return tuple(re.sub(r"\\([,\s\\])", r"\1", match[1]) for match in names if match and match[1])


def join_commas(names: Iterable[str]) -> str:
    """The text that `split_commas` reads as these names, none of which is empty."""
    marked = (re.sub(r"([,\\]|^\s|\s$)", r"\\\1", name) for name in names)
    return ",".join(marked)


def for_shell(name: str) -> str:
    """A name as `--text` and `--keep` take it, in the quotation marks of a shell."""
    return "'" + join_commas([name]).replace("'", "'\\''") + "'"


def parse_count(text: str) -> int:
    """A whole number from "500", "10k", "1.5M" or "2G"; units are powers of 1,000.

    Raises:
        ValueError: The text is not a whole number.
    """
    match = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,9}))?([kmg])", text.strip().lower())
    if not match:
        return int(text)
    zeros = 3 * " kmg".index(match[3])
    digits = (match[2] or "").rstrip("0")
    whole = len(digits) <= zeros
    return int(match[1] + digits.ljust(zeros, "0") if whole else text)


def parse_size(text: str) -> int:
    """Bytes from "256MB", "64KiB", "1G" or a plain number; units are powers of 1,024.

    Raises:
        SettingsError: The text is not a size.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or not (size := int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))):
        raise SettingsError(f"size {text!r} cannot be read", "such as 256MB, 64KB or 1GB")
    return size


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads as this size."""
    power = 0
    while size and size % 1024 == 0 and power < 4:
        size, power = size // 1024, power + 1
    return f"{size}{('', 'KB', 'MB', 'GB', 'TB')[power]}"
