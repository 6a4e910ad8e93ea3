"""Decoders that have no step graph, by what their config.json says: refused before any weight is
loaded, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import family_reasons

# Names in `rope_scaling`, and in transformers 5 in `rope_parameters`.
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "su")
# Settings of a supported model type.
_NOT_COMPUTED = {
    "alibi": "positions as a bias of the scores are not supported for this model type",
    "clip_qkv": "bounds of queries, keys and values are not supported",
    "use_prompt": "prompts with weights of their own are not supported",
    "use_qk_norm": "a norm with weights of its own for each head is not supported",
}
_EXPERTS = re.compile(r"(num|n)_(local_|routed_)?experts|moe_\w+")
# Layers of these kinds attend to all positions, or to a window of them.
_LAYER_TYPES = ("full_attention", "sliding_attention")


def reason(config: Mapping[str, Any]) -> tuple[str, str]:
    """Why a model type that is not supported is not, and a hint; both "" where nothing is known.

    Args:
        config: A config.json.
    """
    model_type = str(config.get("model_type"))
    if known := family_reasons.REASONS.get(model_type):
        return known
    if any(_EXPERTS.fullmatch(name) and config[name] for name in config):
        return (
            "its feed-forward layers are mixtures of experts",
            "export a dense checkpoint of the same family",
        )
    if model_type == "gemma3":
        return (
            "it reads images, too, and its text model is a part of it (text_config)",
            'save the text model alone, and export that: python -c "from transformers import '
            "AutoTokenizer, Gemma3ForCausalLM; "
            "Gemma3ForCausalLM.from_pretrained('MODEL').save_pretrained('TEXT'); "
            "AutoTokenizer.from_pretrained('MODEL').save_pretrained('TEXT')\"",
        )
    if "text_config" in config:
        return (
            "it reads more than text, and its text model is a part of it (text_config)",
            "export a checkpoint of the text model alone",
        )
    return "", ""


def check(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what the step graphs do not compute of a model type that is supported.

    Args:
        name: The checkpoint's, for the message.
        config: Its config.json.

    Raises:
        ExportError: A rotary scaling, a kind of layer or a size of heads that is not supported.
    """
    for kind in _rope_types(config):
        if kind not in ROPE_TYPES:
            raise ExportError(
                f"{name}: config.json has rotary positions of the type {kind!r} (rope_scaling); "
                f"supported are {', '.join(ROPE_TYPES[:-1])}",
                "export a checkpoint with one of these types",
            )
    others = sorted(set(map(str, config.get("layer_types") or ())) - set(_LAYER_TYPES))
    if others:
        raise ExportError(
            f"{name}: config.json has layers of the type {others[0]} (layer_types); "
            f"supported are {' and '.join(_LAYER_TYPES)}",
            "export a checkpoint with layers of these types only",
        )
    if config.get("model_type") == "stablelm" and config.get("qk_layernorm"):
        raise ExportError(
            f"{name}: config.json has qk_layernorm=True: {_NOT_COMPUTED['use_qk_norm']}",
            "export a checkpoint of this architecture without this setting",
        )
    if config.get("use_bidirectional_attention"):
        raise ExportError(
            f"{name}: its tokens attend to those behind them, too (use_bidirectional_attention), "
            "so it embeds texts and does not continue them",
            "export a checkpoint without use_bidirectional_attention",
        )
    for setting, what in _NOT_COMPUTED.items():
        if config.get(setting):
            raise ExportError(
                f"{name}: config.json has {setting}={config[setting]}: {what}",
                "export a checkpoint of this architecture without this setting",
            )
    _check_heads(name, config)


def _rope_types(config: Mapping[str, Any]) -> Iterator[str]:
    for name in ("rope_scaling", "rope_parameters"):
        scaling = config.get(name)
        if not isinstance(scaling, Mapping):
            # None, or what transformers itself will refuse.
            continue
        # transformers 5 may have one for each type of layer.
        nested = [part for part in scaling.values() if isinstance(part, Mapping)]
        for part in nested or [scaling]:
            if kind := part.get("rope_type", part.get("type")):
                yield str(kind)


def _check_heads(name: str, config: Mapping[str, Any]) -> None:
    """GroupQueryAttention takes heads of a multiple of 8 numbers."""
    width = config.get("hidden_size") or config.get("n_embd") or config.get("d_model")
    heads = config.get("num_attention_heads") or config.get("n_head")
    if config.get("is_encoder_decoder") or not (width and heads):
        return
    head_dim = int(config.get("head_dim") or width // heads)
    if head_dim % 8:
        raise ExportError(
            f"{name}: its attention heads have {head_dim} numbers (head_dim); ONNX Runtime's "
            "attention takes multiples of 8",
            "export a checkpoint with other heads",
        )
