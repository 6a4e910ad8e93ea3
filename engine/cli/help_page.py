"""`engine run --help` in one screen: the common options by purpose, the others by name."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_COMMON: Mapping[str, Mapping[str, str]] = {
    "input": {
        "text": "the task's input columns, a,b for two",
        "keep": "columns to write beside the results, or all",
        "limit": "rows to read at most",
        "config": "settings in a file (command line > ENGINE_* > file)",
    },
    "output": {
        "out": "a folder, a file such as answers.parquet, or - for a pipe",
        "format": "arrow, parquet, jsonl or csv",
        "overwrite": "clear a folder that holds another run",
        "dry_run": "print what would be done, and do nothing",
        "as_json": "print one JSON summary",
        "quiet": "print errors only; --verbose times by stage, too",
    },
    "batching": {
        "batch_tokens": "tokens in one batch, padding included",
        "max_length": "tokens of a row before it is truncated",
    },
    "device": {
        "device": "auto, cpu, cuda, cuda:N or cuda:all",
        "workers": "batches computed at the same time",
    },
    "errors": {
        "on_error": "fail at the first bad row, or reject them",
    },
    "checkpoints, exported once": {
        "task": "the task; see engine tasks",
        "recipe": "fp32, int8 or another recipe",
    },
}
"""The options with a line each: group -> parameter -> what it is, in a few words."""

_OTHERS: Mapping[str, Sequence[str]] = {
    "input": ("schema", "input_format", "input_identity", "max_row_bytes"),
    "output": (
        "result_prefix", "compression", "split_size", "share", "scratch", "check_parts", "lock",
        "save", "verbose", "report", "log_file", "log_format", "metrics_file",
    ),
    "batching": ("window", "truncation_side", "dedupe", "tokenizers"),
    "device": ("threads", "gpu_memory", "stall_timeout"),
    "errors": ("max_rejects", "reject_text", "rejects_ok"),
    "checkpoints, exported once": ("revision", "allow_pickle"),
}  # fmt: skip
"""The options that are only named."""

_MORE = (
    "--task T --help shows a task's own options, such as --top-k; --help-all every option at length"
)


def grouped() -> dict[str, tuple[str, ...]]:
    """The parameters of every group."""
    return {group: (*_COMMON[group], *_OTHERS[group]) for group in _COMMON}


def page(command: Any, ctx: Any) -> str:
    """The help of `engine run`.

    Args:
        command: The command, with its parameters.
        ctx: Of typer, for the names in the first line.
    """
    parameters = {p.name: p for p in command.get_params(ctx)}
    lines = [
        f"Usage: {ctx.command_path} MODEL INPUTS... -o OUT [OPTIONS]",
        "",
        "Run a model over a corpus. Run it again to continue a stopped run.",
        "",
        _line("MODEL", "a bundle, or a checkpoint (folder, hub id)"),
        _line("INPUTS", "files, folders or globs; - for standard input"),
    ]
    for group, common in _COMMON.items():
        lines.append(f"{group[0].upper()}{group[1:]}:")
        lines += [_line(_flags(parameters[name]), what) for name, what in common.items()]
        lines += _named(parameters[name] for name in _OTHERS[group])
    return "\n".join([*lines, "", *textwrap.wrap(_MORE, 79)]) + "\n"


def task_page(name: str) -> str:
    """The own options of a task, with their defaults.

    Raises:
        SettingsError: There is no such task.
    """
    from engine.cli.show import task_lines
    from engine.tasks import describe, find

    lines = [f"Usage: engine run MODEL INPUTS... -o OUT --task {name} [OPTIONS]", ""]
    return "\n".join([*lines, *task_lines(describe(find(name))), "", "engine run -h: all else"])


def asked_task(words: Sequence[str]) -> str:
    """The task that a command line names, "" where it names none."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--task":
            return following
        if word.startswith("--task="):
            return word.partition("=")[2]
    return ""


def _line(flags: str, what: str) -> str:
    return f"  {flags:<19} {what}"


def _flags(parameter: Any) -> str:
    return ", ".join(sorted(parameter.opts, key=len))


def _named(parameters: Iterator[Any]) -> list[str]:
    """Names of options in as few lines as they need; of an option that is on, what turns it off."""
    names = ((p.secondary_opts or p.opts)[0] for p in parameters)
    return textwrap.wrap(
        ", ".join(names), 79, initial_indent="  also: ", subsequent_indent="        ",
        break_on_hyphens=False,
    )  # fmt: skip
