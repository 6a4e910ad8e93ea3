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


def array_of(tensor: Any) -> Any:
    """float32, over the tensor's own memory where it is float32."""
    return tensor.detach().float().numpy()


def norm_or_none(norm: Any) -> Norm | None:
    return None if norm is None else norm_of(norm)


def norm_of(norm: Any) -> Norm:
    """A torch LayerNorm; one without a weight or a bias (Galactica) gets ones or zeros."""
    import numpy as np

    shape = norm.normalized_shape
    weight = np.ones(shape, np.float32) if norm.weight is None else array_of(norm.weight)
    return Norm(weight, np.zeros(shape, np.float32) if norm.bias is None else array_of(norm.bias))


def rms_norm(norm: Any, offset: float = 0.0) -> Norm:
    """A root mean square norm of transformers, whose weight is `offset` less than the factor."""
    return Norm(array_of(norm.weight) + offset if offset else array_of(norm.weight))


def rms_norm_or_none(norm: Any, offset: float = 0.0) -> Norm | None:
    return None if norm is None else rms_norm(norm, offset)


def head_of(model: Any, embedding: Any) -> Any:
    """The head's weight: the embedding itself where they are tied."""
    head = array_of(model.get_output_embeddings().weight)
    return embedding if head.shape == embedding.shape and (head == embedding).all() else head
