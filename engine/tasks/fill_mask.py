"""fill-mask: the likeliest tokens in place of each mask of a text.

The rules are those of transformers' FillMaskPipeline (4.57) with truncation. Among equal scores the
token with the lower id comes first; torch.topk has no rule for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer, clean_up
from engine.core.settings import as_texts, check_settings, option
from engine.core.types import TEXT, Arrays, Encoded, Floats, Ints, Ragged, Rows
from engine.errors import BundleError, SettingsError
from engine.runtime.protocol import Backend, Value
from engine.tasks.task import WINDOW, Context, Task, ragged
from engine.tasks.text_classification import softmax

# Sequences that are decoded together; each is a list of Python integers meanwhile.
DECODED = 1024
LEAST_WINDOW = 32
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
    """A single text as `targets` is one target."""

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
        raise BundleError(
            "the tokenizer of the model has no mask", "export a masked language model"
        )


def _window(options: FillMaskOptions) -> int:
    return max(LEAST_WINDOW, WINDOW // options.top_k)


def _encode(rows: Rows, context: Context) -> Encoded:
    """A sequence for each row that has a mask and did not lose it by truncation."""
    if context.options.targets:
        targets(context.options.targets, context.tokenizer)
    ids, types, truncated = context.tokenizer.encode(rows.texts, type_ids=context.type_ids)
    owners = np.unique(_mask_positions(ids, context)[0])
    types = types.take(owners) if types is not None else None
    return Encoded(rows, ids.take(owners), types, truncated, owners)


def _mask_positions(ids: Ragged, context: Context) -> tuple[Ints, Ints]:
    """Sequence and position of each mask, in order; int64 (masks,) both."""
    flat = np.flatnonzero(ids.values == context.model_config.mask_id)
    sequence = np.searchsorted(ids.offsets, flat, side="right") - 1
    return sequence, flat - ids.offsets[sequence]


def targets(texts: tuple[str, ...], tokenizer: Tokenizer) -> Ints:
    """Ids of the tokens to choose from, int64, ascending and unique.

    A text that is not in the vocabulary stands for its first token, and is left out if it has none.

    Raises:
        SettingsError: No target is left.
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
        choices = targets(context.options.targets, context.tokenizer)
        token, score = best(scores[:, choices], context.options.top_k)
        token = choices[token]
    counts = masks.sum(axis=1)
    return {"token": Ragged.of(token, counts), "score": Ragged.of(score, counts)}


def _at(backend: Backend, logits: Value, masks: NDArray[np.bool_]) -> Floats:
    """The logits at the masks; with a graph for it, only those are copied to the host."""
    if "mask_logits" not in backend.roles or not masks.any():
        return backend.host(logits)[masks]
    feeds = {"logits": logits, "positions": np.argwhere(masks)}
    (value,) = backend.graph("mask_logits").run(feeds, ["masked_logits"])
    return backend.host(value)


def best(scores: Floats, top_k: int) -> tuple[Ints, Floats]:
    """Columns and values of the best scores of each row, best first, equal ones by column.

    Args:
        scores: float32 (rows, columns).
        top_k: How many; all columns where there are fewer.

    Returns:
        int64 and float32, (rows, min(top_k, columns)).
    """
    top_k = min(top_k, scores.shape[1])
    least = np.partition(scores, -top_k, axis=1)[:, [-top_k]]
    # Not `scores >= least`: a row of NaN must have its columns, too.
    rows, columns = np.nonzero(~(scores < least))
    order = np.lexsort((columns, -scores[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(len(scores)))
    first = order[starts[:, None] + np.arange(top_k)]
    return columns[first].astype(np.int64), scores[rows[first], columns[first]]


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    kind = pa.list_(CANDIDATE)
    if not len(window.ids):
        return [pa.array([[]] * len(window.rows), kind)]
    token, score = (ragged(arrays, name).values for name in ("token", "score"))
    sequence, position = _mask_positions(window.ids, context)
    masks = np.bincount(sequence, minlength=len(window.ids))
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(masks) - masks, masks)
    top_k = token.shape[1]
    fields = [
        pa.array(np.repeat(number, top_k), pa.int32()),
        pa.array(score.ravel(), pa.float32()),
        pa.array(token.ravel(), pa.int32()),
        _token_texts(token.ravel(), context),
        _filled(window.ids, sequence, position, token, context),
    ]
    counts = np.zeros(len(window.rows), np.int64)
    counts[window.owners] = masks * top_k
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    structs = pa.StructArray.from_arrays(fields, fields=list(CANDIDATE))
    return [pa.ListArray.from_arrays(offsets, structs).cast(kind)]


def _token_texts(tokens: Ints, context: Context) -> pa.StringArray:
    """Each token decoded on its own."""
    unique, which = np.unique(tokens, return_inverse=True)
    single = Ragged.of(unique, np.ones(len(unique), np.int64))
    return _decoded(single, context, skip_special=False).take(pa.array(which))


def _filled(
    ids: Ragged, sequence: Ints, position: Ints, token: Ints, context: Context
) -> pa.StringArray:
    """The texts with each candidate in place of its mask, in the order of `token.ravel()`.

    A text with one mask is decoded without special tokens. With several masks the special tokens
    stay, so that the other masks show.
    """
    top_k, tokens = token.shape[1], token.ravel()
    sequence, position = np.repeat(sequence, top_k), np.repeat(position, top_k)
    several = np.bincount(sequence)[sequence] > top_k
    parts, order = [], [np.flatnonzero(~several), np.flatnonzero(several)]
    for group, skip_special in zip(order, (True, False), strict=True):
        for start in range(0, len(group), DECODED):
            some = group[start : start + DECODED]
            filled = _replaced(ids.take(sequence[some]), position[some], tokens[some], context)
            parts.append(_decoded(filled, context, skip_special=skip_special))
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(order))))


def _replaced(copies: Ragged, position: Ints, token: Ints, context: Context) -> Ragged:
    """Sequences with one token replaced in each, without padding tokens that a text contains."""
    copies.values[copies.offsets[:-1] + position] = token
    real = copies.values != context.model_config.pad_id
    before = np.concatenate(([0], np.cumsum(real)))
    return Ragged(copies.values[real], before[copies.offsets])


def _decoded(ids: Ragged, context: Context, *, skip_special: bool) -> pa.StringArray:
    texts = context.tokenizer.decode(ids, skip_special=skip_special)
    if not context.model_config.clean_up:
        return texts
    return pa.array([clean_up(text) for text in texts.to_pylist()], pa.string())


def _schema(model_config: ModelConfig, options: FillMaskOptions) -> pa.Schema:
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
