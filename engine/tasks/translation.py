"""translation with T5: a task prefix in, a decoded sequence out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.bundle import Facts, Generation
from engine.config import check_least
from engine.errors import BundleError
from engine.flow import TEXT, Arrays, Backend, Encoded, Ints, Ragged
from engine.generation import greedy
from engine.tasks.task import Context, Task, check_text, option, prefixed


@dataclass(frozen=True, kw_only=True)
class Options:
    """How texts are translated."""

    max_new_tokens: int = option("tokens a row may generate, its end token included")
    prefix: str = option("put before each text")

    def __post_init__(self) -> None:
        check_least("max_new_tokens", self.max_new_tokens, 1)
        check_text("prefix", self.prefix)


def _generation(facts: Facts) -> Generation:
    if facts.generation is None:
        raise BundleError("the bundle has no decoder settings", "export the model again")
    return facts.generation


def _defaults(facts: Facts) -> dict[str, Any]:
    return {"max_new_tokens": _generation(facts).max_new_tokens, "prefix": facts.prefix}


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    tokens, ended = greedy(
        backend,
        feeds,
        _generation(context.facts),
        max_new_tokens=context.options.max_new_tokens,
        stopped=context.stopped,
    )
    return {"tokens": tokens, "ended": ended}


def _finish(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    tokens, ended = arrays["tokens"], arrays["ended"]
    assert isinstance(tokens, Ragged)
    reasons = np.where(np.asarray(ended), "stop", "length")
    return [
        context.tokenizer.decode(tokens),
        pa.array(tokens.lengths, pa.int32()),
        pa.array(reasons.tolist(), pa.string()),
    ]


def _schema(context: Context) -> pa.Schema:
    columns = {"translation_text": pa.string(), "output_tokens": pa.int32()}
    return pa.schema([*columns.items(), ("finish_reason", pa.string())])


TASK = Task(
    name="translation",
    aliases=("translation_xx_to_yy",),
    summary="the translation of each text",
    inputs=(TEXT,),
    batch_tokens=8192,
    options=Options,
    defaults=_defaults,
    encode=prefixed,
    infer=_infer,
    finish=_finish,
    schema=_schema,
    columns="translation_text: string, output_tokens: int32, finish_reason: stop or length",
)
