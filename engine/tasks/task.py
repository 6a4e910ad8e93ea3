"""What a task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle import Facts
from engine.errors import SettingsError
from engine.flow import Arrays, Backend, Ints, Ragged

Texts = tuple[pa.StringArray, ...]


@dataclass(frozen=True)
class Context:
    """What a task's functions may look at.

    Attributes:
        facts: Of the bundle.
        options: An instance of the task's `options` class.
        decode: Generated ids to texts.
        stopped: Whether the run is being stopped; long loops ask.
    """

    facts: Facts
    options: Any
    decode: Callable[[Ragged], pa.StringArray]
    stopped: Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name, aliases: As the Hugging Face pipelines call it.
        summary: One line for `engine tasks`.
        texts: How many text columns it takes at most.
        batch_tokens: Padded input tokens of one batch, unless the person says otherwise.
        options: A frozen dataclass that validates itself.
        defaults: Option values that follow from the checkpoint, every option named.
        prepare: Texts as read -> texts as the tokenizer gets them.
        infer: One padded batch -> arrays whose first axis runs over its rows.
        finish: The arrays of a whole window, in input order -> the result columns.
        schema: Names and types of the result columns.
        columns: The same in words, for `engine tasks`.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    texts: int
    batch_tokens: int
    options: type
    defaults: Callable[[Facts], dict[str, Any]]
    prepare: Callable[[Texts, Context], Texts]
    infer: Callable[[Backend, Mapping[str, Ints], Context], Arrays]
    finish: Callable[[Arrays, Context], list[pa.Array]]
    schema: Callable[[Context], pa.Schema]
    columns: str


def as_read(texts: Texts, context: Context) -> Texts:
    """A `prepare` that leaves the texts alone."""
    return texts


def prefixed(texts: Texts, context: Context) -> Texts:
    """A `prepare` that puts the option `prefix` before every text."""
    if not context.options.prefix:
        return texts
    prefix = pa.scalar(context.options.prefix)
    return tuple(pc.binary_join_element_wise(prefix, column, "") for column in texts)


def check_prefix(prefix: object) -> None:
    """Raise SettingsError unless a prefix is text."""
    if not isinstance(prefix, str):
        raise SettingsError(f"prefix is {prefix!r}", "a text, such as 'translate: '")
