"""text-generation: prompts, carried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import clean_up
from engine.core.settings import option
from engine.core.types import TEXT, Arrays, Encoded, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend
from engine.tasks import decoding
from engine.tasks.decoding import Decoding
from engine.tasks.task import Context, Task, with_prefix


@dataclass(frozen=True, kw_only=True)
class TextGenerationOptions(Decoding):
    """The search, and whether the answer begins with its prompt."""

    return_full_text: bool = option("put the prompt before the generated text")


def _defaults(model_config: ModelConfig) -> dict[str, Any]:
    return {**decoding.defaults(model_config), "return_full_text": True}


def _check(model_config: ModelConfig, options: TextGenerationOptions, columns: int) -> None:
    limit = model_config.position_limit
    if limit and options.max_new_tokens >= limit:
        raise SettingsError(
            f"max_new_tokens is {options.max_new_tokens}, which leaves no room for a prompt: "
            f"the model has {limit} positions",
            f"--max-new-tokens below {limit}",
        )


def _encode(rows: Rows, context: Context) -> Encoded:
    """Prompts with what the tokenizer puts around them; of a long one the last tokens are kept.

    transformers lets a prompt run over the model's positions; its handle_long_generation="hole"
    cuts as it is cut here. An empty prompt starts from the token that begins texts.
    """
    texts = with_prefix(context.options.prefix, rows.texts[0])
    tokenizer, limit = context.tokenizer, context.model_config.position_limit
    most = tokenizer.max_length
    if limit:
        most = min(most, limit - context.options.max_new_tokens)
    before, behind = (special[:, 0] for special in tokenizer.alone.special)
    whole = tokenizer.ids(texts)
    prompts = whole.last(max(1, most - len(before) - len(behind)))
    ids = Ragged.beside([_each(before, len(texts)), prompts, _each(behind, len(texts))])
    if not ids.lengths.all():
        ids = Ragged.beside([ids, _begun(ids, context)])
    return Encoded.one_each(rows, ids, None, whole.lengths > prompts.lengths)


def _each(values: Ints, rows: int) -> Ragged:
    return Ragged.of(np.tile(values, rows), np.full(rows, len(values)))


def _begun(ids: Ragged, context: Context) -> Ragged:
    """The token that begins texts for every row that has none."""
    settings = decoding.settings_of(context.model_config)
    first = next((n for n in (settings.bos_id, *settings.end_ids) if n >= 0), settings.pad_id)
    lengths = (ids.lengths == 0).astype(np.int64)
    return Ragged.of(np.full(int(lengths.sum()), first), lengths)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    settings, search = decoding.settings_of(context.model_config), decoding.search_of(context)
    return decoding.decode(backend, feeds, context, settings, search)


def _finish(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    """Prompt and answer are decoded together and the prompt's own text taken off, so that the space
    between them is right."""
    tokens = arrays["tokens"]
    assert isinstance(tokens, Ragged)
    wholes = context.tokenizer.decode(Ragged.beside([window.ids, tokens])).to_pylist()
    prompts = context.tokenizer.decode(window.ids).to_pylist()
    pairs = zip(wholes, prompts, strict=True)
    said = [clean_up(whole)[len(clean_up(prompt)) :] for whole, prompt in pairs]
    texts = pa.array(said, pa.string())
    if context.options.return_full_text:
        texts = pc.binary_join_element_wise(window.rows.texts[0], texts, "")
    return [texts, *decoding.counted(arrays)]


def _schema(context: Context) -> pa.Schema:
    return decoding.schema("generated_text")


TASK = Task(
    name="text-generation",
    aliases=(),
    summary="each prompt carried on",
    inputs=(TEXT,),
    batch_tokens=decoding.BATCH_TOKENS,
    options=TextGenerationOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    finish=_finish,
    schema=_schema,
    columns="generated_text: string, output_tokens: int32, finish_reason: stop or length",
    draws=decoding.draws,
    check=_check,
)
