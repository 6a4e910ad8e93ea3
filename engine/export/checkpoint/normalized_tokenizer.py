"""tokenizer_config.json as transformers 4.57 spells it.

Where transformers 5 wrote it (`backend`) for the `tokenizers` library, tokenizer.json is the whole
tokenizer: classes of 5 build theirs from its vocabulary and write down the result. It is read as it
is, by PreTrainedTokenizerFast, since 4.57's class of the same name would change it once more. Only
families with language codes need their own class, which knows the codes.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint.hub import Checkpoint

GENERIC = "PreTrainedTokenizerFast"
TOKENIZER = "tokenizer.json"
_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# The setting that lists further special tokens, as versions 4 and 5 call it.
_OLD_LIST, _NEW_LIST = "additional_special_tokens", "extra_special_tokens"
_SIDES = ("padding_side", "truncation_side")

# What transformers 5 notes about a tokenizer's loading: not a part of it.
_NOTES = ("backend", "is_local", "local_files_only", "files_loaded")
_BACKENDS = ("tokenizers", "sentencepiece", "custom")

# Classes that put language codes around a text.
_WITH_LANGUAGES = ("NllbTokenizer", "MBartTokenizer", "MBart50Tokenizer")
# The same by config.json's model_type, and a code that the family alone has; the first fit counts.
_LANGUAGES_OF = (
    ("m2m_100", "eng_Latn", "NllbTokenizer"),
    ("mbart", "gl_ES", "MBart50Tokenizer"),
    ("mbart", "en_XX", "MBartTokenizer"),
)


def normalized_tokenizer(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    names: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of a tokenizer_config.json of any version, with 4.57's names.

    Args:
        checkpoint: Whose tokenizer.json, if it has one, is looked at.
        config: The content of its config.json.
        settings: The content as saved; it is not changed.
        names: The content of special_tokens_map.json.

    Raises:
        ExportError: A setting has an unknown value, or the class is unknown to 4.57.
    """
    normalized = {key: value for key, value in settings.items() if key not in _NOTES}
    _special_tokens(checkpoint, normalized)
    for side in _SIDES:
        if normalized.get(side) not in (None, "left", "right"):
            raise _unknown(checkpoint, side, normalized[side], "left or right")
    _check_length(checkpoint, normalized)
    if normalized.get("split_special_tokens"):
        # No part of a tokenizer.json: the class sets it where it encodes.
        raise ExportError(
            f"{checkpoint.name}: tokenizer_config.json has split_special_tokens, which reads "
            "special tokens in a text as plain characters, and is not supported",
            'where no text has such tokens nothing depends on it: write "split_special_tokens": '
            "false there",
        )
    backend = settings.get("backend")
    if backend not in (None, *_BACKENDS):
        raise _unknown(checkpoint, "backend", backend, f"one of {', '.join(_BACKENDS)}")
    name = settings.get("tokenizer_class")
    if name is not None and not isinstance(name, str):
        raise _unknown(checkpoint, "tokenizer_class", name, "the name of a class")
    has_file = (checkpoint.folder / TOKENIZER).is_file()
    if has_file and (backend == "tokenizers" or name == "TokenizersBackend"):
        _read_as_it_is(checkpoint, config, normalized, names)
    elif name is not None:
        _check_class(checkpoint, name, backend, has_file)
    return normalized


def _check_length(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """The number of tokens as an integer: JSON has it as 512.0 or 1e30, too."""
    length = settings.get("model_max_length")
    if length is None:
        return
    number = isinstance(length, int | float) and not isinstance(length, bool)
    if not number or not 1 <= length < math.inf or length != int(length):
        raise _unknown(checkpoint, "model_max_length", length, "a number of tokens, 1 or more")
    settings["model_max_length"] = int(length)


def _special_tokens(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Tokens as strings or typed AddedTokens, and one list of further ones."""
    for name in _TOKENS:
        if name in settings:
            settings[name] = _token(checkpoint, name, settings[name])
    further = [_further(checkpoint, key, settings.get(key)) for key in (_OLD_LIST, _NEW_LIST)]
    if isinstance(settings.get(_NEW_LIST), list):
        del settings[_NEW_LIST]
    tokens = {_text(token): token for token in (*further[0], *further[1])}
    if tokens:
        settings[_OLD_LIST] = list(tokens.values())


def _further(checkpoint: Checkpoint, name: str, value: Any) -> list[Any]:
    """The tokens of one of the two lists; a mapping names tokens of the model, as 4.57 has it."""
    if value is None or (name == _NEW_LIST and isinstance(value, Mapping)):
        return []
    if not isinstance(value, list):
        raise _unknown(checkpoint, name, value, "a list of tokens")
    return [_token(checkpoint, name, token) for token in value]


def _token(checkpoint: Checkpoint, name: str, token: Any) -> Any:
    if token is None or isinstance(token, str):
        return token
    if isinstance(token, Mapping) and isinstance(token.get("content"), str):
        return {**token, "__type": "AddedToken"}
    raise _unknown(checkpoint, name, token, "a string, or an object with content")


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _read_as_it_is(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    settings: dict[str, Any],
    names: Mapping[str, Any],
) -> None:
    """Have tokenizer.json read as it is, with what the class as saved says beyond it."""
    tokenizer = _tokenizer(checkpoint)
    added = {str(token["content"]) for token in tokenizer.get("added_tokens") or ()}
    saved = str(settings.get("tokenizer_class") or "")
    model_type = str(config.get("model_type"))
    languages = _language_class(saved, model_type, added)
    settings["tokenizer_class"] = languages or GENERIC
    # The generic class changes a pre-tokenizer that differs from this setting.
    prefixed = (tokenizer.get("pre_tokenizer") or {}).get("add_prefix_space")
    if prefixed is not None:
        settings["add_prefix_space"] = prefixed
    usual = _class(saved) or _class_of(model_type)
    if usual is None:
        return
    if not any(key in names or settings.get(key) for key in _TOKENS):
        _default_tokens(usual, added, settings)
    if _class(saved):
        settings.setdefault("model_input_names", list(usual.model_input_names))
        settings.setdefault("padding_side", usual.padding_side)


def _language_class(saved: str, model_type: str, added: set[str]) -> str:
    """The class that knows the language codes, "" where there are none."""
    plain = saved.removesuffix("Fast")
    if plain in _WITH_LANGUAGES:
        return f"{plain}Fast"
    for family, code, name in _LANGUAGES_OF:
        if model_type == family and code in added and _class(saved) is None:
            return f"{name}Fast"
    return ""


def _default_tokens(usual: Any, added: set[str], settings: dict[str, Any]) -> None:
    """The names of special tokens by the family's own class, where no file names any."""
    parameters = inspect.signature(usual.__init__).parameters
    for key in _TOKENS:
        token = parameters[key].default if key in parameters else None
        if isinstance(token, str) and token in added:
            settings[key] = token


def _tokenizer(checkpoint: Checkpoint) -> Mapping[str, Any]:
    content = checkpoint.read_json(TOKENIZER)
    if not isinstance(content, Mapping):
        raise ExportError(
            f"{checkpoint.name}: {TOKENIZER} is not a tokenizer of the tokenizers library",
            "fetch the checkpoint once more",
        )
    return content


def _class(name: str) -> Any:
    """transformers' fast class of this name; None for the general ones and unknown ones."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    plain = name.removesuffix("Fast")
    if not plain or plain in ("PreTrainedTokenizer", "TokenizersBackend"):
        return None
    return tokenizer_class_from_name(f"{plain}Fast")


def _class_of(model_type: str) -> Any:
    """The fast class that transformers has for a model type, if any."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    _, fast = TOKENIZER_MAPPING_NAMES.get(model_type, (None, None))
    return _class(fast or "")


def _check_class(checkpoint: Checkpoint, name: str, backend: str | None, has_file: bool) -> None:
    """Refuse a class that 4.57 does not have: what it does to a text is unknown."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if any(tokenizer_class_from_name(n) for n in (name, f"{name}Fast")) or name == GENERIC:
        return
    by = f" (backend {backend!r})" if backend else ""
    hint = "export a checkpoint that has a tokenizer.json"
    if has_file:
        hint = (
            f'if its {TOKENIZER} alone does what that class does, write "tokenizer_class": '
            f'"{GENERIC}" into tokenizer_config.json'
        )
    raise ExportError(
        f"{checkpoint.name}: tokenizer_config.json names the class {name!r}{by}, "
        "which transformers 4.57 does not have",
        hint,
    )


def _unknown(checkpoint: Checkpoint, key: str, value: Any, wanted: str) -> ExportError:
    return ExportError(
        f"{checkpoint.name}: tokenizer_config.json has {key}={json.dumps(value)[:80]}, "
        f"which is not {wanted}",
        f"correct {key} there",
    )
