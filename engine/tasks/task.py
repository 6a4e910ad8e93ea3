"""What a task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle import batching
from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer
from engine.core.types import Arrays, Column, Encoded, Ints, Rows
from engine.generation import Count, uncounted
from engine.runtime.protocol import Backend, Value

WINDOW = 4096


@dataclass(frozen=True)
class Context:
    """What a task's functions may look at.

    Attributes:
        facts: Of the bundle.
        options: An instance of the task's `options` class.
        tokenizer: Of the bundle; it cuts at its max_length, which the person may have set.
        type_ids: Whether the model reads token_type_ids.
        stopped: Whether the run is being stopped; long loops ask.
        batch_tokens: Padded tokens of one batch, for tasks that cut batches of their own.
        count: Told by decoding of its places and how many of them had a row.
        spare: Buffers that decoding is finished with, and may use again.
        numbers: For `infer`: as `flow.Batch.numbers`, of the batch that it is given. What a row
            draws by chance must hang on nothing else.
    """

    model_config: ModelConfig
    options: Any
    tokenizer: Tokenizer
    type_ids: bool
    stopped: Callable[[], bool]
    batch_tokens: int = 0
    count: Count = uncounted
    spare: list[dict[str, Value]] = field(default_factory=list)
    numbers: Ints | None = None


def any_number(options: Any) -> int:
    """A `window` of the usual size."""
    return WINDOW


def never(options: Any) -> bool:
    """A `draws` of tasks that do not generate."""
    return False


def nothing_more(model_config: ModelConfig, options: Any, columns: int) -> None:
    """A `check` for options that fit every checkpoint."""


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name, aliases: As the Hugging Face pipelines call it.
        summary: One line for `engine tasks`.
        inputs: The columns it takes, in their order; those that are needed come first.
        batch_tokens: Padded input tokens of one batch, unless the person says otherwise.
        options: A frozen dataclass of `core.settings.option` fields, which checks itself.
        defaults: Option values that follow from the checkpoint, every option named.
        encode: A window of rows -> its sequences.
        infer: One padded batch -> arrays whose first axis runs over its sequences.
        finish: A window and its arrays (in the order of its sequences; none where it has none) ->
            the result columns, one value for each row.
        schema: Names and types of the result columns.
        columns: The same in words, for `engine tasks`.
        window: Options -> rows of a window at most, where a row brings many sequences or much data.
        draws: Whether answers are drawn by chance, so that equal rows have answers of their own.
        check: Raises SettingsError where the options do not fit the checkpoint or the number of
            input columns.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    inputs: tuple[Column, ...]
    batch_tokens: int
    options: type
    defaults: Callable[[ModelConfig], dict[str, Any]]
    encode: Callable[[Rows, Context], Encoded]
    infer: Callable[[Backend, Mapping[str, Ints], Context], Arrays]
    finish: Callable[[Encoded, Arrays, Context], list[pa.Array]]
    schema: Callable[[Context], pa.Schema]
    columns: str
    window: Callable[[Any], int] = any_number
    draws: Callable[[Any], bool] = never
    check: Callable[[ModelConfig, Any, int], None] = nothing_more

    def sequences(self, rows: Rows, context: Context, *, once: bool) -> Encoded:
        """A window's sequences; `once` has equal ones computed once, unless answers are drawn."""
        encoded = self.encode(rows, context)
        return batching.once(encoded) if once and not self.draws(context.options) else encoded

    @property
    def needed(self) -> tuple[str, ...]:
        """The usual names of the input columns that it cannot do without."""
        return tuple(column.name for column in self.inputs if column.needed)


def as_read(rows: Rows, context: Context) -> Encoded:
    """An `encode` that takes the texts as they are, one sequence for each row."""
    found = context.tokenizer.encode(rows.texts, type_ids=context.type_ids)
    return Encoded.one_each(rows, *found)


def prefixed(rows: Rows, context: Context) -> Encoded:
    """An `encode` that puts the option `prefix` before every text."""
    return encode_after(context.options.prefix, rows, context)


def encode_after(prefix: str, rows: Rows, context: Context) -> Encoded:
    """One sequence for each row, `prefix` before its texts."""
    texts = tuple(with_prefix(prefix, column) for column in rows.texts)
    found = context.tokenizer.encode(texts, type_ids=context.type_ids)
    return Encoded.one_each(rows, *found)


def with_prefix(prefix: str, texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_join_element_wise(pa.scalar(prefix), texts, "") if prefix else texts
