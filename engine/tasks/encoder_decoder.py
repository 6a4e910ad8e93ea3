"""What translation, summarization and text2text-generation share: a text in, tokens out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from engine.bundle.format import ModelConfig
from engine.core.types import SEED, TEXT, Arrays, Encoded, Rows
from engine.errors import SettingsError
from engine.tasks import decoding, generated_columns
from engine.tasks.decoding import Decoding
from engine.tasks.task import Context, Task, encode_prefixed


def encoder_decoder_task(name: str, summary: str, column: str, **own: Any) -> Task:
    """A task whose result is a column of generated texts and those that go with it.

    Args:
        name, summary: As in `Task`.
        column: The name of the column of texts.
        own: Fields of `Task` that differ.
    """
    fields: dict[str, Any] = {
        "options": Decoding,
        "defaults": decoding.defaults,
        "encode": _encode,
        "infer": decoding.decode,
        "check": check_positions,
        "adapt": decoding.adapt,
        "aliases": (),
    }
    return Task(
        name=name,
        summary=summary,
        inputs=(TEXT, SEED),
        batch_tokens=decoding.BATCH_TOKENS,
        postprocess=_postprocess,
        schema=lambda _, options: generated_columns.schema(column, options),
        result=generated_columns.RESULT.format(column=column),
        samples=decoding.samples,
        **fields | own,
    )


def _encode(rows: Rows, context: Context) -> Encoded:
    return decoding.with_seeds(encode_prefixed(rows, context))


def check_positions(model_config: ModelConfig, options: Decoding, columns: int) -> None:
    """Raise SettingsError where more tokens are asked for than the decoder has positions."""
    limit = model_config.position_limit
    for name in ("min_new_tokens", "max_new_tokens") if limit else ():
        tokens = getattr(options, name)
        if isinstance(tokens, int) and tokens > limit:
            raise SettingsError(
                f"{name} is {tokens}; the model has {limit} positions",
                f"--{name.replace('_', '-')} {limit} or less",
            )


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    texts = context.tokenizer.decode(generated_columns.tokens_of(arrays))
    return generated_columns.columns(texts, arrays, context)
