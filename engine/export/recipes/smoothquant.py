"""Outliers moved from activations into weights, before a checkpoint's products become integer ones.

    X W = (X / s) (s W)        s = max|X| ** 0.5 / max|W| ** 0.5, channel by channel

(G. Xiao et al., "SmoothQuant", ICML 2023). An activation's scale is set by the largest value of its
token, so that beside an outlier little is left of the other channels; a weight's is set column by
column.

Where a family's row in `FAMILIES` says what makes X, a norm's weight or another product, the
division goes there and costs nothing when the model runs. The model computes what it did, but for
rounding, and every export of such a family is smoothed, fp32 too, so that recipes can be made from
it. (With powers of two for factors not a bit would change, but then flan-t5-small's int8 keeps
fp32's top token in 96.8% of the steps, not in 97.2%.) Elsewhere, where norms stand behind the sum
as in BERT, X is read by others as well: `ranges` says how large its channels are, and the recipe
divides by a Mul of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bundle.format import ModelConfig
from engine.export.acceptance import parity
from engine.export.checkpoint.silenced import silenced
from engine.export.graphs import storage
from engine.export.recipes.quantizable_layers import products

STRENGTH = 0.5
# Graphs whose activations can be looked at: a step's needs caches to be run.
ENCODERS = ("model.onnx", "encoder.onnx")
# Tokens that are generated for each text, so that the decoder is seen at work, too.
NEW_TOKENS = 32
_LEAST = 1e-5


@dataclass(frozen=True)
class Channel:
    """Channels that can be scaled freely.

    Attributes:
        makers: Weights whose first axis are these channels: of a norm (n,), of a product (n, in).
        readers: Products that read them, weights (out, n), and nothing else does.
    """

    makers: tuple[Any, ...]
    readers: tuple[Any, ...]


def smooth(model: Any, tokenizer: Any, texts: Sequence[str]) -> bool:
    """Scale a model's weights in place by what its activations are on some texts.

    Args:
        model: A transformers model that generates; those not of `FAMILIES` stay as they are.
        tokenizer: Its tokenizer.
        texts: With their prefix.

    Returns:
        Whether they were scaled.
    """
    if model.config.model_type not in FAMILIES:
        return False
    channels = tuple(FAMILIES[model.config.model_type](model))
    largest = _largest(model, tokenizer, texts, channels)
    for channel, activation in zip(channels, largest, strict=True):
        _scale(channel, activation)
    return True


def _largest(
    model: Any, tokenizer: Any, texts: Sequence[str], channels: Sequence[Channel]
) -> list[Any]:
    """The largest magnitude that each channel has on the texts, float32 (n,), group by group."""
    import torch

    found = [torch.zeros(channel.readers[0].in_features) for channel in channels]

    def watch(n: int) -> Callable[[Any, tuple[Any, ...]], None]:
        def seen(module: Any, given: tuple[Any, ...]) -> None:
            found[n] = torch.maximum(found[n], given[0].abs().flatten(0, -2).amax(dim=0))

        return seen

    hooks = [c.readers[0].register_forward_pre_hook(watch(n)) for n, c in enumerate(channels)]
    try:
        with torch.inference_mode(), silenced():
            for text in texts:
                ids = tokenizer(text, return_tensors="pt", truncation=True)["input_ids"]
                model.generate(ids, max_new_tokens=NEW_TOKENS, num_beams=1, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _scale(channel: Channel, activation: Any) -> None:
    import torch

    with torch.no_grad():
        weight = torch.stack([reader.weight.abs().amax(dim=0) for reader in channel.readers])
        found = factors(activation.numpy(), weight.amax(dim=0).numpy())
        scale = torch.from_numpy(found)
        for maker in channel.makers:
            maker.div_(scale if maker.ndim == 1 else scale[:, None])
        for reader in channel.readers:
            reader.weight.mul_(scale)


def factors(activation: Any, weight: Any) -> Any:
    """What each channel is divided by in X and multiplied with in W, float32 (n,).

    Args:
        activation, weight: The largest magnitude of each channel, float32 (n,).
    """
    import numpy as np

    scale = np.maximum(activation, _LEAST) ** STRENGTH
    scale = scale / np.maximum(weight, _LEAST) ** (1 - STRENGTH)
    # A channel that is never used says nothing of how large it might be.
    return np.where(activation > _LEAST, scale, 1).astype(np.float32)


def ranges(folder: Path, name: str, model_config: ModelConfig) -> dict[str, Any]:
    """How large the normed activations of an encoder's graph are that products read.

    Args:
        folder: Of the bundle.
        name: One of `ENCODERS`.
        facts: Of the bundle.

    Returns:
        The largest magnitude of each channel on `proof.SENTENCES`, float32 (width,), by the
        activation's name.
    """
    import numpy as np

    model = storage.load(folder, (name,))[name]
    normed = {n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"}
    read = [node.input[0] for node in products(model.graph)]
    watched = [given for given in dict.fromkeys(read) if given in normed]
    batch = parity.encode(folder, model_config)
    seen = storage.watch(model, batch, watched)
    real = batch["attention_mask"] == 1
    return {given: np.abs(values[real]).max(axis=0) for given, values in seen.items()}


def _t5(model: Any) -> Iterator[Channel]:
    """T5's norms have no bias, nor have its products."""
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            own, wide = block.layer[0], block.layer[-1]
            attention = own.SelfAttention
            yield Channel((own.layer_norm.weight,), (attention.q, attention.k, attention.v))
            yield Channel((attention.v.weight,), (attention.o,))
            if len(block.layer) > 2:
                cross = block.layer[1]
                yield Channel((cross.layer_norm.weight,), (cross.EncDecAttention.q,))
                yield Channel((cross.EncDecAttention.v.weight,), (cross.EncDecAttention.o,))
            yield from _t5_feed_forward(wide)
    crosses = [block.layer[1].EncDecAttention for block in model.decoder.block]
    read = tuple(product for cross in crosses for product in (cross.k, cross.v))
    yield Channel((model.encoder.final_layer_norm.weight,), read)


def _t5_feed_forward(wide: Any) -> Iterator[Channel]:
    """A gate's other side is linear; ReLU lets a factor through, other activations do not."""
    inner = wide.DenseReluDense
    if hasattr(inner, "wi_1"):
        yield Channel((wide.layer_norm.weight,), (inner.wi_0, inner.wi_1))
        yield Channel((inner.wi_1.weight,), (inner.wo,))
        return
    yield Channel((wide.layer_norm.weight,), (inner.wi,))
    if type(inner.act).__name__ == "ReLU":
        yield Channel((inner.wi.weight,), (inner.wo,))


FAMILIES: Mapping[str, Callable[[Any], Iterator[Channel]]] = {"t5": _t5, "mt5": _t5}
