"""The rows that two bundles are compared on: the user's own, or bundled sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from pathlib import Path
from typing import Any

from engine import data, tasks
from engine.bundle.format import Description
from engine.core.config import RunConfig
from engine.errors import InputError
from engine.export.sentences import SENTENCES

BUNDLED = "bundled sentences"
ROWS = 256
# Fewer of a model that generates: each of its rows is many steps.
GENERATED_ROWS = 48
# The top_k of a task; 0: all labels.
_TOP = {"text-classification": 0, "fill-mask": 8}
_LABELS = ("sport", "politics", "weather", "technology")
# Tokens of an answer at most.
STEPS = 32


@dataclass(frozen=True)
class Sample:
    """Rows to compare two bundles on.

    Attributes:
        items: What `engine.pipeline.Bundle` takes, one a row.
        name: Where they come from: a file's name, or `BUNDLED`.
        rejected: Bad rows of the file, left out.
    """

    items: Sequence[Any]
    name: str
    rejected: int = 0


def bundled(description: Description) -> Sample:
    """Sentences, one and two at a time, in the columns of the bundle's task."""
    model_config, task = description.model_config, tasks.find(description.task)
    pairs = list(permutations(SENTENCES, 2))
    texts = [*SENTENCES, *(" ".join(pair) for pair in pairs)]
    limit = _row_limit(description)
    if task.name == "question-answering":
        return Sample(pairs[:limit], BUNDLED)
    if task.name == "rerank":
        others = [[other for other in SENTENCES if other != text] for text in SENTENCES]
        return Sample(list(zip(SENTENCES, others, strict=True)), BUNDLED)
    if task.name == "fill-mask":
        texts = [_masked(text, model_config.mask_token) for text in texts]
    # Spread over all of them, so that each sentence is included.
    step = max(1, len(texts) // limit)
    return Sample(texts[::step][:limit], BUNDLED)


def _row_limit(description: Description) -> int:
    return GENERATED_ROWS if description.model_config.decoder else ROWS


def _masked(text: str, mask: str) -> str:
    words = text.split()
    words[len(words) // 2] = mask
    return " ".join(words)


def read(file: Path, text: Sequence[str], description: Description) -> Sample:
    """The first good rows of a Parquet, JSONL or Arrow file.

    Args:
        file: Path of the file.
        text: The input columns; none for the task's usual names.

    Raises:
        InputError: The file is missing or unreadable, or has no good row.
        ColumnError: A column is missing.
        SettingsError: Too few or too many columns are named.
    """
    task = tasks.find(description.task)
    columns = tasks.input_columns(task, tuple(text))
    defaults, files = RunConfig(), data.find_files([file])
    sizes = {
        "split_size": defaults.split_size,
        "window": defaults.window,
        "limit": _row_limit(description),
    }
    windows = list(data.read_first(files, inputs=columns, **sizes))
    cells = [chain(*column) for column in zip(*(_lists(w.texts) for w in windows), strict=True)]
    rows = list(zip(*cells, strict=True))
    rejected = sum(len(window.rejects.rows) for window in windows)
    if not rows:
        raise InputError(
            f"{file}: none of its rows can be used", "give a sample with rows to answer"
        )
    return Sample(rows if len(columns) > 1 else [row[0] for row in rows], file.name, rejected)


def _lists(columns: Sequence[Any]) -> list[list[Any]]:
    return [column.to_pylist() for column in columns]


def options(description: Description, items: Sequence[Any]) -> dict[str, Any]:
    """The task's options for a comparison: greedy answers of bounded length."""
    model_config = description.model_config
    if model_config.decoder:
        greedy = {
            "max_new_tokens": STEPS,
            "min_new_tokens": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "do_sample": False,
        }
        return greedy | _target(description)
    if description.task == "zero-shot-classification":
        labelled = bool(items) and isinstance(items[0], (tuple, dict)) and len(items[0]) > 1
        return {} if labelled else {"candidate_labels": _LABELS}
    return {"top_k": _TOP[description.task]} if description.task in _TOP else {}


def _target(description: Description) -> dict[str, str]:
    """A target language, where a translator into many has no default."""
    languages = description.model_config.languages
    if description.task != "translation" or languages is None or languages.target:
        return {}
    return {"tgt_lang": min(languages.ids)}
