"""translation, summarization and text2text-generation: a text in, a decoded sequence out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.bundle.format import Languages, ModelConfig
from engine.core.settings import check_names, option
from engine.core.types import TEXT, Arrays, Encoded, Ints, Layout, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend
from engine.tasks import decoding
from engine.tasks.decoding import Decoding
from engine.tasks.task import Context, Task, prefixed


@dataclass(frozen=True, kw_only=True)
class Translating(Decoding):
    """Language codes beside the search; only for checkpoints that take them (mBART, NLLB)."""

    src_lang: str = option("code of the language of the texts, if the checkpoint uses codes")
    tgt_lang: str = option("code of the language to translate into, if the checkpoint uses codes")


def _languages(model_config: ModelConfig) -> dict[str, Any]:
    codes = model_config.languages or Languages({}, "")
    return {**decoding.defaults(model_config), "src_lang": codes.source, "tgt_lang": codes.target}


def _check(model_config: ModelConfig, options: Decoding, columns: int) -> None:
    limit = model_config.position_limit
    if limit and options.max_new_tokens > limit:
        raise SettingsError(
            f"max_new_tokens is {options.max_new_tokens}; the model has {limit} positions",
            f"--max-new-tokens {limit} or less",
        )
    if isinstance(options, Translating):
        _check_languages(model_config.languages, options)


def _check_languages(languages: Languages | None, options: Translating) -> None:
    for name, code in (("src_lang", options.src_lang), ("tgt_lang", options.tgt_lang)):
        if code and languages is None:
            raise SettingsError(
                f"{name} is {code!r}, and the checkpoint takes no language codes",
                "leave it out; some checkpoints take a prefix instead (--prefix)",
            )
        if code and languages:
            check_names(name, [code], languages.ids)
    if languages and not options.tgt_lang:
        raise SettingsError(
            "the checkpoint translates into many languages and none is named",
            f"--tgt-lang with one of: {', '.join(sorted(languages.ids))}",
        )


def _translate(rows: Rows, context: Context) -> Encoded:
    encoded = prefixed(rows, context)
    languages = context.model_config.languages
    if languages is None or context.options.src_lang == languages.source:
        return encoded
    swap = (languages.ids[languages.source], languages.ids[context.options.src_lang])
    ids = _swapped(encoded.ids, context.tokenizer.alone, *swap)
    return dataclasses.replace(encoded, ids=ids)


def _swapped(ids: Ragged, layout: Layout, old: int, new: int) -> Ragged:
    """Another language's token where the tokenizer has put its own among the special ones."""
    values = ids.values.copy()
    before, behind = layout.special
    for place, (token, _) in enumerate(before):
        if token == old:
            values[ids.offsets[:-1] + place] = new
    for place, (token, _) in enumerate(behind):
        if token == old:
            values[ids.offsets[1:] - len(behind) + place] = new
    return Ragged(values, ids.offsets)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    settings, search = decoding.settings_of(context.model_config), decoding.search_of(context)
    languages = context.model_config.languages
    if languages and isinstance(context.options, Translating):
        target = languages.ids[context.options.tgt_lang]
        search = dataclasses.replace(search, forced_bos_id=target)
    return decoding.decode(backend, feeds, context, settings, search)


def _finish(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    tokens = arrays["tokens"]
    assert isinstance(tokens, Ragged)
    return [context.tokenizer.decode(tokens), *decoding.counted(arrays)]


def _schema(column: str) -> Callable[[Context], pa.Schema]:
    return lambda context: decoding.schema(column)


def _task(name: str, aliases: tuple[str, ...], summary: str, column: str, **own: Any) -> Task:
    given: dict[str, Any] = {
        "options": Decoding, "defaults": decoding.defaults, "encode": prefixed, **own
    }  # fmt: skip
    return Task(
        name=name,
        aliases=aliases,
        summary=summary,
        inputs=(TEXT,),
        batch_tokens=decoding.BATCH_TOKENS,
        infer=_infer,
        finish=_finish,
        schema=_schema(column),
        columns=f"{column}: string, output_tokens: int32, finish_reason: stop or length",
        draws=decoding.draws,
        check=_check,
        **given,
    )


TASKS = (
    _task(
        "translation",
        ("translation_xx_to_yy",),
        "the translation of each text",
        "translation_text",
        options=Translating,
        defaults=_languages,
        encode=_translate,
    ),
    _task("summarization", (), "a summary of each text", "summary_text"),
    _task("text2text-generation", (), "what a model makes of each text", "generated_text"),
)
