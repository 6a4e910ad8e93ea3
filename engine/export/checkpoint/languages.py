"""The languages of a translator that takes codes for them, as transformers' pipeline reads them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from engine.bundle.format import Languages
from engine.errors import SettingsError
from engine.export.checkpoint.task_inference import ExportTask

_PAIR = re.compile(r"translation_(\w+?)_to_(\w+)")


def read(
    tokenizer: Any,
    config: Any,
    task: ExportTask,
    requested: str,
    note: Callable[[str], None],
) -> Languages | None:
    """Language codes, where the translation pipeline builds its inputs from them.

    The pipeline forces the target's token as the first one, also for mBART-25, whose decoder
    already starts from a language's token; that start token does not change.
    """
    if task.name != "translation" or not hasattr(tokenizer, "_build_translation_inputs"):
        return None
    ids = _language_ids(tokenizer)
    source, target = str(tokenizer.src_lang), _default_target(tokenizer, config, ids)
    if pair := _PAIR.fullmatch(requested):
        source, target = (_language(code, ids) for code in pair.groups())
    elif target:
        note(f"translates from {source} into {target} unless languages are named")
    else:
        note(f"translates from {source}; the checkpoint names no target language: name one")
    tokenizer.src_lang = source
    return Languages(ids=ids, source=source, target=target)


def _language_ids(tokenizer: Any) -> dict[str, int]:
    """Token id of every language code of the tokenizer."""
    # M2M100's codes are not its tokens: de is __de__.
    ids = {str(code): int(n) for code, n in getattr(tokenizer, "lang_code_to_id", {}).items()}
    if not ids:
        module = sys.modules[type(tokenizer).__module__]
        codes = getattr(module, "FAIRSEQ_LANGUAGE_CODES", tokenizer.additional_special_tokens)
        ids = {str(code): int(tokenizer.convert_tokens_to_ids(code)) for code in codes}
    return {code: n for code, n in ids.items() if n != tokenizer.unk_token_id}


def _default_target(tokenizer: Any, config: Any, ids: Mapping[str, int]) -> str:
    """The language that the checkpoint itself translates into, "" where it does not say."""
    named = {n: code for code, n in ids.items()}
    for token in (config.forced_bos_token_id, config.decoder_start_token_id):
        if token in named:
            return named[token]
    target = getattr(tokenizer, "tgt_lang", None)
    return str(target) if target in ids else ""


def _language(code: str, ids: Mapping[str, int]) -> str:
    """A code of the tokenizer from itself or, if that fits one code only, from its language.

    Raises:
        SettingsError: The tokenizer has no such code, or several.
    """
    if code in ids:
        return code
    matches = [full for full in ids if full.split("_")[0] == code]
    if len(matches) == 1:
        return matches[0]
    what = "several codes of" if matches else "no code"
    raise SettingsError(
        f"task: the checkpoint's tokenizer has {what} {code!r}",
        f"name the languages as it does: {', '.join(matches or sorted(ids))}",
    )
