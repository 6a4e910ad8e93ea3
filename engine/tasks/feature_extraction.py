"""feature-extraction: an embedding for each text, or the hidden state of each of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle.format import ModelConfig
from engine.core.settings import check_names, check_settings, option
from engine.core.types import TEXT, Arrays, Encoded, Floats, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend, Value
from engine.tasks.task import WINDOW, Context, Task, encode_with_prefix


def mean(hidden: Floats, mask: Ints) -> Floats:
    """Mean over the tokens: hidden (rows, length, d) and mask (rows, length) to (rows, d)."""
    weights = mask.astype(np.float32)
    total = np.matmul(weights[:, None, :], hidden)[:, 0]
    return np.asarray(total / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), np.float32)


def cls(hidden: Floats, mask: Ints) -> Floats:
    """The hidden state of the first token."""
    return np.asarray(hidden[:, 0])


def highest(hidden: Floats, mask: Ints) -> Floats:
    """The highest value of each dimension over the tokens; -1e9 for a row without tokens."""
    real = np.where(mask[:, :, None] == 1, hidden, np.float32(-1e9))
    return np.asarray(real.max(axis=1))


def last(hidden: Floats, mask: Ints) -> Floats:
    """The hidden state of the last token; of the first position for a row without tokens."""
    return np.asarray(hidden[np.arange(len(hidden)), np.maximum(mask.sum(axis=1) - 1, 0)])


POOLINGS: Mapping[str, Callable[[Floats, Ints], Floats]] = {
    "mean": mean,
    "cls": cls,
    "max": highest,
    "last": last,
}
# The same as weights (rows, length) of a weighted mean over the tokens.
WEIGHTS: Mapping[str, Callable[[Ints], Floats]] = {
    "mean": lambda mask: mask.astype(np.float32),
    "cls": lambda mask: _one_hot(mask, np.zeros(len(mask), np.int64)),
    "last": lambda mask: _one_hot(mask, np.maximum(mask.sum(axis=1) - 1, 0)),
}
TOKENS = "none"


def _one_hot(mask: Ints, position: Ints) -> Floats:
    """1 at the position of each row, 0 elsewhere."""
    return np.asarray(np.arange(mask.shape[1]) == position[:, None], np.float32)


DTYPES = ("float32", "float16", "int8", "binary")
_TOKEN_WINDOW = 256


@dataclass(frozen=True, kw_only=True)
class FeatureExtractionOptions:
    """How texts become embeddings.

    int8 is scaled for each row by its largest value: multiply by the column `scale` to undo it.
    binary has one bit for each dimension, set where the value is above 0, the first dimension in
    the highest bit of a byte (what sentence-transformers calls ubinary).
    """

    pooling: str = option(
        "mean, cls, max or last; none for the hidden state of every token",
        choices=(*POOLINGS, TOKENS),
    )
    normalize: bool = option("scale each pooled embedding to length 1")
    dimensions: int = option("first dimensions to keep (Matryoshka); 0 for all", least=0)
    dtype: str = option(
        "float32, float16, int8 with a scale for each row, or binary", choices=DTYPES
    )
    prefix: str = option("put before each text")
    prompt: str = option(
        'name of a prompt of the checkpoint to put before each text, such as "query"'
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.pooling == TOKENS and (self.dimensions or self.dtype not in DTYPES[:2]):
            raise SettingsError(
                f"pooling none with dimensions {self.dimensions} and dtype {self.dtype}",
                "hidden states of tokens keep all dimensions, as float32 or float16",
            )


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {
        "pooling": model_config.pooling or "mean",
        "normalize": model_config.normalize,
        "dimensions": 0,
        "dtype": "float32",
        "prefix": model_config.prefix,
        "prompt": "",
    }


def _check(model_config: ModelConfig, options: FeatureExtractionOptions, columns: int) -> None:
    if options.prompt:
        check_names("prompt", [options.prompt], model_config.prompts)
    if options.dimensions > model_config.dimensions:
        raise SettingsError(
            f"dimensions is {options.dimensions}; the embeddings have {model_config.dimensions}",
            f"1 to {model_config.dimensions}, or 0 for all",
        )


def _encode(rows: Rows, context: Context) -> Encoded:
    options = context.options
    prompt = context.model_config.prompts[options.prompt] if options.prompt else options.prefix
    return encode_with_prefix(prompt, rows, context)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (value,) = backend.graph("model").run(feeds, ["last_hidden_state"])
    mask = feeds["attention_mask"]
    if context.options.pooling == TOKENS:
        return {"embedding": Ragged.of_padded(backend.host(value), mask.sum(axis=1))}
    pooled = _pooled(backend, value, mask, context.options.pooling)
    if context.model_config.projected:
        (value,) = backend.graph("dense").run({"embedding": pooled}, ["projected"])
        pooled = backend.host(value)
    return {"embedding": _scaled(pooled[:, : _width(context)], context)}


def _pooled(backend: Backend, hidden: Value, mask: Ints, pooling: str) -> Floats:
    """One state for each row; with a pooling graph, only that is copied to the host."""
    if "pooling" not in backend.roles or pooling not in WEIGHTS:
        return POOLINGS[pooling](backend.host(hidden), mask)
    weights = WEIGHTS[pooling](mask)
    feeds = {"last_hidden_state": hidden, "weights": weights[:, None, :]}
    (value,) = backend.graph("pooling").run(feeds, ["pooled"])
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return np.asarray(backend.host(value)[:, 0] / total, np.float32)


def _width(context: Context) -> int:
    return int(context.options.dimensions or context.model_config.dimensions)


def _scaled(embedding: Floats, context: Context) -> Floats:
    if not context.options.normalize:
        return embedding
    norms = np.linalg.norm(embedding, axis=1, keepdims=True)
    # The epsilon of torch.nn.functional.normalize.
    return np.asarray(embedding / np.maximum(norms, 1e-12))


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    embedding = arrays["embedding"]
    if isinstance(embedding, Ragged):
        states = _vectors(embedding.values.astype(context.options.dtype))
        return [pa.ListArray.from_arrays(pa.array(embedding.offsets, pa.int32()), states)]
    return STORED[context.options.dtype](np.ascontiguousarray(embedding, np.float32))


def _vectors(values: NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])


def _as_float32(embedding: Floats) -> list[pa.Array]:
    return [_vectors(embedding)]


def _as_float16(embedding: Floats) -> list[pa.Array]:
    return [_vectors(embedding.astype(np.float16))]


def _as_int8(embedding: Floats) -> list[pa.Array]:
    largest = np.abs(embedding).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return [_vectors(np.rint(embedding / scale[:, None]).astype(np.int8)), pa.array(scale)]


def _as_binary(embedding: Floats) -> list[pa.Array]:
    return [_vectors(np.packbits(embedding > 0, axis=1))]


STORED: Mapping[str, Callable[[Floats], list[pa.Array]]] = {
    "float32": _as_float32,
    "float16": _as_float16,
    "int8": _as_int8,
    "binary": _as_binary,
}
_ARROW = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}


def _schema(context: Context) -> pa.Schema:
    options = context.options
    kind = _ARROW[options.dtype]
    if options.pooling == TOKENS:
        # Without dense layers, an embedding is as wide as a hidden state.
        hidden = context.model_config.hidden or context.model_config.dimensions
        return pa.schema([("embedding", pa.list_(pa.list_(kind, hidden)))])
    width = -(-_width(context) // 8) if options.dtype == "binary" else _width(context)
    columns = [("embedding", pa.list_(kind, width))]
    return pa.schema([*columns, ("scale", pa.float32())] if options.dtype == "int8" else columns)


def _window(options: FeatureExtractionOptions) -> int:
    return _TOKEN_WINDOW if options.pooling == TOKENS else WINDOW


TASK = Task(
    name="feature-extraction",
    aliases=("embedding", "sentence-similarity"),
    summary="an embedding for each text",
    inputs=(TEXT,),
    batch_tokens=2048,
    options=FeatureExtractionOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result="embedding: fixed_size_list<float32>[dimensions], a list of them with pooling none; "
    "scale: float32 with dtype int8",
    window=_window,
    check=_check,
)
