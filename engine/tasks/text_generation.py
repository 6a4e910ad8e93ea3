"""text-generation: the continuation of each prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import clean_up
from engine.core.settings import option
from engine.core.token_limit import TokenLimit
from engine.core.types import SEED, TEXT, Arrays, Encoded, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.tasks import chats, decoding, generated_columns
from engine.tasks.chats import Chatting
from engine.tasks.decoding import Decoding
from engine.tasks.task import Context, Task


@dataclass(frozen=True, kw_only=True)
class TextGenerationOptions(Chatting, Decoding):
    """Options of the search and of chats, and whether the answer begins with its prompt."""

    return_full_text: bool = option(
        "put the prompt before the generated text, except with chat", needs=("no chat",)
    )


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {**decoding.defaults(model_config), **chats.DEFAULTS, "return_full_text": True}


def _check(model_config: ModelConfig, options: TextGenerationOptions, columns: int) -> None:
    chats.check(model_config, options)
    if options.chat and options.prefix != model_config.prefix:
        raise SettingsError("prefix is given with chat", "--system says what goes before a chat")
    limit = model_config.position_limit
    for name in ("min_new_tokens", "max_new_tokens") if limit else ():
        tokens = TokenLimit.of(getattr(options, name), least=0)
        if tokens.factor >= 0 and tokens.constant >= limit:
            raise SettingsError(
                f"{name} is {tokens.setting}, which leaves no positions for a prompt: "
                f"the model has {limit} positions",
                f"--{name.replace('_', '-')} below {limit}",
            )


def _prepare(rows: Rows, context: Context) -> Rows:
    return chats.render(rows, context) if context.options.chat else rows


def _encode(rows: Rows, context: Context) -> Encoded:
    """Prompts with their special tokens; of a long prompt the last tokens are kept, unless it is
    to be cut at its right.

    transformers lets a prompt exceed the model's positions by default; this is what its
    handle_long_generation="hole" does. An empty prompt becomes the token that begins texts. A chat
    template puts the special tokens into its prompt itself.
    """
    chat = context.options.chat
    texts, prefix = rows.texts[0], "" if chat else context.options.prefix
    tokenizer, limit = context.tokenizer, context.model_config.position_limit
    length = tokenizer.max_length
    if limit:
        length = min(length, _longest_prompt(context.options.max_new_tokens, limit))
    before, after = (
        special[: 0 if chat else None, 0] for special in tokenizer.single_layout.special
    )
    room = max(1, length - len(before) - len(after))
    whole = tokenizer.ids(texts, prefix=prefix, most=room)
    prompts = whole.last(room) if tokenizer.side == "left" else whole.head(room)
    ids = Ragged.join_rows([_repeated(before, len(texts)), prompts, _repeated(after, len(texts))])
    if not ids.lengths.all():
        ids = Ragged.join_rows([ids, _first_tokens(ids, context)])
    cut = whole.lengths > prompts.lengths
    return decoding.with_seeds(Encoded.one_each(rows, ids, None, cut))


def _longest_prompt(max_new_tokens: int | str, positions: int) -> int:
    """Tokens of the longest prompt that leaves positions for as many new ones as are allowed."""
    limit = TokenLimit.of(max_new_tokens)
    if limit.factor <= -1:
        return positions - 1
    longest = int((positions - limit.constant) / (1 + limit.factor))
    return min(max(1, longest), positions - 1)


def _repeated(values: Ints, rows: int) -> Ragged:
    return Ragged.of(np.tile(values, rows), np.full(rows, len(values)))


def _first_tokens(ids: Ragged, context: Context) -> Ragged:
    """The token that begins texts for every row that has none."""
    config = decoding.decoder_config(context.model_config)
    first = next((n for n in (config.bos_id, *config.end_ids) if n >= 0), config.pad_id)
    lengths = (ids.lengths == 0).astype(np.int64)
    return Ragged.of(np.full(int(lengths.sum()), first), lengths)


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    """Prompt and answer are decoded together and the prompt's text is cut off, so that the space
    between them is right."""
    # Each prompt as often as it has sequences.
    rows = np.repeat(np.arange(len(window.rows)), context.options.num_return_sequences)
    tokens = Ragged.join_rows([window.ids.take(rows), generated_columns.tokens_of(arrays)])
    wholes = context.tokenizer.decode(tokens).to_pylist()
    prompts = context.tokenizer.decode(window.ids).take(rows).to_pylist()
    pairs = zip(wholes, prompts, strict=True)
    answers = [clean_up(whole)[len(clean_up(prompt)) :] for whole, prompt in pairs]
    texts = pa.array(answers, pa.string())
    if context.options.return_full_text and not context.options.chat:
        texts = pc.binary_join_element_wise(window.rows.texts[0].take(rows), texts, "")
    return generated_columns.columns(texts, arrays, context)


def _schema(model_config: ModelConfig, options: TextGenerationOptions) -> pa.Schema:
    return generated_columns.schema("generated_text", options)


TASK = Task(
    name="text-generation",
    aliases=(),
    summary="the continuation of each prompt",
    inputs=(TEXT, SEED),
    batch_tokens=decoding.BATCH_TOKENS,
    options=TextGenerationOptions,
    defaults=_defaults,
    encode=_encode,
    infer=decoding.decode,
    postprocess=_postprocess,
    schema=_schema,
    result=generated_columns.RESULT.format(column="generated_text"),
    samples=decoding.samples,
    check=_check,
    chats=chats.holds_chats,
    prepare=_prepare,
    adapt=decoding.adapt,
    truncation_side="left",
    rereads=True,
)
