"""The result columns of the generating tasks: one sequence a row, or lists of several."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.core.types import Arrays, Ints, Ragged
from engine.generation import GeneratedSequences
from engine.tasks.task import Context, Options, ragged

RESULT = (
    "{column}: string, output_tokens: int32, finish_reason: stop or length; "
    "with --return-scores score: float32, with --return-logprobs token_logprobs: list of float32, "
    "lists of all these with --num-return-sequences; with --return-prompt-tokens "
    "prompt_tokens: int32"
)


def schema(column: str, options: Options) -> pa.Schema:
    """Names and types of the columns; `column` is that of the texts."""
    kinds: dict[str, pa.DataType] = {
        column: pa.string(),
        "output_tokens": pa.int32(),
        "finish_reason": pa.string(),
    }
    if options.return_scores:
        kinds["score"] = pa.float32()
    if options.return_logprobs:
        kinds["token_logprobs"] = pa.list_(pa.float32())
    if options.num_return_sequences > 1:
        kinds = {name: pa.list_(kind) for name, kind in kinds.items()}
    if options.return_prompt_tokens:
        kinds["prompt_tokens"] = pa.int32()
    return pa.schema(list(kinds.items()))


def to_arrays(sequences: GeneratedSequences, prompts: Ints, count: int) -> Arrays:
    """What `infer` gives: `count` sequences a row, and the tokens of its prompt, int64 (rows,)."""
    lengths = sequences.tokens.lengths.reshape(-1, count)
    return {
        "tokens": Ragged.of(sequences.tokens.values, lengths.sum(axis=1)),
        "lengths": lengths,
        "ended": sequences.ended.reshape(-1, count),
        "scores": sequences.scores.reshape(-1, count),
        "logprobs": Ragged.of(
            sequences.logprobs.values, sequences.logprobs.lengths.reshape(-1, count).sum(axis=1)
        ),
        "prompt_tokens": prompts,
    }


def tokens_of(arrays: Arrays) -> Ragged:
    """The ids of every sequence, those of a row one after the other."""
    return Ragged.of(ragged(arrays, "tokens").values, np.asarray(arrays["lengths"]).ravel())


def columns(texts: pa.StringArray, arrays: Arrays, context: Context) -> list[pa.Array]:
    """The columns of `schema`.

    Args:
        texts: Of every sequence.
    """
    options, lengths = context.options, np.asarray(arrays["lengths"])
    reasons = np.where(np.asarray(arrays["ended"]).ravel(), "stop", "length")
    values = [texts, pa.array(lengths.ravel(), pa.int32()), pa.array(reasons.tolist(), pa.string())]
    if options.return_scores:
        values.append(pa.array(np.asarray(arrays["scores"]).ravel(), pa.float32()))
    if options.return_logprobs:
        flat = pa.array(ragged(arrays, "logprobs").values, pa.float32())
        values.append(pa.ListArray.from_arrays(_offsets(lengths.ravel()), flat))
    if options.num_return_sequences > 1:
        offsets = _offsets(np.full(len(lengths), options.num_return_sequences))
        values = [pa.ListArray.from_arrays(offsets, value) for value in values]
    if options.return_prompt_tokens:
        values.append(pa.array(np.asarray(arrays["prompt_tokens"]), pa.int32()))
    return values


def _offsets(lengths: Ints) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
