"""What the shell offers at Tab: bundles, runs, columns of the input, tasks and values of settings.

Typer's own protocol: the shell starts `engine` with `_ENGINE_COMPLETE` set. Where nothing is found,
for whatever reason, nothing is said, and the shell offers files.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from itertools import islice
from pathlib import Path

import typer

VARIABLE = "_ENGINE_COMPLETE"
PROGRAM = "engine"

_SAFE = re.compile(r"[\w.,:@%+/=-]+")
"""Shells evaluate what they are told. A name of a corpus with other characters is not offered."""

_MOST = 2000
"""Names of a folder that are looked at."""

_HEAD_BYTES = 1 << 16
"""Of a text file, for the names of its columns."""

Complete = Callable[[typer.Context, str], list[str]]


def asked() -> bool:
    """Whether a shell asks."""
    return VARIABLE in os.environ


def answer(app: Callable[..., object]) -> int:
    """Answer the shell; whatever is wrong, quietly.

    Args:
        app: The command line.

    Returns:
        The exit code.
    """
    from typer import completion

    completion.get_completion_inspect_parameters()  # has it know its shells
    try:
        with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
            app(prog_name=PROGRAM, complete_var=VARIABLE, standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:
        return 1
    return 0


def one_of(choices: Iterable[str]) -> Complete:
    """Values of a setting, in their order."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [choice for choice in choices if choice and choice.startswith(incomplete)]

    return complete


def tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Tasks and their aliases."""
    from engine.tasks import TASKS

    names = [name for task in TASKS.values() for name in (task.name, *task.aliases)]
    return _safe(sorted(set(names)), incomplete)


def bundles(ctx: typer.Context, incomplete: str) -> list[str]:
    """Folders with a bundle.json."""
    return _folders_with("bundle.json", incomplete)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Outputs of runs: folders with records."""
    return _folders_with("_manifest", incomplete)


def columns(ctx: typer.Context, incomplete: str) -> list[str]:
    """Columns of the first input, also behind a comma; read from its schema or first line."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _safe(_columns(), last)]


def kept(ctx: typer.Context, incomplete: str) -> list[str]:
    """What --keep takes: columns, all, and where a row came from."""
    before, comma, last = incomplete.rpartition(",")
    more = [name for name in ("all", "_file", "_row") if name.startswith(last)]
    return [*columns(ctx, incomplete), *(f"{before}{comma}{name}" for name in more)]


def _safe(names: Iterable[str], start: str) -> list[str]:
    return [name for name in names if name.startswith(start) and _SAFE.fullmatch(name)]


def _folders_with(mark: str, incomplete: str) -> list[str]:
    """Folders that hold a file or folder of this name, as the person began to write them."""
    above, slash, start = incomplete.rpartition("/")
    prefix = f"{above}{slash}"
    try:
        entries = list(islice(os.scandir(os.path.expanduser(prefix) or "."), _MOST))
        found = [e.name for e in entries if e.is_dir() and Path(e.path, mark).exists()]
    except OSError:
        return []
    return _safe(sorted(prefix + name for name in found), prefix + start)


def _columns() -> list[str]:
    """Of the first input that is there, among the words so far: typer has parsed none of them where
    the last one is an option whose value is asked for."""
    text = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        file = next((file for word in _words(text) for file in _files(word)), None)
        return _names(file) if file else []
    except Exception:  # of whatever library: who types a command does not want to read it
        return []


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)[2:]
    except ValueError:  # within quotation marks
        return text.split()[2:]


def _files(word: str) -> Iterator[Path]:
    """The files with columns that a word names: one, those of a folder, or of a glob."""
    path = Path(os.path.expanduser(word))
    if path.is_dir() and not (path / "bundle.json").exists():
        below = islice(path.rglob("*"), _MOST)
        yield from sorted(p for p in below if _is_input(p.relative_to(path)) and p.is_file())
    elif path.is_file():
        yield path
    elif any(character in path.name for character in "*?["):
        yield from sorted(islice(path.parent.glob(path.name), _MOST))


def _is_input(path: Path) -> bool:
    return bool(_kind(path)) and not any(part[0] in "._" for part in path.parts)


def _kind(path: Path) -> str:
    kinds = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "tsv"}
    return {**kinds, ".jsonl": "jsonl"}.get(path.suffix.lower(), "")


def _names(file: Path) -> list[str]:
    kind = _kind(file)
    if kind == "parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(file).names)
    if kind == "arrow":
        import pyarrow as pa

        with pa.memory_map(str(file)) as source:
            return list(pa.ipc.open_file(source).schema.names)
    with file.open("rb") as stream:
        first = stream.readline(_HEAD_BYTES).decode("utf-8-sig")
    if kind == "jsonl":
        return list(json.loads(first))
    import csv

    separator = "\t" if kind == "tsv" else ","
    return next(csv.reader([first], delimiter=separator)) if kind else []
