"""text-classification: labels with their scores for each text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, option
from engine.core.types import TEXT, Arrays, Column, Encoded, Floats, Ints
from engine.runtime.protocol import Backend
from engine.tasks.task import Context, Task, encode_texts


def softmax(logits: Floats) -> Floats:
    """Along the last axis, the maximum subtracted first."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), computed with tanh so that nothing overflows."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)


def unchanged(logits: Floats) -> Floats:
    return logits


FUNCTIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": unchanged,
}


@dataclass(frozen=True, kw_only=True)
class TextClassificationOptions:
    """With top_k 1 the columns are label and score, otherwise the lists labels and scores."""

    top_k: int = option("number of best labels; 0 for all", least=0)
    function_to_apply: str = option("softmax, sigmoid or none", choices=tuple(FUNCTIONS))

    def __post_init__(self) -> None:
        check_settings(self)


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {"top_k": 1, "function_to_apply": _function(model_config)}


def _function(model_config: ModelConfig) -> str:
    """The rule of transformers' TextClassificationPipeline.postprocess (4.57)."""
    if model_config.problem_type == "regression":
        return "none"
    if model_config.problem_type == "multi_label_classification" or len(model_config.labels) == 1:
        return "sigmoid"
    return "softmax"


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (logits,) = backend.graph("model").run(feeds, ["logits"])
    return {"scores": FUNCTIONS[context.options.function_to_apply](backend.host(logits))}


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    scores = np.asarray(arrays["scores"])
    count = _count(context)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    names = pa.array(context.model_config.labels, pa.string())
    labels = names.take(pa.array(best.ravel()))
    values = pa.array(np.take_along_axis(scores, best, axis=1).ravel(), pa.float32())
    if context.options.top_k == 1:
        return [labels, values]
    offsets = pa.array(np.arange(len(scores) + 1, dtype=np.int32) * count)
    return [pa.ListArray.from_arrays(offsets, column) for column in (labels, values)]


def _count(context: Context) -> int:
    labels = len(context.model_config.labels)
    return min(context.options.top_k or labels, labels)


def _schema(model_config: ModelConfig, options: TextClassificationOptions) -> pa.Schema:
    if options.top_k == 1:
        return pa.schema([("label", pa.string()), ("score", pa.float32())])
    return pa.schema([("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


TASK = Task(
    name="text-classification",
    aliases=("sentiment-analysis",),
    summary="a label and its score for each text or pair of texts",
    inputs=(TEXT, Column("text_pair", needed=False)),
    batch_tokens=2048,
    options=TextClassificationOptions,
    defaults=_defaults,
    encode=encode_texts,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result="label: string, score: float32; labels and scores, lists, where top_k is not 1",
)
