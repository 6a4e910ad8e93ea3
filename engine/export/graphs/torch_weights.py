"""torch layers as the parts of a blueprint: float32 arrays, linear layers (in, out)."""

from __future__ import annotations

from typing import Any

from engine.export.graphs.blueprint import Linear, Norm


def joined(*linears: Any) -> Linear:
    """torch Linear layers with the same input as one Linear, (in, out)."""
    import numpy as np

    weight = np.concatenate([array_of(one.weight) for one in linears]).T
    biased = linears[0].bias is not None
    return Linear(
        weight, np.concatenate([array_of(one.bias) for one in linears]) if biased else None
    )


def rearranged(linear: Linear, order: Any) -> Linear:
    """A product with its columns in another order, int64 (out,)."""
    return Linear(linear.weight[:, order], None if linear.bias is None else linear.bias[order])


def order_by_head(groups: int, head_dim: int, queries: int = 1) -> Any:
    """The order that makes queries, keys and values of columns that are stored group by group: some
    queries, then their key and their value."""
    import numpy as np

    columns = np.arange(groups * (queries + 2) * head_dim).reshape(groups, queries + 2, head_dim)
    parts = columns[:, :-2], columns[:, -2], columns[:, -1]
    return np.concatenate([part.reshape(-1) for part in parts])


def scaled(linear: Linear, factor: float) -> Linear:
    """A product times a number."""
    if factor == 1:
        return linear
    return Linear(linear.weight * factor, None if linear.bias is None else linear.bias * factor)


def array_of(tensor: Any) -> Any:
    """float32, over the tensor's own memory where it is float32."""
    return tensor.detach().float().numpy()


def norm_or_none(norm: Any) -> Norm | None:
    return None if norm is None else norm_of(norm)


def norm_of(norm: Any) -> Norm:
    """A layer norm; one without a weight or a bias (Galactica, OLMo) gets ones or zeros."""
    import numpy as np

    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    shape = norm.normalized_shape if weight is None else weight.shape
    return Norm(
        np.ones(shape, np.float32) if weight is None else array_of(weight),
        np.zeros(shape, np.float32) if bias is None else array_of(bias),
    )


def rms_norm(norm: Any, offset: float = 0.0) -> Norm:
    """A root mean square norm of transformers, whose weight is `offset` less than the factor."""
    return Norm(array_of(norm.weight) + offset if offset else array_of(norm.weight))


def rms_norm_or_none(norm: Any, offset: float = 0.0) -> Norm | None:
    return None if norm is None else rms_norm(norm, offset)


def head_of(model: Any, embedding: Any) -> Any:
    """The head's weight: the embedding itself where they are tied."""
    head = array_of(model.get_output_embeddings().weight)
    return embedding if head.shape == embedding.shape and (head == embedding).all() else head
