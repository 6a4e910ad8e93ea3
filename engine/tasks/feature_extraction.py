"""feature-extraction: an embedding for each text, or the hidden state of each of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle.cleaning import clean
from engine.bundle.format import ModelConfig
from engine.core.settings import check_choice, check_names, check_settings, option
from engine.core.types import TEXT, Arrays, Encoded, Floats, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend, Value
from engine.tasks.pooling import NONE, POOLINGS, WEIGHTS, divisor, names
from engine.tasks.task import WINDOW, Context, Task, prepend

DTYPES = ("float32", "float16", "int8", "binary")
_TOKEN_WINDOW = 256


def _read_pooling(name: str, value: object) -> str:
    choices = (*POOLINGS, NONE)
    if not isinstance(value, str) or value == NONE:
        check_choice(name, value, choices)
        return NONE
    for part in names(value):
        check_choice(name, part, choices[:-1] if part != value else choices)
    return value


@dataclass(frozen=True, kw_only=True)
class FeatureExtractionOptions:
    """How texts become embeddings.

    int8 is scaled for each row by its largest value: multiply by the column `scale` to undo it.
    binary has one bit for each dimension, set where the value is above 0, the first dimension in
    the highest bit of a byte (what sentence-transformers calls ubinary).
    """

    pooling: str = option(
        f"{', '.join(POOLINGS)}, or several of them joined by +; none for the hidden state of "
        "every token",
        read=_read_pooling,
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
        if self.pooling == NONE and (self.dimensions or self.dtype not in DTYPES[:2]):
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
    if model_config.projected and options.pooling != NONE:
        _check_projected(model_config, options)
    full = _full_width(model_config, options)
    if options.dimensions > full:
        raise SettingsError(
            f"dimensions is {options.dimensions}; the embeddings have {full}",
            f"1 to {full}, or 0 for all",
        )


def _check_projected(model_config: ModelConfig, options: FeatureExtractionOptions) -> None:
    """The layers behind the pooling take embeddings of one width."""
    count = len(names(model_config.pooling))
    if len(names(options.pooling)) != count:
        raise SettingsError(
            f"pooling is {options.pooling!r}; the layers behind it take as many as "
            f"{model_config.pooling} has",
            f"give {count} of them, or leave it out for {model_config.pooling}",
        )


def _full_width(model_config: ModelConfig, options: FeatureExtractionOptions) -> int:
    """Width of an embedding whose dimensions are all kept."""
    if model_config.projected or not model_config.hidden:
        return model_config.dimensions
    return model_config.hidden * len(names(options.pooling))


def _encode(rows: Rows, context: Context) -> Encoded:
    cleaned = _cleaned(prepend(_prompt(context), rows.texts[0]), context)
    return Encoded.one_each(rows, *context.tokenizer.encode((cleaned,), type_ids=context.type_ids))


def _cleaned(texts: pa.StringArray | list[str], context: Context) -> pa.StringArray:
    config = context.model_config
    texts = pa.array(texts, pa.string()) if isinstance(texts, list) else texts
    return clean(texts, strip=config.strip, lower_case=config.lower_case)


def _prompt(context: Context) -> str:
    options = context.options
    return str(context.model_config.prompts[options.prompt] if options.prompt else options.prefix)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (value,) = backend.graph("model").run(feeds, ["last_hidden_state"])
    mask = feeds["attention_mask"]
    if context.options.pooling == NONE:
        return {"embedding": Ragged.of_padded(backend.host(value), mask.sum(axis=1))}
    mask = _without_prompt(mask, context)
    parts = [_pooled(backend, value, mask, name) for name in names(context.options.pooling)]
    pooled = np.concatenate(parts, axis=1)
    if context.model_config.projected:
        (value,) = backend.graph("dense").run({"embedding": pooled}, ["projected"])
        pooled = backend.host(value)
    return {"embedding": _scaled(pooled[:, : _width(context)], context)}


def _without_prompt(mask: Ints, context: Context) -> Ints:
    """The mask of the tokens that are pooled: all, or those behind the prompt."""
    prompt = _prompt(context)
    if context.model_config.include_prompt or not prompt:
        return mask
    (ids, *_) = context.tokenizer.encode((_cleaned([prompt], context),), type_ids=False)
    special = len(ids.values) and int(ids.values[-1]) in context.tokenizer.special_ids
    return mask * (np.arange(mask.shape[1]) >= len(ids.values) - bool(special))


def _pooled(backend: Backend, hidden: Value, mask: Ints, pooling: str) -> Floats:
    """One state for each row; with a pooling graph, only that is copied to the host."""
    if "pooling" not in backend.roles or pooling not in WEIGHTS:
        return POOLINGS[pooling](backend.host(hidden), mask)
    weights = WEIGHTS[pooling](mask)
    feeds = {"last_hidden_state": hidden, "weights": weights[:, None, :]}
    (value,) = backend.graph("pooling").run(feeds, ["pooled"])
    return np.asarray(backend.host(value)[:, 0] / divisor(pooling, weights), np.float32)


def _width(context: Context) -> int:
    return context.options.dimensions or _full_width(context.model_config, context.options)


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
    if options.pooling == NONE:
        # Without dense layers, an embedding is as wide as a hidden state.
        hidden = context.model_config.hidden or context.model_config.dimensions
        return pa.schema([("embedding", pa.list_(pa.list_(kind, hidden)))])
    width = -(-_width(context) // 8) if options.dtype == "binary" else _width(context)
    columns = [("embedding", pa.list_(kind, width))]
    return pa.schema([*columns, ("scale", pa.float32())] if options.dtype == "int8" else columns)


def _window(options: FeatureExtractionOptions) -> int:
    return _TOKEN_WINDOW if options.pooling == NONE else WINDOW


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
