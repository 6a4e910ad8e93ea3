"""Moves outliers from activations into weights, before a checkpoint's products become int8.

    X W = (X / s) (s W)        s = max|X| ** 0.5 / max|W| ** 0.5, channel by channel

(G. Xiao et al., "SmoothQuant", ICML 2023). A token's scale is set by its largest value, so an
outlier leaves few levels for the other channels; a weight's scale is set column by column.

Where a family's row in `FAMILIES` says what computes X, a norm's weight or another product, the
division goes there and costs nothing when the model runs. There root mean squares stand for the
largest magnitudes: of 1,014 captions flan-t5-small's int8, of 7 bits then, translated 669 as fp32
does, and 636 with the largest, which one value decides. (A post-norm encoder gains nothing from
them: a mean cosine of 0.9976, not 0.9978.) The model computes what it did, except for rounding, and
every export of such a family is smoothed, fp32 too, so that recipes can be made from it. (With
powers of two as factors not a bit would change, but then flan-t5-small's int8 keeps fp32's top
token in 96.8% of the steps, not in 97.2%.) Elsewhere, where norms follow the sum as in BERT, others
read X as well: `activation_ranges` measures its channels, and the recipe divides with a Mul of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import ModelConfig
from engine.core.graphs import Role
from engine.export.checkpoint.silenced import silenced
from engine.export.graphs import graph_edits, storage
from engine.export.recipes.quantizable_layers import quantizable_products
from engine.export.sentences import encode

STRENGTH = 0.5
# Graphs that run without KV caches, so that their activations can be watched.
ENCODERS: tuple[Role, ...] = ("model", "encoder")
# Tokens generated for each text, so that the decoder's activations are measured, too.
NEW_TOKENS = 32
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Channel:
    """Channels that can be scaled freely.

    Attributes:
        makers: Weights whose first axis is these channels: of a norm (n,), of a product (n, in).
        readers: The only products that read them, weights (out, n).
    """

    makers: tuple[Any, ...]
    readers: tuple[Any, ...]


def smooth(model: Any, tokenizer: Any, texts: Sequence[str]) -> bool:
    """Scale a model's weights in place by what its activations are on some texts.

    Args:
        model: A transformers model that generates; of a family not in `FAMILIES` it is unchanged.
        tokenizer: Its tokenizer.
        texts: With their prefix.

    Returns:
        Whether they were scaled.
    """
    if model.config.model_type not in FAMILIES:
        return False
    channels = tuple(FAMILIES[model.config.model_type](model))
    usual = _usual_magnitudes(model, tokenizer, texts, channels)
    for channel, activation in zip(channels, usual, strict=True):
        _scale(channel, activation)
    return True


def _usual_magnitudes(
    model: Any, tokenizer: Any, texts: Sequence[str], channels: Sequence[Channel]
) -> list[Any]:
    """Of each group, the root mean square of each channel on the texts: tensors (n,)."""
    import torch

    squares = [torch.zeros(channel.readers[0].in_features) for channel in channels]
    counts = [0] * len(channels)

    def watch(n: int) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            tokens = inputs[0].flatten(0, -2)
            squares[n] += tokens.square().sum(dim=0)
            counts[n] += len(tokens)

        return hook

    hooks = [c.readers[0].register_forward_pre_hook(watch(n)) for n, c in enumerate(channels)]
    try:
        with torch.inference_mode(), silenced():
            for text in texts:
                ids = tokenizer(text, return_tensors="pt", truncation=True)["input_ids"]
                model.generate(ids, max_new_tokens=NEW_TOKENS, num_beams=1, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [(total / count).sqrt() for total, count in zip(squares, counts, strict=True)]


def _scale(channel: Channel, activation: Any) -> None:
    import torch

    with torch.no_grad():
        weights = torch.cat([reader.weight for reader in channel.readers])
        weight = weights.square().mean(dim=0).sqrt()
        scale = torch.from_numpy(factors(activation.numpy(), weight.numpy()))
        for maker in channel.makers:
            maker.div_(scale if maker.ndim == 1 else scale[:, None])
        for reader in channel.readers:
            reader.weight.mul_(scale)


def factors(activation: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each channel is divided by in X and multiplied with in W, (n,).

    Args:
        activation, weight: The magnitude of each channel, largest or usual, (n,).
    """
    scale = np.maximum(activation, _SMALLEST) ** STRENGTH
    scale = scale / np.maximum(weight, _SMALLEST) ** (1 - STRENGTH)
    # A channel that is never used does not show how large it could be.
    return np.where(activation > _SMALLEST, scale, 1).astype(np.float32)


def activation_ranges(
    folder: Path, name: str, model_config: ModelConfig
) -> dict[str, NDArray[np.float32]]:
    """The ranges of an encoder's normed activations that products read.

    Args:
        folder: The bundle's.
        name: Its file.
        model_config: The bundle's.

    Returns:
        The largest magnitude of each channel on `SENTENCES`, (width,), by the activation's name.
    """
    model = storage.load(folder, (name,))[name]
    graph_edits.bypass_identities(model.graph)
    normed = {n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"}
    read = [node.input[0] for node in quantizable_products(model.graph)]
    watched = [activation for activation in dict.fromkeys(read) if activation in normed]
    batch = encode(folder, model_config)
    activations = storage.watch(model, batch, watched)
    real = batch["attention_mask"] == 1
    return {name: np.abs(values[real]).max(axis=0) for name, values in activations.items()}


def _t5(model: Any) -> Iterator[Channel]:
    """T5's norms have no bias, nor have its products."""
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            attention, norm = block.layer[0].SelfAttention, block.layer[0].layer_norm
            yield Channel((norm.weight,), (attention.q, attention.k, attention.v))
            yield Channel((attention.v.weight,), (attention.o,))
            if len(block.layer) > 2:
                cross = block.layer[1]
                yield Channel((cross.layer_norm.weight,), (cross.EncDecAttention.q,))
                yield Channel((cross.EncDecAttention.v.weight,), (cross.EncDecAttention.o,))
            yield from _t5_feed_forward(block.layer[-1])
    crosses = [block.layer[1].EncDecAttention for block in model.decoder.block]
    read = tuple(product for cross in crosses for product in (cross.k, cross.v))
    yield Channel((model.encoder.final_layer_norm.weight,), read)


def _t5_feed_forward(layer: Any) -> Iterator[Channel]:
    """A gate's other side is linear; ReLU commutes with a positive factor, other activations do
    not."""
    inner, norm = layer.DenseReluDense, layer.layer_norm.weight
    if hasattr(inner, "wi_1"):
        yield Channel((norm,), (inner.wi_0, inner.wi_1))
        yield Channel((inner.wi_1.weight,), (inner.wo,))
        return
    yield Channel((norm,), (inner.wi,))
    if type(inner.act).__name__ == "ReLU":
        yield Channel((inner.wi.weight,), (inner.wo,))


FAMILIES: Mapping[str, Callable[[Any], Iterator[Channel]]] = {"t5": _t5, "mt5": _t5, "umt5": _t5}
