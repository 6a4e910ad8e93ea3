"""A decoder's weights and settings, under the same names for every family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
class Rotary:
    """Positions as rotations of q and k: pairs of a head's numbers turn by an angle each.

    Attributes:
        cosines, sines: Of each position's angles, float32 (positions, pairs); a head's numbers
            behind the first 2 × pairs stay as they are.
        interleaved: Whether a pair is two neighbours (GPT-J), or a number of the first half and
            its counterpart in the second.
        long_from: Rows with more positions than this have a table of their own, which follows the
            first `long_from` positions of the other; 0 for none.
    """

    cosines: Any
    sines: Any
    interleaved: bool = False
    long_from: int = 0


@dataclass(frozen=True)
class Layer:
    """One decoder layer; without an encoder the cross parts are None.

    Attributes:
        self_norm, wide_norm: Before attention and before the feed-forward layer, if any.
        qkv: Queries, then keys, then values.
        q_norm, k_norm: Of each head, before it is rotated; or of all heads at once, if their weight
            is as wide.
        out_norm, narrow_norm: Of what attention and the feed-forward layer add to the sum.
        window: A position attends to as many, itself included; 0 for all.
        rotary: Index in `Blueprint.rotaries`; -1 for none.
        cross_k, cross_v: Read the encoder's states: their products are part of its graph.
    """

    self_norm: Norm | None
    qkv: Linear
    out: Linear
    wide_norm: Norm | None
    wide: Linear
    narrow: Linear
    gate: Linear | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    out_norm: Norm | None = None
    narrow_norm: Norm | None = None
    window: int = 0
    rotary: int = -1
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
        heads, head_dim: Of the queries.
        scale: Factor of q·k.
        activation: Of the feed-forward layers.
        epsilon: Of the norms.
        norm_first: Whether norms come before their layers (pre-norm) or after the sum (post-norm).
        last_norm: After the last layer, if any.
        embedding_norm: Before the first layer, if any.
        embedding_scale: Factor of the embeddings.
        positions: float32 (positions, width), if they are absolute.
        distances: T5's attention bias by distance to the left, float32 (heads, distances), or
            (layers, heads, distances) where each layer has its own; the last one is that of all
            greater distances.
        head: float32 (vocabulary, width), the embedding itself where they are tied.
        head_bias: float32 (vocabulary,), if any.
        project_in, project_out: From the embedding's width to the layers' and back, if they differ.
        cache_heads: Of keys and values, if fewer: each is read by heads / cache_heads queries.
        rotaries: Positions as rotations, for layers to choose from.
        parallel: Whether attention and the feed-forward layer read the same sum; without a
            `wide_norm` also the same norm of it.
        softcap, head_softcap: Bounds of attention's scores and of the logits: c·tanh(x / c).
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
    cache_heads: int = 0
    rotaries: Sequence[Rotary] = ()
    parallel: bool = False
    softcap: float = 0.0
    head_softcap: float = 0.0

    @property
    def distances_by_layer(self) -> bool:
        """Whether each layer has distances of its own."""
        return self.distances is not None and self.distances.ndim == 3

    @property
    def kv_heads(self) -> int:
        """Heads of the caches."""
        return self.cache_heads or self.heads

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Widths of all queries, keys and values of a position."""
        kv = self.kv_heads * self.head_dim
        return self.heads * self.head_dim, kv, kv

    @property
    def long_from(self) -> int:
        """Of the rotaries."""
        return max((rotary.long_from for rotary in self.rotaries), default=0)

    @property
    def causal(self) -> bool:
        """Whether there is no encoder."""
        return self.layers[0].cross_q is None


def activation_name(config: Any) -> str:
    """The name of the feed-forward layers' activation, one of transformers' ACT2FN.

    Args:
        config: A transformers configuration.
    """
    names = ["dense_act_fn", "activation_function", "hidden_activation", "hidden_act", "activation"]
    if config.model_type == "gemma":
        # It has both, and follows the older one.
        names = ["hidden_act"]
    values = (getattr(config, name, None) for name in names)
    return str(next(value for value in values if value))
