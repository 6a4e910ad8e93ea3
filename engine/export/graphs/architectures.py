"""A decoder's architecture: the weights of each family's layers, under the same names for all.

A family is one function from a transformers model to a `Blueprint`, and a row of `BLUEPRINTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ExportError


@dataclass(frozen=True)
class Linear:
    """`x @ weight + bias`: float32 (in, out) and (out,) or None."""

    weight: Any
    bias: Any = None


@dataclass(frozen=True)
class Norm:
    """A layer norm or, without a bias, T5's root mean square norm; float32 (width,)."""

    weight: Any
    bias: Any = None


@dataclass(frozen=True)
class Activation:
    """An activation function as an ONNX op.

    Attributes:
        op: Its name.
        contrib: Whether it is one of ONNX Runtime's own ops (com.microsoft).
        alpha: The op's attribute, if it has one.
        squared: Whether the op's output is squared.
    """

    op: str
    contrib: bool = False
    alpha: float | None = None
    squared: bool = False


# By their names in a checkpoint's configuration (transformers' ACT2FN).
ACTIVATIONS: Mapping[str, Activation] = {
    "linear": Activation("Identity"),
    "relu": Activation("Relu"),
    "relu2": Activation("Relu", squared=True),
    "leaky_relu": Activation("LeakyRelu", alpha=0.01),
    "sigmoid": Activation("Sigmoid"),
    "tanh": Activation("Tanh"),
    **dict.fromkeys(("gelu", "gelu_python"), Activation("Gelu", contrib=True)),
    # The approximation by tanh.
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
        Activation("FastGelu", contrib=True),
    ),
    # x * sigmoid(alpha * x).
    "quick_gelu": Activation("QuickGelu", contrib=True, alpha=1.702),
    **dict.fromkeys(("silu", "swish"), Activation("QuickGelu", contrib=True, alpha=1.0)),
}


@dataclass(frozen=True)
class Layer:
    """One decoder layer; without an encoder the cross parts are None.

    `cross_k` and `cross_v` read the encoder's states: their products are part of its graph.
    """

    self_norm: Norm
    qkv: Linear
    out: Linear
    wide_norm: Norm
    wide: Linear
    narrow: Linear
    gate: Linear | None = None
    cross_norm: Norm | None = None
    cross_q: Linear | None = None
    cross_k: Linear | None = None
    cross_v: Linear | None = None
    cross_out: Linear | None = None


@dataclass(frozen=True)
class Blueprint:
    """A decoder's weights and settings.

    Attributes:
        embedding: float32 (vocabulary, width); its width is another one if there is `project_in`.
        layers: From the first to the last.
        heads, head_dim: Of the caches.
        scale: Factor of q·k.
        activation: Of the feed-forward layers.
        epsilon: Of the norms.
        norm_first: Whether norms come before their layers (pre-norm) or after the sum (post-norm).
        last_norm: After the last layer, if any.
        embedding_norm: Before the first layer, if any.
        embedding_scale: Factor of the embeddings.
        positions: float32 (positions, width), if they are absolute.
        distances: T5's attention bias by distance to the left, float32 (heads, distances); the last
            one is that of all greater distances.
        head: float32 (vocabulary, width), the embedding itself where they are tied.
        head_bias: float32 (vocabulary,), if any.
        project_in, project_out: From the embedding's width to the layers' and back, if they differ.
    """

    embedding: Any
    layers: Sequence[Layer]
    heads: int
    head_dim: int
    scale: float
    activation: Activation
    epsilon: float
    head: Any
    norm_first: bool = True
    last_norm: Norm | None = None
    embedding_norm: Norm | None = None
    embedding_scale: float = 1.0
    positions: Any = None
    distances: Any = None
    head_bias: Any = None
    project_in: Linear | None = None
    project_out: Linear | None = None

    @property
    def causal(self) -> bool:
        """Whether there is no encoder."""
        return self.layers[0].cross_q is None


def blueprint(model: Any) -> Blueprint:
    """The blueprint of a transformers model's decoder.

    Args:
        model: Of a model type in `BLUEPRINTS`; `check_supported` accepts its configuration.
    """
    return BLUEPRINTS[model.config.model_type](model)


def check_supported(config: Any) -> None:
    """Refuse by name what step graphs do not support.

    Args:
        config: The transformers configuration of a model of `BLUEPRINTS`.

    Raises:
        ExportError: An activation that is not in `ACTIVATIONS`, or a GPT-2 with cross-attention.
    """
    name = activation_name(config)
    if name not in ACTIVATIONS:
        raise ExportError(
            f"the decoder's activation {name!r} is not supported; "
            f"supported are {', '.join(ACTIVATIONS)}",
            "export a checkpoint with one of these activations",
        )
    if getattr(config, "add_cross_attention", False):
        raise ExportError(
            f"this {config.model_type!r} has cross-attention layers (add_cross_attention), "
            "which read an encoder that is not part of the checkpoint",
            "export a checkpoint without add_cross_attention",
        )


def activation_name(config: Any) -> str:
    """The name of the feed-forward layers' activation, one of transformers' ACT2FN."""
    return str(getattr(config, "dense_act_fn", None) or config.activation_function)


def _t5(model: Any) -> Blueprint:
    """T5, FLAN-T5 and mT5: norms first, no biases, distances in place of positions."""
    import numpy as np

    config, decoder = model.config, model.decoder
    embedding = _array(decoder.embed_tokens.weight)
    last = _array(decoder.final_layer_norm.weight)
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
        head=embedding if config.tie_word_embeddings else _array(model.lm_head.weight),
        last_norm=Norm(last),
        distances=_t5_distances(decoder.block[0].layer[0].SelfAttention),
    )


def _t5_layer(parts: Any) -> Layer:
    attention, cross = parts[0].SelfAttention, parts[1].EncDecAttention
    dense = parts[2].DenseReluDense
    gated = hasattr(dense, "wi_0")
    return Layer(
        self_norm=Norm(_array(parts[0].layer_norm.weight)),
        qkv=_joined(attention.q, attention.k, attention.v),
        out=_joined(attention.o),
        cross_norm=Norm(_array(parts[1].layer_norm.weight)),
        cross_q=_joined(cross.q),
        cross_k=_joined(cross.k),
        cross_v=_joined(cross.v),
        cross_out=_joined(cross.o),
        wide_norm=Norm(_array(parts[2].layer_norm.weight)),
        wide=_joined(dense.wi_0 if gated else dense.wi),
        gate=_joined(dense.wi_1) if gated else None,
        narrow=_joined(dense.wo),
    )


def _t5_distances(attention: Any) -> Any:
    """The decoder's attention bias by distance, up to the one that all greater distances share."""
    import torch

    far = attention.relative_attention_max_distance
    with torch.no_grad():
        buckets = attention._relative_position_bucket(
            -torch.arange(far + 1),
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=far,
        )
        return _array(attention.relative_attention_bias(buckets).T)


def _joined(*linears: Any) -> Linear:
    """torch Linear layers with the same input as one Linear, (in, out)."""
    import numpy as np

    weight = np.concatenate([_array(one.weight) for one in linears]).T
    biased = linears[0].bias is not None
    return Linear(weight, np.concatenate([_array(one.bias) for one in linears]) if biased else None)


def _array(tensor: Any) -> Any:
    return tensor.detach().float().numpy()


def _bart(model: Any) -> Blueprint:
    """BART, mBART, M2M100 and NLLB, Pegasus and Marian: biases everywhere, absolute positions."""
    config, decoder = model.config, model.model.decoder
    embedding = _array(decoder.embed_tokens.weight)
    head = _array(model.lm_head.weight)
    positions = decoder.embed_positions
    # The tables of BART, mBART and M2M100 begin with positions that no token has.
    first, table = int(getattr(positions, "offset", 0)), getattr(positions, "weight", None)
    if table is None:
        first, table = positions.padding_idx + 1, positions.weights
    bias = getattr(model, "final_logits_bias", None)
    return Blueprint(
        embedding=embedding,
        layers=[_layer(layer) for layer in decoder.layers],
        heads=config.decoder_attention_heads,
        head_dim=config.d_model // config.decoder_attention_heads,
        scale=float((config.d_model // config.decoder_attention_heads) ** -0.5),
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=decoder.layers[0].self_attn_layer_norm.eps,
        head=embedding if (head == embedding).all() else head,
        norm_first=config.model_type in ("mbart", "m2m_100", "pegasus"),
        embedding_scale=float(config.d_model**0.5) if config.scale_embedding else 1.0,
        positions=_array(table)[first:],
        head_bias=None if bias is None else _array(bias)[0],
        embedding_norm=_norm_or_none(getattr(decoder, "layernorm_embedding", None)),
        last_norm=_norm_or_none(getattr(decoder, "layer_norm", None)),
    )


def _layer(layer: Any) -> Layer:
    """Of BART and its relatives, and of OPT, which has no cross-attention."""
    attention, cross = layer.self_attn, getattr(layer, "encoder_attn", None)
    return Layer(
        self_norm=_norm(layer.self_attn_layer_norm),
        qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        out=_joined(attention.out_proj),
        cross_norm=_norm_or_none(getattr(layer, "encoder_attn_layer_norm", None)),
        cross_q=_joined(cross.q_proj) if cross else None,
        cross_k=_joined(cross.k_proj) if cross else None,
        cross_v=_joined(cross.v_proj) if cross else None,
        cross_out=_joined(cross.out_proj) if cross else None,
        wide_norm=_norm(layer.final_layer_norm),
        wide=_joined(layer.fc1),
        narrow=_joined(layer.fc2),
    )


def _gpt2(model: Any) -> Blueprint:
    config, decoder = model.config, model.transformer
    embedding, head = _array(decoder.wte.weight), _array(model.lm_head.weight)
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
        last_norm=_norm_or_none(decoder.ln_f),
        positions=_array(decoder.wpe.weight),
    )


def _gpt2_layer(block: Any, config: Any, n: int) -> Layer:
    """Layer `n`, from 1. GPT-2's linear layers are stored (in, out)."""
    linears = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    qkv, out, wide, narrow = (Linear(_array(one.weight), _array(one.bias)) for one in linears)
    if config.scale_attn_by_inverse_layer_idx:
        qkv = _with_smaller_query(qkv, n)
    return Layer(_norm(block.ln_1), qkv, out, _norm(block.ln_2), wide, narrow)


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
    embedding, head = _array(decoder.embed_tokens.weight), _array(model.lm_head.weight)
    head_dim = config.hidden_size // config.num_attention_heads
    return Blueprint(
        embedding=embedding,
        layers=[_layer(layer) for layer in decoder.layers],
        heads=config.num_attention_heads,
        head_dim=head_dim,
        scale=float(head_dim**-0.5),
        activation=ACTIVATIONS[activation_name(config)],
        epsilon=decoder.layers[0].self_attn_layer_norm.eps,
        head=embedding if (head == embedding).all() else head,
        norm_first=config.do_layer_norm_before,
        last_norm=_norm_or_none(decoder.final_layer_norm),
        positions=_array(decoder.embed_positions.weight)[decoder.embed_positions.offset :],
        project_in=_joined(decoder.project_in) if decoder.project_in else None,
        project_out=_joined(decoder.project_out) if decoder.project_out else None,
    )


def _norm_or_none(norm: Any) -> Norm | None:
    return None if norm is None else _norm(norm)


def _norm(norm: Any) -> Norm:
    """A torch LayerNorm; one without a weight and a bias (Galactica) gets ones and zeros."""
    import numpy as np

    if norm.weight is None:
        return Norm(
            np.ones(norm.normalized_shape, np.float32), np.zeros(norm.normalized_shape, np.float32)
        )
    return Norm(_array(norm.weight), _array(norm.bias))


BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    **dict.fromkeys(("t5", "mt5"), _t5),
    **dict.fromkeys(("bart", "mbart", "m2m_100", "pegasus", "marian"), _bart),
    "gpt2": _gpt2,
    "opt": _opt,
}
