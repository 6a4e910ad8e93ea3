"""translation: the translation of each text, between languages if the checkpoint has codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from engine.bundle.format import Languages, ModelConfig
from engine.core.settings import check_names, option
from engine.core.types import Arrays, Encoded, Ints, Layout, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend
from engine.tasks import decoding, encoder_decoder
from engine.tasks.decoding import Decoding
from engine.tasks.task import Context, encode_prefixed


@dataclass(frozen=True, kw_only=True)
class TranslationOptions(Decoding):
    """Language codes besides the search; only for checkpoints that use them (mBART, NLLB)."""

    src_lang: str = option("code of the language of the texts, if the checkpoint uses codes")
    tgt_lang: str = option("code of the language to translate into, if the checkpoint uses codes")


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    codes = model_config.languages or Languages({}, "")
    return {**decoding.defaults(model_config), "src_lang": codes.source, "tgt_lang": codes.target}


def _check(model_config: ModelConfig, options: TranslationOptions, columns: int) -> None:
    encoder_decoder.check_positions(model_config, options, columns)
    languages = model_config.languages
    for name, code in (("src_lang", options.src_lang), ("tgt_lang", options.tgt_lang)):
        if code and languages is None:
            raise SettingsError(
                f"{name} is {code!r}, and the checkpoint uses no language codes",
                "leave it out; some checkpoints take a prefix instead (--prefix)",
            )
        if code and languages:
            check_names(name, [code], languages.ids)
    if languages and not options.tgt_lang:
        raise SettingsError(
            "the checkpoint translates into many languages and none is named",
            f"--tgt-lang with one of: {', '.join(sorted(languages.ids))}",
        )


def _encode(rows: Rows, context: Context) -> Encoded:
    encoded = decoding.with_seeds(encode_prefixed(rows, context))
    languages = context.model_config.languages
    if languages is None or context.options.src_lang == languages.source:
        return encoded
    swap = (languages.ids[languages.source], languages.ids[context.options.src_lang])
    ids = _with_language(encoded.ids, context.tokenizer.single_layout, *swap)
    return dataclasses.replace(encoded, ids=ids)


def _with_language(ids: Ragged, layout: Layout, old: int, new: int) -> Ragged:
    """Another language's token where the tokenizer has put its own among the special tokens."""
    values = ids.values.copy()
    before, after = layout.special
    for position, (token, _) in enumerate(before):
        if token == old:
            values[ids.offsets[:-1] + position] = new
    for position, (token, _) in enumerate(after):
        if token == old:
            values[ids.offsets[1:] - len(after) + position] = new
    return Ragged(values, ids.offsets)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    languages, options = context.model_config.languages, context.options
    target = languages.ids[options.tgt_lang] if languages else None
    return decoding.decode(backend, feeds, context, forced_bos_id=target)


TASK = encoder_decoder.encoder_decoder_task(
    "translation",
    "the translation of each text",
    "translation_text",
    aliases=("translation_xx_to_yy",),
    options=TranslationOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    check=_check,
)
