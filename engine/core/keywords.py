"""Keyword arguments with their types, so that an editor completes them and mypy checks them.

A type checker cannot derive keyword arguments from dataclass fields, so the options of all tasks
are repeated here. A test compares every name and type with the declarations. `stop` also takes an
event that ends the call once it is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import TypedDict

from engine.core.config import RunSettings


class TaskOptions(TypedDict, total=False):
    """The options of all tasks; `engine tasks` says which task takes which."""

    aggregation_strategy: str
    align_to_words: bool
    candidate_labels: str | Sequence[str]
    chat: bool
    chat_date: str
    chat_template: str
    chat_variables: str | Sequence[str]
    chunk: str
    chunk_mean: bool
    chunk_size: int
    delimiter: str
    dimensions: int
    do_sample: bool
    doc_stride: int
    dtype: str
    early_stopping: bool | str
    function_to_apply: str
    handle_impossible_answer: bool
    hypothesis_template: str
    ignore_labels: str | Sequence[str]
    length_penalty: float
    max_answer_len: int
    max_new_tokens: int | str
    max_seq_len: int
    min_new_tokens: int | str
    min_p: float
    multi_label: bool
    no_repeat_ngram_size: int
    normalize: bool
    num_beams: int
    num_return_sequences: int
    overlap: int
    pooling: str
    prefix: str
    prompt: str
    repetition_penalty: float
    return_full_text: bool
    return_logprobs: bool
    return_prompt_tokens: bool
    return_scores: bool
    seed: int
    src_lang: str
    stop: str | Sequence[str] | Event
    stride: int
    strip: bool
    system: str
    targets: str | Sequence[str]
    temperature: float
    tgt_lang: str
    top_k: int
    top_p: float


class RunArguments(RunSettings, TaskOptions, total=False):
    """What `engine.run` takes: its own settings and the options of the bundle's task."""


class TableSettings(TypedDict, total=False):
    """The fields of `RunConfig` that matter for a table in memory."""

    text: str | Sequence[str]
    keep: str | Sequence[str]
    result_prefix: str
    on_error: str
    batch_tokens: int
    dedupe: bool
    max_length: int
    truncation_side: str


class TableArguments(TableSettings, TaskOptions, total=False):
    """What `Bundle.answer` takes: its own settings and the options of the bundle's task."""
