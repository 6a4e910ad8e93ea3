"""What a person can set of a run: frozen, validated once, unknown keys refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar

from engine.errors import SettingsError

FORMATS = {"arrow": ".arrow", "parquet": ".parquet"}
COMPRESSIONS = ("zstd", "lz4", "none")
ON_ERROR = ("fail", "reject")
MIB = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings of one run.

    Attributes:
        text: The input columns, in the order of the task; none takes their usual names.
        keep: Input columns written beside the results; ("all",) keeps every one.
        limit: Rows to read at most, over all inputs in their order; 0 reads all.
        format, compression: Of the part files.
        split_size: Bytes of a big file that make one split.
        window: Rows that are sorted by length together.
        batch_tokens: Padded tokens of one batch at most; 0 takes the task's default.
        max_length: Tokens a row may have before it is cut; 0 takes the model's.
        workers: Batches computed at a time; 0 takes one for each core, 4 at most, and on a GPU
            two, or one where tokens are generated.
        threads: Threads for one batch; 0 shares the cores out among the workers.
        tokenizers: Processes that tokenize; 0 takes none on a CPU, where the run does it on all
            cores, and for a GPU one for every two cores, 8 at most.
        dedupe: Compute equal texts of a window once; not where answers are drawn by chance.
        device: auto, cpu, cuda, cuda:N, or cuda:all for every GPU.
        gpu_memory: Bytes of a GPU that each graph may take up, and a decoder's caches; 0 for no
            limit of graphs, and a third of the GPU for caches.
        on_error: fail stops at the first bad row, reject sets bad rows aside.
        max_rejects: With reject, bad rows after which the run fails all the same; -1 for no limit.
        overwrite: Clear an output folder that holds a run of other settings or inputs.
        options: The task's own options by name; see `engine tasks`.
    """

    text: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    limit: int = 0
    format: str = "arrow"
    compression: str = "zstd"
    split_size: int = 256 * MIB
    window: int = 4096
    batch_tokens: int = 0
    max_length: int = 0
    workers: int = 0
    threads: int = 0
    tokenizers: int = 0
    dedupe: bool = True
    device: str = "auto"
    gpu_memory: int = 0
    on_error: str = "fail"
    max_rejects: int = -1
    overwrite: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("text", "keep"):
            check_columns(name, getattr(self, name))
        if len(set(self.text)) < len(self.text):
            raise SettingsError(f"text names column {self.text[0]!r} twice", "name each once")
        check_choice("format", self.format, FORMATS)
        check_choice("compression", self.compression, COMPRESSIONS)
        check_choice("on_error", self.on_error, ON_ERROR)
        check_choice("dedupe", self.dedupe, (True, False))
        check_choice("overwrite", self.overwrite, (True, False))
        check_device(self.device)
        if self.gpu_memory and self.device == "cpu":
            raise SettingsError(
                f"gpu_memory is {self.gpu_memory}, and device is cpu", "leave one of them out"
            )
        if not isinstance(self.options, Mapping):
            raise SettingsError(f"options is {self.options!r}", "values by name, such as top_k=3")
        for name, least in _LEAST.items():
            check_least(name, getattr(self, name), least)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RunConfig:
        """From a mapping, as from keyword arguments or a file.

        Raises:
            SettingsError: A key is unknown or a value is out of range.
        """
        check_names("setting", settings, (f.name for f in dataclasses.fields(cls)))
        given: dict[str, Any] = dict(settings)
        for name in {"text", "keep"} & given.keys():
            given[name] = _columns(given[name])
        return cls(**given)

    def shaping(self) -> dict[str, Any]:
        """The settings that can change a byte of the output, as JSON values.

        Workers and threads are not among them (a row's answer does not depend on them), nor is what
        happens to bad rows: a finished part has the same good rows either way.
        """
        return {n: list(v) if isinstance(v := getattr(self, n), tuple) else v for n in _SHAPING}


_LEAST = {
    "limit": 0,
    "split_size": 1,
    "window": 1,
    "batch_tokens": 0,
    "max_length": 0,
    "workers": 0,
    "threads": 0,
    "tokenizers": 0,
    "gpu_memory": 0,
    "max_rejects": -1,
}
_SHAPING = (
    "text",
    "keep",
    "limit",
    "format",
    "compression",
    "split_size",
    "window",
    "batch_tokens",
    "max_length",
    "dedupe",
)


def _columns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(name for c in value.split(",") if (name := c.strip()))
    return tuple(value) if isinstance(value, Iterable) else (value,)


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first name that is not known, and offer the nearest that is.

    Raises:
        SettingsError: With all known names in the hint.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise SettingsError(
                f"unknown {what} {name!r}", f"{meant}known: {', '.join(names) or 'none'}"
            )


def check_columns(name: str, value: object) -> None:
    """Raise SettingsError unless value is a tuple of column names."""
    if not isinstance(value, tuple) or not all(isinstance(c, str) and c for c in value):
        raise SettingsError(f"{name} is {value!r}", "column names, such as ('text',)")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise SettingsError unless value is one of the choices."""
    if value not in (known := tuple(choices)):
        raise SettingsError(f"{name} is {value!r}", f"one of: {', '.join(map(str, known))}")


def check_device(value: object) -> None:
    """Raise SettingsError unless value names a device, whether or not there is one."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+|:all)?", str(value)):
        raise SettingsError(f"device {value!r} is unknown", "auto, cpu, cuda, cuda:0 or cuda:all")


def check_least(name: str, value: object, least: int) -> None:
    """Raise SettingsError unless value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} is {value!r}", f"a whole number, {least} or more")


def check_number(name: str, value: object, above: float | None = None) -> None:
    """Raise SettingsError unless value is a number, and larger than `above` if that is given."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    if not good or (above is not None and float(str(value)) <= above):
        hint = "a number" if above is None else f"a number above {above:g}"
        raise SettingsError(f"{name} is {value!r}", hint)


def parse_size(text: str) -> int:
    """Bytes from "256MB", "64KiB", "1G" or a plain number; units are powers of 1,024.

    Raises:
        SettingsError: The text is not a size.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or not (size := int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))):
        raise SettingsError(f"size {text!r} cannot be read", "such as 256MB, 64KB or 1GB")
    return size
