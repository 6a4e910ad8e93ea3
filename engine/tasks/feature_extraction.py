"""feature-extraction: an embedding for each text, or the hidden state of each of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
from engine.tasks import embedding_chunks
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
    normalize: bool = option("scale each pooled embedding to length 1", needs=("pooling",))
    dimensions: int = option("first dimensions to keep (Matryoshka); 0 for all", least=0)
    dtype: str = option(
        "float32, float16, int8 with a scale for each row, or binary", choices=DTYPES
    )
    prefix: str = option("put before each text", needs=("no prompt",))
    prompt: str = option(
        'name of a prompt of the checkpoint to put before each text, such as "query"'
    )
    strip: bool = option("remove white space around each text, its prompt included")

    chunk: str = option(
        "tokens for a vector of each chunk of a text, late for the same out of one pass over "
        "several chunks; none to cut long texts",
        choices=embedding_chunks.CHOICES,
    )
    chunk_size: int = option(
        "tokens of the text in a chunk, without prompt and special tokens; 0 for as many as fit",
        least=0,
    )
    overlap: int = option("tokens that a chunk shares with the next", least=0)
    chunk_mean: bool = option("one vector for each text: the mean of its chunks' vectors")

    def __post_init__(self) -> None:
        check_settings(self)
        _check_chunks(self)
        if self.pooling == NONE and (self.dimensions or self.dtype not in DTYPES[:2]):
            raise SettingsError(
                f"pooling none with dimensions {self.dimensions} and dtype {self.dtype}",
                "hidden states of tokens keep all dimensions, as float32 or float16",
            )


def _check_chunks(options: FeatureExtractionOptions) -> None:
    """Refuse chunk options that do not fit each other."""
    size, overlap = options.chunk_size, options.overlap
    if options.chunk == embedding_chunks.OFF:
        if size or overlap or options.chunk_mean:
            raise SettingsError(
                f"chunk is none, but chunk_size is {size}, overlap {overlap} and chunk_mean "
                f"{options.chunk_mean}",
                "add --chunk tokens or --chunk late",
            )
        return
    if options.pooling == NONE:
        raise SettingsError(
            f"chunk is {options.chunk}, but pooling none", "give a pooling, such as mean"
        )
    if size and overlap >= size:
        raise SettingsError(
            f"overlap is {overlap}, chunk_size {size}", "give an overlap below the chunk_size"
        )
    if options.chunk == embedding_chunks.LATE:
        _check_late(options)


def _check_late(options: FeatureExtractionOptions) -> None:
    if not options.chunk_size:
        raise SettingsError("chunk is late without a chunk_size", "add --chunk-size, such as 32")
    if "cls" in names(options.pooling):
        raise SettingsError(
            f"chunk is late, but pooling {options.pooling} reads the text's first token, which "
            "no chunk but the first has",
            "add --pooling mean, or take --chunk tokens",
        )


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {
        "pooling": model_config.pooling or "mean",
        "normalize": model_config.normalize,
        "dimensions": 0,
        "dtype": "float32",
        "prefix": model_config.prefix,
        "prompt": "",
        "strip": model_config.strip,
        "chunk": embedding_chunks.OFF,
        "chunk_size": 0,
        "overlap": 0,
        "chunk_mean": False,
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
    if context.options.chunk != embedding_chunks.OFF:
        return embedding_chunks.encode(rows, context, _prompt(context))
    cleaned = _cleaned(prepend(_prompt(context), rows.texts[0]), context)
    return Encoded.one_each(rows, *context.tokenizer.encode((cleaned,), type_ids=context.type_ids))


def _cleaned(texts: pa.StringArray | list[str], context: Context) -> pa.StringArray:
    config = context.model_config
    texts = pa.array(texts, pa.string()) if isinstance(texts, list) else texts
    return clean(texts, strip=context.options.strip, lower_case=config.lower_case)


def _prompt(context: Context) -> str:
    options = context.options
    return str(context.model_config.prompts[options.prompt] if options.prompt else options.prefix)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (value,) = backend.graph("model").run(feeds, ["last_hidden_state"])
    mask = feeds["attention_mask"]
    if context.options.pooling == NONE:
        return {"embedding": Ragged.of_padded(backend.host(value), mask.sum(axis=1))}
    if context.options.chunk == embedding_chunks.LATE:
        return {"embedding": _late(backend, backend.host(value), mask, context)}
    mask = _without_prompt(mask, context)
    parts = [_pooled(backend, value, mask, name) for name in names(context.options.pooling)]
    return {"embedding": _finished(backend, np.concatenate(parts, axis=1), context)}


def _late(backend: Backend, hidden: Floats, mask: Ints, context: Context) -> Ragged:
    """The vectors of the chunks of each sequence."""

    def pooled(states: Floats, inside: Ints, first: bool) -> Floats:
        inside = _without_prompt(inside, context) if first else inside
        parts = [POOLINGS[name](states, inside) for name in names(context.options.pooling)]
        return _finished(backend, np.concatenate(parts, axis=1), context)

    return embedding_chunks.pool(hidden, mask, context, _prompt(context), pooled)


def _finished(backend: Backend, pooled: Floats, context: Context) -> Floats:
    """Pooled vectors behind the layers that follow, with the dimensions that are kept, scaled."""
    if context.model_config.projected:
        (value,) = backend.graph("dense").run({"embedding": pooled}, ["projected"])
        pooled = backend.host(value)
    return _scaled(pooled[:, : _width(context.model_config, context.options)], context)


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


def _width(model_config: ModelConfig, options: FeatureExtractionOptions) -> int:
    return options.dimensions or _full_width(model_config, options)


def _scaled(embedding: Floats, context: Context) -> Floats:
    if not context.options.normalize:
        return embedding
    norms = np.linalg.norm(embedding, axis=1, keepdims=True)
    # The epsilon of torch.nn.functional.normalize.
    return np.asarray(embedding / np.maximum(norms, 1e-12))


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    embedding = arrays["embedding"]
    if context.options.chunk != embedding_chunks.OFF:
        return _by_row(window, embedding, context)
    if isinstance(embedding, Ragged):
        states = _vectors(embedding.values.astype(context.options.dtype))
        return [pa.ListArray.from_arrays(pa.array(embedding.offsets, pa.int32()), states)]
    return STORED[context.options.dtype](np.ascontiguousarray(embedding, np.float32))


def _by_row(window: Encoded, embedding: NDArray[Any] | Ragged, context: Context) -> list[pa.Array]:
    """A list of vectors for each row with its spans, or one vector."""
    vectors = embedding.values if isinstance(embedding, Ragged) else embedding
    rows, count = window.extra["rows"], len(window.rows)
    store = STORED[context.options.dtype]
    if context.options.chunk_mean:
        scaled = partial(_scaled, context=context)
        means = embedding_chunks.mean(vectors, rows, count, scaled)
        return store(np.ascontiguousarray(means, np.float32))
    spans = [pa.array(window.extra[name], pa.int32()) for name in ("start", "end")]
    columns = [*store(np.ascontiguousarray(vectors, np.float32)), *spans]
    return [embedding_chunks.by_row(column, rows, count) for column in columns]


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


def _schema(model_config: ModelConfig, options: FeatureExtractionOptions) -> pa.Schema:
    kind = _ARROW[options.dtype]
    if options.pooling == NONE:
        # Without dense layers, an embedding is as wide as a hidden state.
        hidden = model_config.hidden or model_config.dimensions
        return pa.schema([("embedding", pa.list_(pa.list_(kind, hidden)))])
    width = (
        -(-_width(model_config, options) // 8)
        if options.dtype == "binary"
        else _width(model_config, options)
    )
    columns = {"embedding": pa.list_(kind, width)}
    columns |= {"scale": pa.float32()} if options.dtype == "int8" else {}
    if options.chunk != embedding_chunks.OFF and not options.chunk_mean:
        columns |= {"start": pa.int32(), "end": pa.int32()}
        columns = {name: pa.list_(kind) for name, kind in columns.items()}
    return pa.schema(list(columns.items()))


def _window(options: FeatureExtractionOptions) -> int:
    return (
        _TOKEN_WINDOW
        if options.pooling == NONE or options.chunk != embedding_chunks.OFF
        else WINDOW
    )


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
    "scale: float32 with dtype int8; with chunk, lists of both, and start and end, list<int32>: "
    "characters of each chunk in the text",
    window=_window,
    check=_check,
)
