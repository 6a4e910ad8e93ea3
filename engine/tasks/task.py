"""What a task consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.bundle import batching
from engine.bundle.chat_template import ChatTemplate
from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer
from engine.core.types import Arrays, Column, Encoded, Ints, Ragged, Rows
from engine.generation import BufferPool, Count, uncounted
from engine.runtime.protocol import Backend

WINDOW = 4096

Options = Any
"""An instance of a task's `options` class: the functions of a task know their own."""


Finished = Callable[[Ints, Arrays], None]


@dataclass(frozen=True)
class Context:
    """What the functions of a task may use.

    Attributes:
        model_config: Of the bundle.
        options: The task's options.
        tokenizer: Of the bundle; it truncates at the run's max_length.
        type_ids: Whether the model reads token_type_ids.
        stopped: Whether the run is being stopped; long loops ask.
        batch_tokens: Padded tokens of one batch, for tasks that form batches themselves.
        count: See `generation.scheduler.Count`.
        spare: Memory of earlier batches that generation may use again.
        numbers: For `infer`: as `Batch.numbers` of the batch it gets. What is sampled for a row
            must depend on nothing else.
        seeds: For `infer`: as `Batch.seeds` of the batch it gets; with them not even on `numbers`.
        finished: For `infer` of a task that generates: called with the numbers of rows of the
            batch as soon as they have all of their tokens, and with what `infer` returns for them.
        chat_template: For `prepare`, where the rows are chats.
    """

    model_config: ModelConfig
    options: Options
    tokenizer: Tokenizer
    type_ids: bool
    stopped: Callable[[], bool]
    batch_tokens: int = 0
    count: Count = uncounted
    spare: list[BufferPool] = field(default_factory=list)
    numbers: Ints | None = None
    seeds: NDArray[np.uint64] | None = None
    finished: Finished | None = None
    chat_template: ChatTemplate | None = None


def usual_window(options: Options) -> int:
    """A `window` for tasks with one sequence for each row."""
    return WINDOW


def never_samples(options: Options) -> bool:
    """A `samples` for tasks that do not generate."""
    return False


def no_chats(options: Options) -> bool:
    """A `chats` for tasks whose rows are none."""
    return False


def as_they_are(rows: Rows, context: Context) -> Rows:
    """A `prepare` that changes nothing."""
    return rows


def accept_all(model_config: ModelConfig, options: Options, columns: int) -> None:
    """A `check` for options that fit every checkpoint."""


def keep_defaults(
    defaults: Mapping[str, object], values: Mapping[str, object]
) -> Mapping[str, object]:
    """An `adapt` for options that do not conflict."""
    return defaults


@dataclass(frozen=True)
class Task:
    """One row of the table of tasks.

    Attributes:
        name, aliases: As the Hugging Face pipelines call it.
        summary: One line for `engine tasks`.
        inputs: The input columns in order, the required ones first.
        batch_tokens: Padded input tokens of one batch on a CPU, unless a setting says otherwise.
        options: A frozen dataclass of `core.settings.option` fields, which checks itself.
        defaults: The value of every option for a checkpoint.
        encode: A window of rows -> its sequences.
        infer: One padded batch -> arrays whose first axis runs over its sequences.
        postprocess: A window and its arrays (in the order of its sequences; empty where it has no
            sequences) -> the result columns, one value for each row.
        schema: Names and types of the result columns.
        result: The result columns in words, for `engine tasks`.
        window: Options -> rows of a window at most; few where a row has many sequences or much
            data.
        samples: Whether tokens are sampled, so that equal rows have different answers.
        check: Raises SettingsError where the options do not fit the checkpoint or the number of
            input columns.
        chats: Whether the first input column may hold lists of messages.
        prepare: A window as it is read -> as `encode` takes it, with rows that cannot be answered
            among its rejects.
        adapt: Defaults, and the options that a person names -> the defaults, changed where these
            would conflict with them.
        truncation_side: Where long rows are cut if neither the person nor the bundle says.
        rereads: Whether `postprocess` reads the texts again; else they are dropped once encoded.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    inputs: tuple[Column, ...]
    batch_tokens: int
    options: type
    defaults: Callable[[ModelConfig], dict[str, object]]
    encode: Callable[[Rows, Context], Encoded]
    infer: Callable[[Backend, Mapping[str, Ints], Context], Arrays]
    postprocess: Callable[[Encoded, Arrays, Context], list[pa.Array]]
    schema: Callable[[ModelConfig, Options], pa.Schema]
    result: str
    window: Callable[[Options], int] = usual_window
    samples: Callable[[Options], bool] = never_samples
    check: Callable[[ModelConfig, Options, int], None] = accept_all
    chats: Callable[[Options], bool] = no_chats
    prepare: Callable[[Rows, Context], Rows] = as_they_are
    adapt: Callable[[Mapping[str, object], Mapping[str, object]], Mapping[str, object]] = (
        keep_defaults
    )
    truncation_side: str = "right"
    rereads: bool = False

    def encode_window(self, rows: Rows, context: Context, *, dedupe: bool) -> Encoded:
        """A window's sequences; with `dedupe` equal ones are computed once, unless sampled."""
        encoded = self.encode(rows, context)
        once = dedupe and not self.samples(context.options)
        return batching.once(encoded) if once else encoded

    @property
    def required(self) -> tuple[str, ...]:
        """The usual names of the input columns that every run needs."""
        return tuple(column.name for column in self.inputs if column.needed)


def encode_texts(rows: Rows, context: Context) -> Encoded:
    """An `encode` that takes the texts as they are, one sequence for each row."""
    return Encoded.one_each(rows, *context.tokenizer.encode(rows.texts, type_ids=context.type_ids))


def encode_prefixed(rows: Rows, context: Context) -> Encoded:
    """One sequence for each row of its text alone, the option `prefix` before it."""
    encoded = context.tokenizer.encode(
        rows.texts[:1], type_ids=context.type_ids, prefix=context.options.prefix
    )
    return Encoded.one_each(rows, *encoded)


def prepend(prefix: str, texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_join_element_wise(pa.scalar(prefix), texts, "") if prefix else texts


def ragged(arrays: Arrays, name: str) -> Ragged:
    """One of the results of `infer` that has a different length in each sequence."""
    values = arrays[name]
    assert isinstance(values, Ragged)
    return values
