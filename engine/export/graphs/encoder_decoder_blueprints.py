"""Decoders behind an encoder: T5, and BART with its relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.export.graphs.blueprint import (
    ACTIVATIONS,
    Blueprint,
    Layer,
    Norm,
    activation_name,
)
from engine.export.graphs.torch_weights import array_of, joined, norm_of, norm_or_none


def _t5(model: Any) -> Blueprint:
    """T5 and its relatives: norms first, no biases, distances in place of positions. UMT5 has
    distances of each layer; LongT5's decoder is T5's."""
    import numpy as np

    config, decoder = model.config, model.decoder
    embedding = array_of(decoder.embed_tokens.weight)
    last = array_of(decoder.final_layer_norm.weight)
    if config.tie_word_embeddings:
        last = last * np.float32(config.d_model**-0.5)
    return Blueprint(
        embedding=embedding,
        layers=[_t5_layer(block.layer) for block in decoder.block],
        heads=config.num_heads,
        head_dim=config.d_kv,
        scale=1.0,
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=config.layer_norm_epsilon,
        head=embedding if config.tie_word_embeddings else array_of(model.lm_head.weight),
        last_norm=Norm(last),
        distances=_t5_distances([block.layer[0].SelfAttention for block in decoder.block]),
    )


def _t5_layer(parts: Any) -> Layer:
    attention, cross = parts[0].SelfAttention, parts[1].EncDecAttention
    dense = parts[2].DenseReluDense
    gated = hasattr(dense, "wi_0")
    return Layer(
        self_norm=Norm(array_of(parts[0].layer_norm.weight)),
        qkv=joined(attention.q, attention.k, attention.v),
        out=joined(attention.o),
        cross_norm=Norm(array_of(parts[1].layer_norm.weight)),
        cross_q=joined(cross.q),
        cross_k=joined(cross.k),
        cross_v=joined(cross.v),
        cross_out=joined(cross.o),
        wide_norm=Norm(array_of(parts[2].layer_norm.weight)),
        wide=joined(dense.wi_0 if gated else dense.wi),
        gate=joined(dense.wi_1) if gated else None,
        narrow=joined(dense.wo),
    )


def _t5_distances(attentions: Sequence[Any]) -> Any:
    """The decoder's attention bias by distance, up to the one that all greater distances share: the
    first layer's for all, or that of each."""
    import numpy as np

    biased = [one for one in attentions if one.has_relative_attention_bias]
    tables = [_distances_of(one) for one in biased]
    return tables[0] if len(tables) < len(attentions) else np.stack(tables)


def _distances_of(attention: Any) -> Any:
    """float32 (heads, distances)."""
    import inspect

    import torch

    far = attention.relative_attention_max_distance
    bucket = attention._relative_position_bucket
    # UMT5's reads these from the layer.
    settings = {
        "bidirectional": False,
        "num_buckets": attention.relative_attention_num_buckets,
        "max_distance": far,
    }
    accepted = inspect.signature(bucket).parameters
    with torch.no_grad():
        buckets = bucket(
            -torch.arange(far + 1),
            **{name: settings[name] for name in settings if name in accepted},
        )
        return array_of(attention.relative_attention_bias(buckets).T)


def _bart(model: Any) -> Blueprint:
    """BART and its relatives, M2M100, Pegasus and Marian among them: biases everywhere, absolute
    positions."""
    config, decoder = model.config, model.model.decoder
    embedding = array_of(decoder.embed_tokens.weight)
    head = array_of(model.lm_head.weight)
    positions = decoder.embed_positions
    # The tables of BART, mBART and M2M100 begin with positions that no token has.
    first, table = int(getattr(positions, "offset", 0)), getattr(positions, "weight", None)
    if table is None:
        first, table = positions.padding_idx + 1, positions.weights
    bias = getattr(model, "final_logits_bias", None)
    # Most have one of zeros, which would be added to every logit of every step.
    has_bias = bias is not None and bool(bias.any())
    return Blueprint(
        embedding=embedding,
        layers=[bart_layer(layer) for layer in decoder.layers],
        heads=config.decoder_attention_heads,
        head_dim=config.d_model // config.decoder_attention_heads,
        scale=float((config.d_model // config.decoder_attention_heads) ** -0.5),
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=decoder.layers[0].self_attn_layer_norm.eps,
        head=embedding if (head == embedding).all() else head,
        norm_first=config.model_type in ("mbart", "m2m_100", "pegasus", "blenderbot"),
        embedding_scale=float(config.d_model**0.5) if config.scale_embedding else 1.0,
        positions=array_of(table)[first:],
        head_bias=array_of(bias)[0] if has_bias else None,
        embedding_norm=norm_or_none(getattr(decoder, "layernorm_embedding", None)),
        last_norm=norm_or_none(getattr(decoder, "layer_norm", None)),
    )


def bart_layer(layer: Any) -> Layer:
    """Of BART and its relatives, and of OPT, which has no cross-attention."""
    attention, cross = layer.self_attn, getattr(layer, "encoder_attn", None)
    return Layer(
        self_norm=norm_of(layer.self_attn_layer_norm),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        out=joined(attention.out_proj),
        cross_norm=norm_or_none(getattr(layer, "encoder_attn_layer_norm", None)),
        cross_q=joined(cross.q_proj) if cross else None,
        cross_k=joined(cross.k_proj) if cross else None,
        cross_v=joined(cross.v_proj) if cross else None,
        cross_out=joined(cross.out_proj) if cross else None,
        wide_norm=norm_of(layer.final_layer_norm),
        wide=joined(layer.fc1),
        narrow=joined(layer.fc2),
    )


BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), _t5),
    **dict.fromkeys(
        ("bart", "mbart", "m2m_100", "pegasus", "marian", "blenderbot", "plbart", "mvp"), _bart
    ),
}
