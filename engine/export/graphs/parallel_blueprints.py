"""Causal models whose attention and feed-forward layer may read the same sum: GPT-NeoX, GPT-J,
CodeGen, Phi, Falcon, StableLM and Cohere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.export.graphs.blueprint import (
    ACTIVATIONS,
    Blueprint,
    Layer,
    Norm,
    Rotary,
    activation_name,
)
from engine.export.graphs.rotary_blueprints import rotary_of, window_of
from engine.export.graphs.torch_weights import (
    array_of,
    head_of,
    joined,
    norm_of,
    norm_or_none,
    order_by_head,
    rearranged,
)


def _blueprint(
    model: Any, embedding: Any, layers: list[Layer], head_dim: int, **more: Any
) -> Blueprint:
    """What these families share."""
    config, table = model.config, array_of(embedding.weight)
    bias = model.get_output_embeddings().bias
    settings: dict[str, Any] = {
        "head_bias": None if bias is None else array_of(bias),
        "cache_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        "scale": float(head_dim**-0.5),
    }
    return Blueprint(
        embedding=table,
        layers=layers,
        heads=config.num_attention_heads,
        head_dim=head_dim,
        activation=ACTIVATIONS[activation_name(config)],
        head=head_of(model, table),
        **{**settings, **more},
    )


def _rotaries(module: Any, config: Any) -> Sequence[Rotary]:
    return (rotary_of(module, config),)


def _gpt_neox(model: Any) -> Blueprint:
    """GPT-NeoX and Pythia: a norm of its own for each of the two."""
    config, decoder = model.config, model.gpt_neox
    head_dim = config.hidden_size // config.num_attention_heads
    order = order_by_head(config.num_attention_heads, head_dim)
    return _blueprint(
        model,
        decoder.embed_in,
        [_gpt_neox_layer(layer, order) for layer in decoder.layers],
        head_dim,
        epsilon=config.layer_norm_eps,
        last_norm=norm_of(decoder.final_layer_norm),
        rotaries=_rotaries(decoder.rotary_emb, config),
        parallel=config.use_parallel_residual,
    )


def _gpt_neox_layer(layer: Any, order: Any) -> Layer:
    return Layer(
        self_norm=norm_of(layer.input_layernorm),
        qkv=rearranged(joined(layer.attention.query_key_value), order),
        out=joined(layer.attention.dense),
        wide_norm=norm_of(layer.post_attention_layernorm),
        wide=joined(layer.mlp.dense_h_to_4h),
        narrow=joined(layer.mlp.dense_4h_to_h),
        rotary=0,
    )


def _phi(model: Any) -> Blueprint:
    """Phi-1, 1.5 and 2: one norm for both, biases everywhere."""
    config, decoder = model.config, model.model
    return _blueprint(
        model,
        decoder.embed_tokens,
        [_phi_layer(layer) for layer in decoder.layers],
        decoder.layers[0].self_attn.head_dim,
        epsilon=config.layer_norm_eps,
        last_norm=norm_of(decoder.final_layernorm),
        rotaries=_rotaries(decoder.rotary_emb, config),
        parallel=True,
    )


def _phi_layer(layer: Any) -> Layer:
    attention = layer.self_attn
    return Layer(
        self_norm=norm_of(layer.input_layernorm),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        q_norm=norm_or_none(getattr(attention, "q_layernorm", None)),
        k_norm=norm_or_none(getattr(attention, "k_layernorm", None)),
        out=joined(attention.dense),
        wide_norm=None,
        wide=joined(layer.mlp.fc1),
        narrow=joined(layer.mlp.fc2),
        rotary=0,
    )


def _gptj(model: Any) -> Blueprint:
    """GPT-J and CodeGen: pairs of neighbours turn."""
    config, decoder = model.config, model.transformer
    head_dim = config.n_embd // config.n_head
    sines, cosines = array_of(decoder.h[0].attn.embed_positions).reshape(
        config.n_positions, 2, -1
    ).transpose(1, 0, 2)  # fmt: skip
    return _blueprint(
        model,
        decoder.wte,
        [_gptj_layer(layer, config, head_dim) for layer in decoder.h],
        head_dim,
        epsilon=config.layer_norm_epsilon,
        last_norm=norm_of(decoder.ln_f),
        rotaries=(Rotary(cosines, sines, interleaved=True),),
        parallel=True,
    )


def _gptj_layer(layer: Any, config: Any, head_dim: int) -> Layer:
    attention = layer.attn
    if config.model_type == "codegen":
        order = _codegen_order(config.n_head * head_dim)
        qkv = rearranged(joined(attention.qkv_proj), order)
    else:
        qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        self_norm=norm_of(layer.ln_1),
        qkv=qkv,
        out=joined(attention.out_proj),
        wide_norm=None,
        wide=joined(layer.mlp.fc_in),
        narrow=joined(layer.mlp.fc_out),
        rotary=0,
    )


def _codegen_order(width: int) -> Any:
    """Its weight has four parts, each with queries, values and keys."""
    import numpy as np

    columns = np.arange(3 * width).reshape(4, 3, width // 4)
    return np.concatenate([columns[:, part].reshape(-1) for part in (0, 2, 1)])


def _falcon(model: Any) -> Blueprint:
    """Falcon 7B has one key and value for all queries, 40B and later a few."""
    config, decoder = model.config, model.transformer
    attention = decoder.h[0].self_attention
    return _blueprint(
        model,
        decoder.word_embeddings,
        [_falcon_layer(layer, config) for layer in decoder.h],
        attention.head_dim,
        cache_heads=attention.num_kv_heads,
        epsilon=config.layer_norm_epsilon,
        last_norm=norm_of(decoder.ln_f),
        rotaries=_rotaries(decoder.rotary_emb, config),
        parallel=config.parallel_attn or config.new_decoder_architecture,
    )


def _falcon_layer(layer: Any, config: Any) -> Layer:
    attention = layer.self_attention
    queries = attention.num_heads // attention.num_kv_heads
    order = order_by_head(attention.num_kv_heads, attention.head_dim, queries)
    after = getattr(layer, "ln_mlp", None) or getattr(layer, "post_attention_layernorm", None)
    return Layer(
        self_norm=norm_of(getattr(layer, "ln_attn", None) or layer.input_layernorm),
        qkv=rearranged(joined(attention.query_key_value), order),
        out=joined(attention.dense),
        wide_norm=norm_or_none(after),
        wide=joined(layer.mlp.dense_h_to_4h),
        narrow=joined(layer.mlp.dense_4h_to_h),
        rotary=0,
    )


def _stablelm(model: Any) -> Blueprint:
    config, decoder = model.config, model.model
    return _blueprint(
        model,
        decoder.embed_tokens,
        [
            _gated_layer(layer, norm_or_none(layer.post_attention_layernorm))
            for layer in decoder.layers
        ],
        decoder.layers[0].self_attn.head_dim,
        epsilon=config.layer_norm_eps,
        last_norm=norm_of(decoder.norm),
        rotaries=_rotaries(decoder.rotary_emb, config),
        parallel=config.use_parallel_residual,
    )


def _gated_layer(
    layer: Any, wide_norm: Norm | None = None, window: int = 0, rotary: int = 0
) -> Layer:
    attention, dense = layer.self_attn, layer.mlp
    return Layer(
        self_norm=norm_of(layer.input_layernorm),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        out=joined(attention.o_proj),
        wide_norm=wide_norm,
        wide=joined(dense.gate_proj),
        gate=joined(dense.up_proj),
        narrow=joined(dense.down_proj),
        window=window,
        rotary=rotary,
    )


def _cohere(model: Any) -> Blueprint:
    """Command R: pairs of neighbours turn; Command R7B's layers have a window or no positions."""
    config, decoder = model.config, model.model
    last = norm_of(decoder.norm)
    table = rotary_of(decoder.rotary_emb, config, interleaved=True)
    every = config.model_type == "cohere"
    layers = [
        _gated_layer(
            layer,
            window=window_of(layer.self_attn, config),
            rotary=0 if every or layer.self_attn.sliding_window else -1,
        )
        for layer in decoder.layers
    ]
    return _blueprint(
        model,
        decoder.embed_tokens,
        layers,
        decoder.layers[0].self_attn.head_dim,
        epsilon=config.layer_norm_eps,
        # Scales the logits.
        last_norm=Norm(last.weight * config.logit_scale, last.bias),
        rotaries=(table,),
        parallel=True,
    )


BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    "gpt_neox": _gpt_neox,
    "phi": _phi,
    **dict.fromkeys(("gptj", "codegen"), _gptj),
    "falcon": _falcon,
    "stablelm": _stablelm,
    **dict.fromkeys(("cohere", "cohere2"), _cohere),
}
