"""rerank: how well documents answer a query, by a model that reads both together.

The rules are those of sentence-transformers' CrossEncoder (2 to 6): the score is the activation of
the one logit, and documents are sorted by it, equal ones in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle.cleaning import clean
from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, option
from engine.core.types import Arrays, Column, Encoded, Flags, Floats, Ints, Rows
from engine.runtime.protocol import Backend
from engine.tasks.task import WINDOW, Context, Task, prepend
from engine.tasks.text_classification import FUNCTIONS

# Documents that a row is assumed to have.
USUAL_DOCUMENTS = 16


@dataclass(frozen=True, kw_only=True)
class RerankOptions:
    """A text as documents is a list of one."""

    top_k: int = option("number of best documents; 0 for all", least=0)
    function_to_apply: str = option("sigmoid, or none for logits", choices=("sigmoid", "none"))
    prefix: str = option("put before every query")

    def __post_init__(self) -> None:
        check_settings(self)


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {
        "top_k": 0,
        "function_to_apply": model_config.activation or "sigmoid",
        "prefix": model_config.prefix,
    }


def _window(options: RerankOptions) -> int:
    return WINDOW // USUAL_DOCUMENTS


def _encode(rows: Rows, context: Context) -> Encoded:
    """A pair for each document of each row; of a long pair the longer text is truncated first."""
    queries, documents = rows.texts
    lengths = np.ones(len(rows), np.int64)
    if pa.types.is_list(documents.type):
        lengths = np.asarray(pc.list_value_length(documents), np.int64)
        documents = documents.flatten()
    owners = np.repeat(np.arange(len(rows)), lengths)
    strip = context.model_config.strip
    queries, documents = (
        clean(texts, strip=strip, lower_case=False)
        for texts in (prepend(context.options.prefix, queries), documents)
    )
    pairs = (queries.take(pa.array(owners)), documents)
    ids, types, cut = context.tokenizer.encode(pairs, type_ids=context.type_ids)
    truncated = np.zeros(len(rows), np.bool_)
    truncated[owners[cut]] = True
    return Encoded(rows, ids, types, truncated, owners, {"lengths": lengths})


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (logits,) = backend.graph("model").run(feeds, ["logits"])
    score = FUNCTIONS[context.options.function_to_apply]
    return {"scores": score(np.asarray(backend.host(logits)[:, 0], np.float32))}


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    lengths = window.extra["lengths"]
    scores = np.asarray(arrays["scores"]) if len(window.ids) else np.zeros(0, np.float32)
    starts = np.cumsum(lengths) - lengths
    order, scores, kept = _best(scores, window.owners, starts, context.options.top_k)
    offsets = pa.array(np.append(0, np.cumsum(kept)).astype(np.int32))
    first = np.minimum(np.cumsum(kept) - kept, max(0, len(scores) - 1))
    best = scores[first] if len(scores) else np.zeros(len(lengths), np.float32)
    return [
        pa.array(best, pa.float32(), mask=kept == 0),
        pa.ListArray.from_arrays(offsets, pa.array(scores, pa.float32())),
        pa.ListArray.from_arrays(offsets, pa.array(order, pa.int32())),
    ]


def _best(scores: Floats, owners: Ints, starts: Ints, top_k: int) -> tuple[Ints, Floats, Ints]:
    """Documents and scores of each row, best first, as one list; and how many each row has.

    Args:
        scores: Of all documents, (documents,).
        owners: The row of each, ascending.
        starts: The first document of each row, (rows,).
        top_k: As many of a row at most; 0 for all.
    """
    # Stable: equal scores keep the documents' order.
    sorting = np.lexsort((-scores, owners))
    ranks = np.arange(len(scores)) - starts[owners]
    chosen: Flags = ranks < top_k if top_k else np.ones(len(scores), np.bool_)
    best = sorting[chosen]
    kept = np.bincount(owners[chosen], minlength=len(starts))
    return best - starts[owners[best]], scores[best], kept


def _schema(model_config: ModelConfig, options: RerankOptions) -> pa.Schema:
    return pa.schema(
        [
            ("score", pa.float32()),
            ("scores", pa.list_(pa.float32())),
            ("order", pa.list_(pa.int32())),
        ]
    )


TASK = Task(
    name="rerank",
    aliases=("text-ranking",),
    summary="documents of each query, sorted by how well they answer it",
    inputs=(Column("query"), Column("documents", holds="either")),
    batch_tokens=2048,
    options=RerankOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result="score: float32, of the best document; scores: list<float32> and order: list<int32>, "
    "the documents' numbers from 0, both best first",
    window=_window,
)
