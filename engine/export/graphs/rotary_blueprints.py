"""Causal models with rotary positions: Llama and its relatives, Gemma, Phi-3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.export.checkpoint.positions import position_limit
from engine.export.graphs.blueprint import (
    ACTIVATIONS,
    Blueprint,
    Layer,
    Linear,
    Rotary,
    activation_name,
)
from engine.export.graphs.torch_weights import (
    array_of,
    head_of,
    joined,
    rms_norm,
    rms_norm_or_none,
)


def rotary_of(module: Any, positions: int) -> Rotary:
    """The table of a transformers rotary embedding: its frequencies and their scaling are its own.

    Args:
        module: Gives cosines and sines, each twice, for positions.
        positions: How many.
    """
    import torch

    places = torch.arange(positions)[None]
    with torch.no_grad():
        cosines, sines = module(torch.zeros(1), places)
    pairs = cosines.shape[-1] // 2
    return Rotary(array_of(cosines[0, :, :pairs]), array_of(sines[0, :, :pairs]))


def _llama(model: Any) -> Blueprint:
    """Llama, Qwen2 and Qwen3, Mistral, SmolLM3: root mean square norms and a gate."""
    return _blueprint(model, [_layer(layer, model.config) for layer in model.model.layers])


def _blueprint(model: Any, layers: list[Layer], **more: Any) -> Blueprint:
    """What these families share."""
    config, decoder = model.config, model.model
    embedding = array_of(decoder.embed_tokens.weight)
    attention = decoder.layers[0].self_attn
    settings: dict[str, Any] = {
        "epsilon": config.rms_norm_eps,
        "last_norm": rms_norm(decoder.norm),
        "rotaries": (rotary_of(decoder.rotary_emb, position_limit(config)),),
    }
    return Blueprint(
        embedding=embedding,
        layers=layers,
        heads=config.num_attention_heads,
        cache_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        scale=float(attention.scaling),
        activation=ACTIVATIONS[activation_name(config)],
        head=head_of(model, embedding),
        **{**settings, **more},
    )


def _layer(layer: Any, config: Any) -> Layer:
    attention, dense = layer.self_attn, layer.mlp
    return Layer(
        self_norm=rms_norm(layer.input_layernorm),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        q_norm=rms_norm_or_none(getattr(attention, "q_norm", None)),
        k_norm=rms_norm_or_none(getattr(attention, "k_norm", None)),
        out=joined(attention.o_proj),
        wide_norm=rms_norm(layer.post_attention_layernorm),
        wide=joined(dense.gate_proj),
        gate=joined(dense.up_proj),
        narrow=joined(dense.down_proj),
        window=_window(attention, config),
        # SmolLM3 has layers without positions.
        rotary=0 if getattr(attention, "use_rope", True) else -1,
    )


def _window(attention: Any, config: Any) -> int:
    """A layer's sliding window, 0 where it is none or as long as there are positions.

    Mistral and Phi-3 have one for all layers; the others' layers know their own.
    """
    shared = config.sliding_window if config.model_type in ("mistral", "phi3") else None
    window = int(getattr(attention, "sliding_window", shared) or 0)
    return window if window < position_limit(config) else 0


def _gemma(model: Any) -> Blueprint:
    """Gemma: its norms' weights lack one, and its embeddings are scaled."""
    config = model.config
    layers = [_gemma_layer(layer, config) for layer in model.model.layers]
    more: dict[str, Any] = {}
    if local := getattr(model.model, "rotary_emb_local", None):
        # Gemma 3's layers with a window have positions of their own.
        tables = (model.model.rotary_emb, local)
        more["rotaries"] = tuple(rotary_of(table, position_limit(config)) for table in tables)
    return _blueprint(
        model,
        layers,
        last_norm=rms_norm(model.model.norm, 1.0),
        embedding_scale=float(config.hidden_size**0.5),
        softcap=float(getattr(config, "attn_logit_softcapping", None) or 0),
        head_softcap=float(getattr(config, "final_logit_softcapping", None) or 0),
        **more,
    )


def _gemma_layer(layer: Any, config: Any) -> Layer:
    """Gemma 2 and 3 have two more norms: of what attention and the feed-forward layer add."""
    attention, dense = layer.self_attn, layer.mlp
    before = getattr(layer, "pre_feedforward_layernorm", None)
    after = layer.post_attention_layernorm
    local = config.model_type == "gemma3_text" and attention.is_sliding
    return Layer(
        self_norm=rms_norm(layer.input_layernorm, 1.0),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        q_norm=rms_norm_or_none(getattr(attention, "q_norm", None), 1.0),
        k_norm=rms_norm_or_none(getattr(attention, "k_norm", None), 1.0),
        out=joined(attention.o_proj),
        out_norm=rms_norm(after, 1.0) if before else None,
        wide_norm=rms_norm(before or after, 1.0),
        wide=joined(dense.gate_proj),
        gate=joined(dense.up_proj),
        narrow=joined(dense.down_proj),
        narrow_norm=rms_norm_or_none(getattr(layer, "post_feedforward_layernorm", None), 1.0),
        window=_window(attention, config),
        rotary=1 if local else 0,
    )


def _phi3(model: Any) -> Blueprint:
    """Phi-3 stores q, k and v as one weight, and gate and feed-forward layer as another."""
    return _blueprint(model, [_phi3_layer(layer, model.config) for layer in model.model.layers])


def _phi3_layer(layer: Any, config: Any) -> Layer:
    attention = layer.self_attn
    both = joined(layer.mlp.gate_up_proj)
    inner = both.weight.shape[1] // 2
    return Layer(
        self_norm=rms_norm(layer.input_layernorm),
        qkv=joined(attention.qkv_proj),
        out=joined(attention.o_proj),
        wide_norm=rms_norm(layer.post_attention_layernorm),
        wide=Linear(both.weight[:, :inner]),
        gate=Linear(both.weight[:, inner:]),
        narrow=joined(layer.mlp.down_proj),
        window=_window(attention, config),
        rotary=0,
    )


BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "smollm3"), _llama),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _gemma),
    "phi3": _phi3,
}
