"""config.json and generation_config.json as transformers 4.57 spells them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ExportError

# T5's relatives: the head's scale was tied to `tie_word_embeddings` up to version 4.
_SCALED_HEADS = ("t5", "umt5", "longt5", "switch_transformers")

# Where 4.57 has other names for what rope_parameters holds.
_ROPE_NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "gpt_neox_japanese": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
}
# Base and scaling by kind of layer; a kind without a name for its scaling cannot be scaled.
_ROPE_OF_LAYERS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "gemma3_text": {
        "full_attention": ("rope_theta", "rope_scaling"),
        "sliding_attention": ("rope_local_base_freq", ""),
    },
    "modernbert": {
        "full_attention": ("global_rope_theta", ""),
        "sliding_attention": ("local_rope_theta", ""),
    },
}
# Where 4.57 takes exactly these settings of a scaling, and its kind as `type`.
_ROPE_FIELDS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("phi3", "phi4_multimodal"), ("short_factor", "long_factor")
)
# Kinds of scaling that 4.57 computes.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

_DTYPES = ("float64", "float32", "float16", "bfloat16")

# Settings that 4.57 knows by another name.
_INDEXES = {f"{name}_index": f"{name}_token_id" for name in ("bos", "eos", "pad")}
_RENAMED: Mapping[str, Mapping[str, str]] = {"xlm": _INDEXES, "flaubert": _INDEXES}
# Settings that 4.57 does not have, with the values that mean what it does.
_NEW_SETTINGS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "gemma": {"use_bidirectional_attention": (None, False)},
    "gemma2": {"use_bidirectional_attention": (None, False)},
}
# The same in generation_config.json, where they change what is generated.
_NEW_SEARCH = ("top_h",)
_INTEGERS = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams",
    "num_return_sequences", "no_repeat_ngram_size", "top_k",
)  # fmt: skip
_NUMBERS = ("temperature", "top_p", "min_p", "length_penalty", "repetition_penalty")
_OTHER_VERSION = "export a checkpoint that transformers 4.57 can load, or one without this setting"


def normalized_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json of any version, with 4.57's names and meanings.

    Args:
        name: The checkpoint's name, for messages.
        config: The content as saved; it is not changed.

    Raises:
        ExportError: A setting has a value that 4.57 has no equal of.
    """
    settings = dict(config)
    model_type = str(settings.get("model_type"))
    _check_new(name, model_type, settings)
    for old, new in _RENAMED.get(model_type, {}).items():
        if settings.get(new) is not None:
            settings.setdefault(old, settings[new])
    _drop_unknown_dtypes(settings)
    _rotary_positions(name, model_type, settings)
    _kinds_of_layers(name, model_type, settings)
    _heads_of_t5(model_type, settings)
    # It names a class of tokenizers only where tokenizer_config.json does not.
    if settings.get("tokenizer_class") == "TokenizersBackend":
        del settings["tokenizer_class"]
    for key, part in settings.items():
        if key == "text_config" and isinstance(part, Mapping):
            settings[key] = normalized_config(name, part)
    return settings


def _drop_unknown_dtypes(settings: dict[str, Any]) -> None:
    """A dtype that torch does not call so ("auto") is not missed: weights are read as what they
    are, and computed with in float32."""
    for key in ("dtype", "torch_dtype"):
        if key in settings and settings[key] not in _DTYPES:
            del settings[key]


def normalized_generation(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a generation_config.json of any version.

    In version 5 null means that nothing is set; 4.57 reads it as a value.

    Raises:
        ExportError: A setting changes the tokens, and 4.57 does not have it; or is not of its type.
    """
    for key, value in settings.items():
        _check_type(name, key, value)
    if not saved_by_5(settings):
        return dict(settings)
    chosen = {key: value for key, value in settings.items() if value is not None}
    for key in _NEW_SEARCH:
        if key in chosen:
            raise ExportError(
                f"{name}: generation_config.json has {key}={chosen[key]}, "
                "which transformers 4.57 does not have",
                f"remove {key} there to generate without it",
            )
    return chosen


def _check_type(name: str, key: str, value: Any) -> None:
    """Refuse a setting of a search that is no number: transformers fails on it far from here."""
    if value is None or key not in (*_INTEGERS, *_NUMBERS):
        return
    wanted = "a number" if key in _NUMBERS else "an integer"
    fits = isinstance(value, int) or (key in _NUMBERS and isinstance(value, float))
    if isinstance(value, bool) or not fits:
        raise ExportError(
            f"{name}: generation_config.json has {key}={json.dumps(value)[:80]}, "
            f"which is not {wanted}",
            f"correct {key} there",
        )


def ties_without_scale(config: Mapping[str, Any]) -> bool:
    """Whether a T5 as saved by transformers 5 may share its embedding with a head without scale.

    4.57 has one setting for both, so such a head is loaded as one of its own.
    """
    if not config.get("tie_word_embeddings"):
        return False
    if config.get("model_type") == "mt5":
        return saved_by_5(config)
    return config.get("scale_decoder_outputs") is False


def saved_by_5(config: Mapping[str, Any]) -> bool:
    """Whether transformers 5 or later wrote this file."""
    major = str(config.get("transformers_version") or "").split(".")[0]
    return major.isdecimal() and int(major) >= 5


def _check_new(name: str, model_type: str, settings: Mapping[str, Any]) -> None:
    for key, usual in _NEW_SETTINGS.get(model_type, {}).items():
        if settings.get(key) not in usual:
            raise _refused(name, f"{key}={settings[key]}", model_type)


def _heads_of_t5(model_type: str, settings: dict[str, Any]) -> None:
    """transformers 5 ties every T5's head, and has a setting of its own for the head's scale.

    4.57 scales the states before the head where `tie_word_embeddings` is true.
    """
    if ties_without_scale(settings):
        settings["tie_word_embeddings"] = False
    if model_type in _SCALED_HEADS:
        settings.pop("scale_decoder_outputs", None)


def _rotary_positions(name: str, model_type: str, settings: dict[str, Any]) -> None:
    """`rope_parameters` as rope_theta, rope_scaling and partial_rotary_factor."""
    parameters = settings.pop("rope_parameters", None)
    if parameters is None:
        return
    if not isinstance(parameters, Mapping):
        raise _refused(name, f"rope_parameters={parameters!r}", model_type)
    if any(isinstance(value, Mapping) for value in parameters.values()):
        _rotary_positions_by_layer(name, model_type, settings, parameters)
        return
    names = _ROPE_NAMES.get(model_type, {})
    scaling = _scaling(name, model_type, parameters)
    for key in ("rope_theta", "partial_rotary_factor"):
        if parameters.get(key) is not None:
            settings[names.get(key, key)] = parameters[key]
    if scaling and (fields := _ROPE_FIELDS.get(model_type)):
        if first := scaling.get("original_max_position_embeddings"):
            settings["original_max_position_embeddings"] = first
        scaling = {"type": scaling["rope_type"], **{key: scaling.get(key) for key in fields}}
    settings["rope_scaling"] = scaling


def _rotary_positions_by_layer(
    name: str, model_type: str, settings: dict[str, Any], parameters: Mapping[str, Any]
) -> None:
    kinds = _ROPE_OF_LAYERS.get(model_type, {})
    unknown = sorted(set(parameters) - set(kinds))
    if unknown:
        raise _refused(name, f"rope_parameters for {', '.join(unknown)}", model_type)
    for kind, of_kind in parameters.items():
        base, scaled = kinds[kind]
        scaling = _scaling(name, model_type, of_kind or {})
        if scaling and not scaled:
            what = f"rope_parameters with rope_type={scaling['rope_type']!r} for {kind}"
            raise _refused(name, what, model_type)
        if scaled:
            settings[scaled] = scaling
        if (of_kind or {}).get("rope_theta") is not None:
            settings[base] = of_kind["rope_theta"]


def _scaling(name: str, model_type: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """What 4.57 calls rope_scaling; None where positions are not scaled."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in _ROPE_TYPES:
        raise _refused(name, f"rope_type={kind!r} in rope_parameters", model_type)
    if kind == "default":
        return None
    apart = ("rope_theta", "partial_rotary_factor", "type")
    return {**{k: v for k, v in parameters.items() if k not in apart}, "rope_type": kind}


def _kinds_of_layers(name: str, model_type: str, settings: dict[str, Any]) -> None:
    """ModernBERT's list of layers as every how many of them attend globally."""
    layers = settings.get("layer_types")
    if model_type != "modernbert" or layers is None:
        return
    every = _global_every(layers)
    if not every:
        raise _refused(name, f"layer_types={list(layers)}", model_type)
    del settings["layer_types"]
    settings["global_attn_every_n_layers"] = every


def _global_every(layers: Sequence[str]) -> int:
    """The n for which every n-th layer, from the first, attends globally; 0 if there is none."""
    for n in range(1, len(layers) + 1):
        kinds = ("sliding_attention" if i % n else "full_attention" for i in range(len(layers)))
        if list(kinds) == list(layers):
            return n
    return 0


def _refused(name: str, what: str, model_type: str) -> ExportError:
    return ExportError(
        f"{name}: config.json has {what}, which transformers 4.57 does not have for {model_type!r}",
        _OTHER_VERSION,
    )
