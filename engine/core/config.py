"""The settings of a run: frozen, checked once, unknown names refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from engine.core.column_types import read_types
from engine.core.settings import (
    KEY,
    Setting,
    check_names,
    check_settings,
    documented,
    setting,
    split_commas,
)
from engine.core.share import read_share
from engine.core.suggestions import did_you_mean
from engine.errors import SettingsError

FORMATS = {"arrow": ".arrow", "parquet": ".parquet", "jsonl": ".jsonl", "csv": ".csv"}
TEXT_FORMATS = ("jsonl", "csv")
COMPRESSIONS = ("zstd", "lz4", "none")
ON_ERROR = ("fail", "reject")
INPUT_FORMATS = ("jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow")
INPUT_IDENTITIES = ("etag", "content")
MIB = 1 << 20


def check_device(value: object) -> None:
    """Raise SettingsError unless value names a device, whether or not there is one."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+|:all)?", str(value)):
        near = did_you_mean(str(value), ("auto", "cpu", "cuda", "cuda:0", "cuda:all"))
        hint = f"{near}one of: auto, cpu, cuda, cuda:0 or cuda:all"
        raise SettingsError(f"device {value!r} is unknown", hint)


def check_compression(format: str, compression: str) -> None:
    """Raise SettingsError for a compression that the format does not have."""
    if format in TEXT_FORMATS and compression not in ("", "none"):
        raise SettingsError(
            f"compression is {compression}, and {format} is written without",
            "leave it out, or choose arrow or parquet",
        )


def default_compression(format: str, compression: str) -> str:
    """The compression that is meant: that of the format where none is given."""
    return compression or ("none" if format in TEXT_FORMATS else "zstd")


def _device(name: str, value: object) -> object:
    check_device(value)
    return value


def _columns(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, tuple) or not all(isinstance(c, str) and c for c in value):
        raise SettingsError(f"{name} is {value!r}", "column names, such as ('text',)")
    if name == "text" and len(set(value)) < len(value):
        raise SettingsError(f"text names column {value[0]!r} twice", "name each once")
    return value


def _options(name: str, value: object) -> object:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{name} is {value!r}", "values by name, such as top_k=3")
    return value


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings of one run. `--help` and the checks come from these declarations."""

    text: tuple[str, ...] = setting(
        (),
        "Input columns in the order of the task, a,b or repeated for two, a\\,b for one with a "
        "comma; by default those that `engine tasks` names.",
        read=_columns,
        shapes=True,
    )
    keep: tuple[str, ...] = setting(
        (),
        "Input columns to write beside the results: a,b or repeated, or all for every column and "
        "every key=value of a folder's name; also _file and _row, which say where a row came from.",
        read=_columns,
        shapes=True,
    )
    result_prefix: str = setting(
        "", "What the names of the result columns begin with, such as predicted_.", shapes=True
    )
    schema: str | Mapping[str, str] = setting(
        "",
        "Types of kept columns by hand: a JSON file of types by column, or an Arrow or Parquet "
        "file that has them; a value that does not fit is a bad row.",
        read=read_types,
        shapes=True,
        needs=("keep",),
    )
    input_format: str = setting(
        "",
        "Format of standard input (the input -) and of files whose ending does not tell it: "
        f"{', '.join(INPUT_FORMATS)}; compressed or not.",
        choices=("", *INPUT_FORMATS),
        shapes=True,
        needs=("files of unknown endings",),
    )
    input_identity: str = setting(
        "etag",
        "What tells a resumed run that an object of a store has not changed: etag, its e-tag and "
        "size; or content, its bytes, which are downloaded for it.",
        choices=INPUT_IDENTITIES,
        needs=("objects",),
    )
    limit: int = setting(
        0, "Rows to read at most, over all inputs in order; 0 for all.", least=0, shapes=True
    )
    format: str = setting(
        "",
        "Format of the part files: arrow, parquet, jsonl or csv; without it arrow.",
        choices=("", *FORMATS),
        shapes=True,
    )
    compression: str = setting(
        "",
        "Compression of Arrow and Parquet: zstd, lz4 or none; without it zstd.",
        choices=("", *COMPRESSIONS),
        shapes=True,
    )
    split_size: int = setting(
        256 * MIB,
        "Size of each split of a large file.",
        least=1,
        size=True,
        shapes=True,
        needs=("files that are cut",),
    )
    max_row_bytes: int = setting(
        256 * MIB,
        "Size of a row's input texts beyond which it is a bad row; 0 for none.",
        least=0,
        size=True,
        shapes=True,
    )
    window: int = setting(
        4096,
        "Rows that are sorted by length together before batching.",
        least=1,
        shapes=True,
        needs=("larger windows",),
    )
    batch_tokens: int = setting(
        0,
        "Tokens in one batch, padding included; 0 for the default of the task and device.",
        least=0,
        shapes=True,
    )
    max_length: int = setting(
        0,
        "Tokens of a row before it is truncated; 0 for the model's limit.",
        least=0,
        shapes=True,
        needs=("length of its own",),
    )
    truncation_side: str = setting(
        "",
        "Where a long row is cut: left or right; without it where the checkpoint's tokenizer cuts, "
        "and a prompt for text-generation at its left.",
        choices=("", "left", "right"),
        shapes=True,
        needs=("truncation",),
    )
    workers: int = setting(
        0,
        "Batches computed at the same time; 0 for one per core, at most 4 (on a GPU 2, or 1 where "
        "tokens are generated).",
        least=0,
    )
    threads: int = setting(
        0,
        "CPU threads for each batch; 0 divides the cores among the workers.",
        least=0,
        needs=("loading", "cpu"),
    )
    tokenizers: int = setting(
        0,
        "Processes that tokenize; 0 for none on a CPU, where the run itself uses all cores, and "
        "for one per two cores, at most 8, on a GPU.",
        least=0,
    )
    dedupe: bool = setting(
        True,
        "Compute equal texts of a window only once, except where tokens are sampled.",
        shapes=True,
        needs=("no sampling",),
    )
    device: str = setting(
        "auto", "auto, cpu, cuda, cuda:N, or cuda:all for every GPU.", read=_device
    )
    gpu_memory: int = setting(
        0,
        "Limit on the GPU memory of each graph, and on that of a decoder's KV caches; 0 for no "
        "limit of graphs and a third of the GPU for caches.",
        least=0,
        size=True,
        needs=("loading", "gpu"),
    )
    on_error: str = setting(
        "fail", "Bad rows: fail at the first, or reject them and go on.", choices=ON_ERROR
    )
    max_rejects: int = setting(
        -1,
        "Bad rows allowed with reject before the run fails; -1 for any number.",
        least=-1,
        needs=("reject",),
    )
    reject_text: bool = setting(
        False,
        "Record the text of bad rows, up to 10,000 characters of each.",
        shapes=True,
        flag=True,
        needs=("reject",),
    )
    scratch: str = setting(
        "",
        "Folder for what is not yet put of an output in an object store; without it one in the "
        "user's cache.",
        needs=("store",),
    )
    overwrite: bool = setting(
        False, "Clear an output folder that holds a run of other settings or inputs.", flag=True
    )
    check_parts: bool = setting(
        False,
        "Hash the parts of earlier starts before they are taken for finished; their sizes and "
        "dates are compared anyway.",
        flag=True,
    )
    share: str = setting(
        "",
        "Compute one share of the parts only, such as 2/8, into a folder that others compute the "
        "other shares of, at the same time or later; the last one writes _SUCCESS.",
        read=read_share,
    )
    stall_timeout: int = setting(
        300,
        "Seconds without progress after which a run is ended, with the stacks of its threads; ten "
        "times as long where it computes; 0 for never.",
        least=0,
    )
    lock: bool = setting(
        True,
        "Lock the output folder against other runs; without it nothing guards the folder.",
    )
    options: Mapping[str, object] = field(
        default_factory=dict,
        metadata={
            KEY: Setting(help="The task's own options by name; see `engine tasks`.", read=_options)
        },
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.gpu_memory and self.device == "cpu":
            raise SettingsError(
                f"gpu_memory is {self.gpu_memory}, and device is cpu", "leave one of them out"
            )
        check_compression(self.part_format, self.compression)
        self._check_share()

    def _check_share(self) -> None:
        """Refuse settings that a share cannot have."""
        if self.share and self.limit:
            raise SettingsError(
                f"share is {self.share}, and limit is {self.limit}: a limit counts the rows of all "
                "inputs, of which a share reads its own only",
                "leave one of them out",
            )
        if self.share and not self.lock:
            raise SettingsError(
                f"share is {self.share}, and lock is off: shares of a run know of each other by "
                "their locks",
                "leave one of them out",
            )

    @property
    def part_format(self) -> str:
        """The format of the parts, a key of `FORMATS`."""
        return self.format or "arrow"

    @property
    def part_compression(self) -> str:
        """The compression of the parts, one of `COMPRESSIONS`."""
        return default_compression(self.part_format, self.compression)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RunConfig:
        """From a mapping, as from keyword arguments or a file.

        Raises:
            SettingsError: A name is unknown or a value is out of range.
        """
        check_names("setting", settings, (f.name for f in dataclasses.fields(cls)))
        columns = {n: _as_columns(settings[n]) for n in ("text", "keep") if n in settings}
        return cls(**{**settings, **columns})

    def shaping(self) -> dict[str, object]:
        """The settings that can change a byte of the output, as JSON values.

        Workers and threads are not among them (a row's answer does not depend on them), nor is what
        happens to bad rows: a finished part has the same good rows either way.
        """
        values = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.metadata[KEY].shapes
        }
        values |= {"format": self.part_format, "compression": self.part_compression}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


RunConfig.__doc__ = f"{RunConfig.__doc__}\n\n{documented(RunConfig)}\n"


class RunSettings(TypedDict, total=False):
    """The fields of `RunConfig` as keyword arguments of `engine.run`."""

    text: str | Sequence[str]
    keep: str | Sequence[str]
    result_prefix: str
    schema: str | Mapping[str, str]
    input_format: str
    input_identity: str
    limit: int
    format: str
    compression: str
    split_size: int
    max_row_bytes: int
    window: int
    batch_tokens: int
    max_length: int
    truncation_side: str
    workers: int
    threads: int
    tokenizers: int
    dedupe: bool
    device: str
    gpu_memory: int
    on_error: str
    max_rejects: int
    reject_text: bool
    scratch: str
    overwrite: bool
    lock: bool
    check_parts: bool
    share: str
    stall_timeout: int
    options: Mapping[str, object]


def _as_columns(value: object) -> tuple[object, ...]:
    if isinstance(value, str):
        return split_commas(value)
    return tuple(value) if isinstance(value, Iterable) else (value,)
