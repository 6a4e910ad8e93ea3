"""Causal models with absolute positions: GPT-2, GPT-BigCode (StarCoder) and OPT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.export.graphs.blueprint import ACTIVATIONS, Blueprint, Layer, Linear, activation_name
from engine.export.graphs.encoder_decoder_blueprints import bart_layer
from engine.export.graphs.torch_weights import (
    array_of,
    head_of,
    joined,
    norm_of,
    norm_or_none,
    order_by_head,
    rearranged,
)


def _gpt2(model: Any) -> Blueprint:
    config, decoder = model.config, model.transformer
    embedding, head = array_of(decoder.wte.weight), array_of(model.lm_head.weight)
    head_dim = config.n_embd // config.n_head
    return Blueprint(
        embedding=embedding,
        layers=[_gpt2_layer(block, config, n) for n, block in enumerate(decoder.h, 1)],
        heads=config.n_head,
        head_dim=head_dim,
        scale=float(head_dim**-0.5) if config.scale_attn_weights else 1.0,
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=config.layer_norm_epsilon,
        head=embedding if (head == embedding).all() else head,
        last_norm=norm_or_none(decoder.ln_f),
        positions=array_of(decoder.wpe.weight),
    )


def _gpt2_layer(block: Any, config: Any, n: int) -> Layer:
    """Layer `n`, from 1. GPT-2's linear layers are stored (in, out)."""
    linears = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    qkv, out, wide, narrow = (Linear(array_of(one.weight), array_of(one.bias)) for one in linears)
    if config.scale_attn_by_inverse_layer_idx:
        qkv = _with_smaller_query(qkv, n)
    return Layer(norm_of(block.ln_1), qkv, out, norm_of(block.ln_2), wide, narrow)


def _with_smaller_query(qkv: Linear, divisor: float) -> Linear:
    """The same product with q, the first third of its columns, divided by a number."""
    import numpy as np

    columns = qkv.weight.shape[1]
    factors = np.ones(columns, np.float32)
    factors[: columns // 3] /= divisor
    return Linear(qkv.weight * factors, qkv.bias * factors)


def _opt(model: Any) -> Blueprint:
    """OPT and Galactica. OPT-350m's embeddings are narrower than its layers, and it is
    post-norm."""
    config, decoder = model.config, model.model.decoder
    embedding, head = array_of(decoder.embed_tokens.weight), array_of(model.lm_head.weight)
    head_dim = config.hidden_size // config.num_attention_heads
    return Blueprint(
        embedding=embedding,
        layers=[bart_layer(layer) for layer in decoder.layers],
        heads=config.num_attention_heads,
        head_dim=head_dim,
        scale=float(head_dim**-0.5),
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=decoder.layers[0].self_attn_layer_norm.eps,
        head=embedding if (head == embedding).all() else head,
        norm_first=config.do_layer_norm_before,
        last_norm=norm_or_none(decoder.final_layer_norm),
        positions=array_of(decoder.embed_positions.weight)[decoder.embed_positions.offset :],
        project_in=joined(decoder.project_in) if decoder.project_in else None,
        project_out=joined(decoder.project_out) if decoder.project_out else None,
    )


def _gpt_bigcode(model: Any) -> Blueprint:
    """GPT-2 with one key and value for all queries; its linear layers are stored (out, in)."""
    config, decoder = model.config, model.transformer
    embedding = array_of(decoder.wte.weight)
    attention = decoder.h[0].attn
    return Blueprint(
        embedding=embedding,
        layers=[_gpt_bigcode_layer(block, config) for block in decoder.h],
        heads=config.n_head,
        cache_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        scale=float(attention.scaling),
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=config.layer_norm_epsilon,
        head=head_of(model, embedding),
        last_norm=norm_of(decoder.ln_f),
        positions=array_of(decoder.wpe.weight),
    )


def _gpt_bigcode_layer(block: Any, config: Any) -> Layer:
    attention = block.attn
    groups = attention.kv_heads
    order = order_by_head(groups, attention.head_dim, config.n_head // groups)
    return Layer(
        self_norm=norm_of(block.ln_1),
        qkv=rearranged(joined(attention.c_attn), order),
        out=joined(attention.c_proj),
        wide_norm=norm_of(block.ln_2),
        wide=joined(block.mlp.c_fc),
        narrow=joined(block.mlp.c_proj),
    )


BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt_bigcode,
    "opt": _opt,
}
