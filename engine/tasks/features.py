"""feature-extraction: one embedding a row, pooled over its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle import Facts
from engine.config import check_choice
from engine.flow import TEXT, Arrays, Backend, Encoded, Ints
from engine.tasks.task import Context, Task, check_text, option, prefixed

Floats = NDArray[np.float32]


def mean(hidden: Floats, mask: Ints) -> Floats:
    """Mean over the real tokens: (rows, length, d) and (rows, length) to (rows, d)."""
    weights = mask.astype(np.float32)
    total = np.matmul(weights[:, None, :], hidden)[:, 0]
    return np.asarray(total / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), np.float32)


def cls(hidden: Floats, mask: Ints) -> Floats:
    """The first token's state."""
    return np.asarray(hidden[:, 0])


def last(hidden: Floats, mask: Ints) -> Floats:
    """The last real token's state; of a row without any, the first position's."""
    return np.asarray(hidden[np.arange(len(hidden)), np.maximum(mask.sum(axis=1) - 1, 0)])


POOLINGS: Mapping[str, Callable[[Floats, Ints], Floats]] = {"mean": mean, "cls": cls, "last": last}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How texts become embeddings."""

    pooling: str = option("mean, cls or last token")
    normalize: bool = option("scale each embedding to length 1")
    prefix: str = option('put before each text, such as "query: "')

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("normalize", self.normalize, (True, False))
        check_text("prefix", self.prefix)


def _defaults(facts: Facts) -> dict[str, Any]:
    pooling = facts.pooling or "mean"
    return {"pooling": pooling, "normalize": facts.normalize, "prefix": facts.prefix}


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (value,) = backend.graph("model").run(feeds, ["last_hidden_state"])
    pool = POOLINGS[context.options.pooling]
    return {"embedding": _scaled(pool(backend.host(value), feeds["attention_mask"]), context)}


def _scaled(embedding: Floats, context: Context) -> Floats:
    if not context.options.normalize:
        return embedding
    norms = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(
        embedding / np.maximum(norms, 1e-12)
    )  # torch.nn.functional.normalize's epsilon


def _finish(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    embedding = np.ascontiguousarray(arrays["embedding"], np.float32)
    return [pa.FixedSizeListArray.from_arrays(embedding.ravel(), embedding.shape[1])]


def _schema(context: Context) -> pa.Schema:
    return pa.schema([("embedding", pa.list_(pa.float32(), context.facts.dimensions))])


TASK = Task(
    name="feature-extraction",
    aliases=("embedding", "sentence-similarity"),
    summary="an embedding for each text",
    inputs=(TEXT,),
    batch_tokens=2048,
    options=Options,
    defaults=_defaults,
    encode=prefixed,
    infer=_infer,
    finish=_finish,
    schema=_schema,
    columns="embedding: fixed_size_list<float32>[dimensions]",
)
