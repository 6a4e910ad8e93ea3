"""Settings as options of the engine's command line, which any version of it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.core.config import RunConfig
from engine.core.settings import (
    Setting,
    as_texts,
    check_names,
    checked,
    comma_separated,
    declared,
    join_commas,
)
from engine.errors import SettingsError

_COLUMNS = ("text", "keep")
EXPORT_FLAGS = ("force", "allow_pickle")
_FLAG = Setting(help="")


def run_options(settings: Mapping[str, object], folder: Path) -> list[str]:
    """Options of `engine run` for settings of a run and of its task; None is left out.

    Args:
        settings: By name; the task's own may also be below `options`.
        folder: Where a schema that is given as a mapping is written.

    Raises:
        SettingsError: A name is unknown, or a value has no form on the command line.
    """
    from engine.tasks import TASKS

    known = {n: d for task in TASKS.values() for n, d in declared(task.options).items()}
    known |= {n: d for n, d in declared(RunConfig).items() if n != "options"}
    settings = dict(settings)
    options = settings.pop("options", None) or {}
    if not isinstance(options, Mapping):
        raise SettingsError(f"options is {options!r}", "values by name, such as top_k=3")
    settings |= options
    check_names("setting", settings, known)
    if isinstance(schema := settings.get("schema"), Mapping):
        file = folder / "schema.json"
        file.write_text(json.dumps(dict(schema)), encoding="utf-8")
        settings["schema"] = str(file)
    return [w for name, value in settings.items() for w in _options(name, value, *known[name])]


def export_options(settings: Mapping[str, object]) -> list[str]:
    """Options of `engine export`, whose flags have no negative form; None is left out."""
    words: list[str] = []
    for name, value in settings.items():
        flag = _flag(name)
        if name in EXPORT_FLAGS:
            words += [flag] * is_set(name, value)
        elif name == "text" and not isinstance(value, str):
            words += [f"{flag}={join_commas(_texts(name, value))}"] * bool(value)
        elif value is not None:
            words.append(f"{flag}={value}")
    return words


def is_set(name: str, value: object) -> bool:
    """Whether a flag is true, which a text may say.

    Raises:
        SettingsError: It is neither true nor false.
    """
    return value is not None and bool(checked(name, value, "bool", _FLAG))


def _options(name: str, value: object, kind: str, setting: Setting) -> Iterator[str]:
    flag = _flag(name)
    if value is None:
        return
    if kind == "bool":
        if is_set(name, value):
            yield flag
        elif not setting.flag:
            yield _flag(f"no_{name}")
    elif isinstance(value, (list, tuple)):
        texts = _texts(name, value)
        # The command line splits one text at its commas, and takes several as they are.
        if texts and (name in _COLUMNS or (len(texts) == 1 and setting.read is comma_separated)):
            yield f"{flag}={join_commas(texts)}"
        else:
            yield from (f"{flag}={text}" for text in texts)
    else:
        yield f"{flag}={str(value).lower() if isinstance(value, bool) else value}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _texts(name: str, value: object) -> list[str]:
    return list(as_texts(name, value))
