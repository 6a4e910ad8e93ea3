"""Causal models with rotary positions: Llama and its relatives, Granite, OLMo, StarCoder2, Gemma
and Phi-3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.export.checkpoint.positions import long_from, position_limit
from engine.export.graphs.blueprint import (
    ACTIVATIONS,
    Blueprint,
    Layer,
    Linear,
    Norm,
    Rotary,
    activation_name,
)
from engine.export.graphs.torch_weights import (
    array_of,
    head_of,
    joined,
    norm_of,
    rms_norm,
    rms_norm_or_none,
    scaled,
)


def rotary_of(module: Any, config: Any, interleaved: bool = False) -> Rotary:
    """The table of a transformers rotary embedding: its frequencies and their scaling are its own.

    Args:
        module: Gives cosines and sines, each twice, for positions.
        config: The model's configuration.
        interleaved: Whether a pair is two neighbours.
    """
    import numpy as np

    limit, long = position_limit(config), long_from(config)
    parts = [
        _tables(module, positions, interleaved)
        for positions in ((long, limit) if long else (limit,))
    ]
    cosines, sines = (np.concatenate(tables) for tables in zip(*parts, strict=True))
    return Rotary(cosines, sines, interleaved, long)


def _tables(module: Any, positions: int, interleaved: bool) -> tuple[Any, Any]:
    """Cosines and sines, float32 (positions, pairs)."""
    import torch

    with torch.no_grad():
        cosines, sines = module(torch.zeros(1), torch.arange(positions)[None])
    width = cosines.shape[-1]
    pairs = slice(0, width, 2) if interleaved else slice(0, width // 2)
    return array_of(cosines[0, :, pairs]), array_of(sines[0, :, pairs])


def _llama(model: Any) -> Blueprint:
    """Llama, Qwen2 and Qwen3, Mistral, SmolLM3: root mean square norms and a gate. Granite scales
    embeddings, logits and what its layers add."""
    config = model.config
    last = rms_norm(model.model.norm)
    return _blueprint(
        model,
        [_layer(layer, config) for layer in model.model.layers],
        last_norm=Norm(last.weight / getattr(config, "logits_scaling", 1)),
        embedding_scale=float(getattr(config, "embedding_multiplier", 1)),
    )


def _blueprint(model: Any, layers: list[Layer], **more: Any) -> Blueprint:
    """What these families share."""
    config, decoder = model.config, model.model
    embedding = array_of(decoder.embed_tokens.weight)
    attention = decoder.layers[0].self_attn
    settings = dict(more)
    if "last_norm" not in more:
        settings["last_norm"] = rms_norm(decoder.norm)
    if "epsilon" not in more:
        settings["epsilon"] = config.rms_norm_eps
    if "rotaries" not in more:
        settings["rotaries"] = (rotary_of(decoder.rotary_emb, config),)
    return Blueprint(
        embedding=embedding,
        layers=layers,
        heads=config.num_attention_heads,
        cache_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        scale=float(attention.scaling),
        activation=ACTIVATIONS[activation_name(config)],
        head=head_of(model, embedding),
        **settings,
    )


def _layer(layer: Any, config: Any) -> Layer:
    parts = _parts(layer, config)
    # Granite's layers add a share of what they compute.
    share = getattr(config, "residual_multiplier", 1.0)
    return Layer(
        **{
            **parts,
            "self_norm": rms_norm(layer.input_layernorm),
            "wide_norm": rms_norm(layer.post_attention_layernorm),
            "out": scaled(parts["out"], share),
            "narrow": scaled(parts["narrow"], share),
            # SmolLM3 has layers without positions.
            "rotary": 0 if getattr(layer.self_attn, "use_rope", True) else -1,
        }
    )


def _parts(layer: Any, config: Any, offset: float = 0.0) -> dict[str, Any]:
    """Of a layer, what has the same names in these families; `offset` as in `rms_norm`."""
    attention, dense = layer.self_attn, layer.mlp
    gated = hasattr(dense, "gate_proj")
    return {
        "qkv": joined(attention.q_proj, attention.k_proj, attention.v_proj),
        "q_norm": rms_norm_or_none(getattr(attention, "q_norm", None), offset),
        "k_norm": rms_norm_or_none(getattr(attention, "k_norm", None), offset),
        "out": joined(attention.o_proj),
        "wide": joined(dense.gate_proj if gated else dense.c_fc),
        "gate": joined(dense.up_proj) if gated else None,
        "narrow": joined(dense.down_proj if gated else dense.c_proj),
        "window": window_of(attention, config),
        "rotary": 0,
    }


def window_of(attention: Any, config: Any) -> int:
    """A layer's sliding window, 0 where it is none or as long as there are positions.

    Mistral, Phi-3 and StarCoder2 have one for all layers; the others' layers know their own.
    """
    every = config.model_type in ("mistral", "phi3", "starcoder2")
    shared = config.sliding_window if every else None
    window = int(getattr(attention, "sliding_window", shared) or 0)
    return window if window < position_limit(config) else 0


def _normed(model: Any) -> Blueprint:
    """OLMo and StarCoder2: layer norms, OLMo's without weights."""
    config, decoder = model.config, model.model
    layers = [
        Layer(
            self_norm=norm_of(layer.input_layernorm),
            wide_norm=norm_of(layer.post_attention_layernorm),
            **_parts(layer, config),
        )
        for layer in decoder.layers
    ]
    # OLMo's is written in its code.
    epsilon = getattr(config, "norm_epsilon", 1e-5)
    return _blueprint(model, layers, last_norm=norm_of(decoder.norm), epsilon=epsilon)


def _olmo2(model: Any) -> Blueprint:
    """OLMo 2: norms of what its layers add, and of all queries and keys at once."""
    layers = [
        Layer(
            self_norm=None,
            out_norm=rms_norm(layer.post_attention_layernorm),
            wide_norm=None,
            narrow_norm=rms_norm(layer.post_feedforward_layernorm),
            **_parts(layer, model.config),
        )
        for layer in model.model.layers
    ]
    return _blueprint(model, layers)


def _gemma(model: Any) -> Blueprint:
    """Gemma: its norms' weights lack one, and its embeddings are scaled."""
    config = model.config
    tables = [model.model.rotary_emb]
    if config.model_type == "gemma3_text":
        # Layers with a window have positions of their own.
        tables.append(model.model.rotary_emb_local)
    return _blueprint(
        model,
        [_gemma_layer(layer, config) for layer in model.model.layers],
        last_norm=rms_norm(model.model.norm, 1.0),
        embedding_scale=float(config.hidden_size**0.5),
        softcap=float(getattr(config, "attn_logit_softcapping", None) or 0),
        head_softcap=float(getattr(config, "final_logit_softcapping", None) or 0),
        rotaries=tuple(rotary_of(table, config) for table in tables),
    )


def _gemma_layer(layer: Any, config: Any) -> Layer:
    """Gemma 2 and 3 have two more norms: of what attention and the feed-forward layer add."""
    before = getattr(layer, "pre_feedforward_layernorm", None)
    after = layer.post_attention_layernorm
    local = config.model_type == "gemma3_text" and layer.self_attn.is_sliding
    return Layer(
        **{
            **_parts(layer, config, 1.0),
            "self_norm": rms_norm(layer.input_layernorm, 1.0),
            "out_norm": rms_norm(after, 1.0) if before else None,
            "wide_norm": rms_norm(before or after, 1.0),
            "narrow_norm": rms_norm_or_none(
                getattr(layer, "post_feedforward_layernorm", None), 1.0
            ),
            "rotary": int(local),
        }
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
        window=window_of(attention, config),
        rotary=0,
    )


BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "smollm3", "granite"), _llama),
    **dict.fromkeys(("olmo", "starcoder2"), _normed),
    "olmo2": _olmo2,
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _gemma),
    "phi3": _phi3,
}
