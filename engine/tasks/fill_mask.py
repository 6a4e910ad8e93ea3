"""fill-mask: the likeliest tokens in place of each mask of a text.

The rules are those of transformers' FillMaskPipeline (4.57) with truncation. Among equal scores the
token with the lower id comes first; torch.topk has no rule for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer, clean_up
from engine.core.settings import as_texts, check_settings, option
from engine.core.types import TEXT, Arrays, Encoded, Ints, Ragged, Rows
from engine.errors import BundleError, SettingsError
from engine.runtime.protocol import Backend, Value
from engine.tasks.task import WINDOW, Context, Task
from engine.tasks.text_classification import softmax

Floats = NDArray[np.float32]

# Sequences that are decoded at a time; every one is a list of Python integers meanwhile.
DECODED = 1024
FEWEST_ROWS = 32
CANDIDATE = pa.struct(
    [
        ("mask", pa.int32()),
        ("score", pa.float32()),
        ("token", pa.int32()),
        ("token_str", pa.string()),
        ("sequence", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class FillMaskOptions:
    """`targets` as one text is one target."""

    top_k: int = option("number of best tokens for each mask", least=1)
    targets: tuple[str, ...] = option(
        "tokens to choose from; by default the whole vocabulary", read=as_texts
    )

    def __post_init__(self) -> None:
        check_settings(self)


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {"top_k": 5, "targets": ()}


def _check(model_config: ModelConfig, options: FillMaskOptions, columns: int) -> None:
    if model_config.mask_id < 0:
        raise BundleError("the model's tokenizer has no mask", "export a masked language model")


def _window(options: FillMaskOptions) -> int:
    return max(FEWEST_ROWS, WINDOW // options.top_k)


def _encode(rows: Rows, context: Context) -> Encoded:
    """The rows that have a mask; one that was cut off is not there."""
    if context.options.targets:
        targets(context.options.targets, context.tokenizer)
    ids, types, truncated = context.tokenizer.encode(rows.texts, type_ids=context.type_ids)
    owners = np.unique(_places(ids, context)[0])
    types = types.take(owners) if types is not None else None
    return Encoded(rows, ids.take(owners), types, truncated, owners)


def _places(ids: Ragged, context: Context) -> tuple[Ints, Ints]:
    """Sequence and position of every mask, in order."""
    flat = np.flatnonzero(ids.values == context.model_config.mask_id)
    sequence = np.searchsorted(ids.offsets, flat, side="right") - 1
    return sequence, flat - ids.offsets[sequence]


def targets(texts: tuple[str, ...], tokenizer: Tokenizer) -> Ints:
    """Ids of the tokens to choose from, ascending, each once; int64.

    A text that is no token of the vocabulary stands for its first token, and one without any is
    left out.

    Raises:
        SettingsError: None is left.
    """
    ids = np.array([tokenizer.id_of(text) for text in texts], np.int64)
    encoded = tokenizer.ids(pa.array(texts, pa.string()))
    filled = (ids < 0) & (encoded.lengths > 0)
    ids[filled] = encoded.values[encoded.offsets[:-1][filled]]
    if not (ids >= 0).any():
        raise SettingsError(
            f"none of the {len(texts)} targets is a token of the model",
            "give words that the model's tokenizer knows",
        )
    return np.unique(ids[ids >= 0])


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (value,) = backend.graph("model").run(feeds, ["logits"])
    masks = (feeds["input_ids"] == context.model_config.mask_id) & (feeds["attention_mask"] == 1)
    scores = softmax(np.asarray(_at(backend, value, masks), np.float32))
    if not context.options.targets:
        token, score = best(scores, context.options.top_k)
    else:
        chosen = targets(context.options.targets, context.tokenizer)
        token, score = best(scores[:, chosen], context.options.top_k)
        token = chosen[token]
    counts = masks.sum(axis=1)
    return {"token": Ragged.of(token, counts), "score": Ragged.of(score, counts)}


def _at(backend: Backend, logits: Value, masks: NDArray[np.bool_]) -> Floats:
    """The logits of masked places; where there is a graph for it, only they leave the device."""
    if "mask_logits" not in backend.roles or not masks.any():
        return backend.host(logits)[masks]
    feeds = {"logits": logits, "places": np.argwhere(masks)}
    (value,) = backend.graph("mask_logits").run(feeds, ["found"])
    return backend.host(value)


def best(scores: Floats, top_k: int) -> tuple[Ints, Floats]:
    """Columns and values of the best of each row, best first, equals by column.

    Args:
        scores: float32 (rows, columns).
        top_k: How many; all columns where there are fewer.

    Returns:
        int64 and float32, (rows, min(top_k, columns)).
    """
    top_k = min(top_k, scores.shape[1])
    least = np.partition(scores, -top_k, axis=1)[:, [-top_k]]
    # So written, NaN passes: a row of them has its columns, too.
    rows, columns = np.nonzero(~(scores < least))
    order = np.lexsort((columns, -scores[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(len(scores)))
    first = order[starts[:, None] + np.arange(top_k)]
    return columns[first].astype(np.int64), scores[rows[first], columns[first]]


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    kind = pa.list_(CANDIDATE)
    if not len(window.ids):
        return [pa.array([[]] * len(window.rows), kind)]
    token, score = (_values(arrays, name) for name in ("token", "score"))
    sequence, position = _places(window.ids, context)
    masks = np.bincount(sequence, minlength=len(window.ids))
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(masks) - masks, masks)
    top_k = token.shape[1]
    fields = [
        pa.array(np.repeat(number, top_k), pa.int32()),
        pa.array(score.ravel(), pa.float32()),
        pa.array(token.ravel(), pa.int32()),
        _each(token.ravel(), context),
        _filled(window.ids, sequence, position, token, context),
    ]
    counts = np.zeros(len(window.rows), np.int64)
    counts[window.owners] = masks * top_k
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    structs = pa.StructArray.from_arrays(fields, fields=list(CANDIDATE))
    return [pa.ListArray.from_arrays(offsets, structs).cast(kind)]


def _values(arrays: Arrays, name: str) -> NDArray[Any]:
    found = arrays[name]
    assert isinstance(found, Ragged)
    return found.values


def _each(tokens: Ints, context: Context) -> pa.StringArray:
    """Every token as text, by itself."""
    known, which = np.unique(tokens, return_inverse=True)
    alone = Ragged.of(known, np.ones(len(known), np.int64))
    return _decoded(alone, context, skip_special=False).take(pa.array(which))


def _filled(
    ids: Ragged, sequence: Ints, position: Ints, token: Ints, context: Context
) -> pa.StringArray:
    """The texts with each candidate in the place of its mask, in the order of `token.ravel()`.

    Special tokens are left out where a text has one mask. Where it has several they are to be
    seen, the other masks among them.
    """
    top_k, tokens = token.shape[1], token.ravel()
    sequence, position = np.repeat(sequence, top_k), np.repeat(position, top_k)
    several = np.bincount(sequence)[sequence] > top_k
    parts, order = [], [np.flatnonzero(~several), np.flatnonzero(several)]
    for group, skip_special in zip(order, (True, False), strict=True):
        for start in range(0, len(group), DECODED):
            some = group[start : start + DECODED]
            made = _put(ids.take(sequence[some]), position[some], tokens[some], context)
            parts.append(_decoded(made, context, skip_special=skip_special))
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(order))))


def _put(copies: Ragged, position: Ints, token: Ints, context: Context) -> Ragged:
    """Sequences with one token changed in each, and padding that stood in the text left out."""
    copies.values[copies.offsets[:-1] + position] = token
    kept = copies.values != context.model_config.pad_id
    before = np.concatenate(([0], np.cumsum(kept)))
    return Ragged(copies.values[kept], before[copies.offsets])


def _decoded(ids: Ragged, context: Context, *, skip_special: bool) -> pa.StringArray:
    texts = context.tokenizer.decode(ids, skip_special=skip_special)
    if not context.model_config.clean_up:
        return texts
    return pa.array([clean_up(text) for text in texts.to_pylist()], pa.string())


def _schema(context: Context) -> pa.Schema:
    return pa.schema([("candidates", pa.list_(CANDIDATE))])


TASK = Task(
    name="fill-mask",
    aliases=(),
    summary="the likeliest tokens in place of each mask of a text",
    inputs=(TEXT,),
    # Logits are tokens × vocabulary.
    batch_tokens=512,
    options=FillMaskOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result=(
        "candidates: list<struct<mask: int32, score: float32, token: int32, token_str: string, "
        "sequence: string>>, by mask (from 0), best first; empty where a text has no mask"
    ),
    window=_window,
    check=_check,
)
