"""The PyTorch checkpoint's own outputs, which the exported graphs are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import ModelConfig
from engine.core.types import Ints
from engine.errors import ExportError
from engine.export import sentences
from engine.export.sentences import STEPS, token_limit

_FORCED = f"the logits of {STEPS} teacher-forced steps"
# How far a row in a padded batch may be from the row alone, as a share of the largest number:
# rounding that a network amplifies stays far below, a leak of padding does not.
_PADDING = 1e-2
_OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")


@dataclass(frozen=True)
class Reference:
    """The checkpoint's outputs on the shared sentences.

    Attributes:
        compared: Which output, in words.
        ids: Token ids of each row by the checkpoint's own tokenizer.
        forced: Decoder inputs (rows, steps), those behind the prompt for a causal model; None for
            an encoder.
        values: float32, or float64 of a checkpoint in double precision. States or logits of the
            real tokens (tokens, width); logits (rows, labels); or, under teacher forcing, logits
            (rows, steps, vocabulary).
        spans: An encoder's characters of each token, (rows, tokens, 2), padding included.
        paired: The rows are `sentences.PAIRS`, not `SENTENCES`.
    """

    compared: str
    ids: tuple[tuple[int, ...], ...]
    forced: Ints | None
    values: NDArray[Any]
    spans: Ints | None = None
    paired: bool = False


def reference_outputs(
    model: Any, tokenizer: Any, model_config: ModelConfig, like: Sequence[Reference] = ()
) -> tuple[Reference, ...]:
    """Run the PyTorch model on `SENTENCES`, and on `PAIRS` where it is an encoder.

    Call it before Optimum's export of the model, which leaves other settings behind.

    Args:
        like: Earlier outputs, along whose tokens a decoder is teacher-forced.

    Raises:
        ExportError: The model fails on a text, or mixes padding into its rows.
    """
    with _failures_named():
        if model_config.decoder is None:
            both = (False, True)
            return tuple(_encode(model, tokenizer, model_config, paired) for paired in both)
        generate = _causal if model_config.decoder.causal else _encoder_decoder
        return (generate(model, tokenizer, model_config, like[0].forced if like else None),)


@contextmanager
def _failures_named() -> Iterator[None]:
    """Name what transformers' own model raises, such as tensors of sizes that do not fit."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise ExportError(
            f"transformers' own model fails on a text: {type(error).__name__}: {first}",
            "config.json or the tokenizer's settings do not fit the weights: correct them, or "
            "fetch the checkpoint once more",
        ) from error


def _encode(model: Any, tokenizer: Any, model_config: ModelConfig, paired: bool) -> Reference:
    import torch

    texts = zip(*sentences.pairs(), strict=True) if paired else [sentences.singles(model_config)]
    batch = tokenizer(
        *map(list, texts),
        max_length=model_config.max_length,
        return_offsets_mapping=True,
        **_PADDED,
    )
    spans = batch.pop("offset_mapping").numpy()
    # A tokenizer may give token_type_ids to a model that has none.
    accepted = signature(model.forward).parameters
    feeds = {name: batch[name] for name in batch if name in accepted}
    real = batch["attention_mask"].numpy() == 1
    with torch.no_grad():
        compared, values = _run(model, feeds, real)
        _check_alone(model, feeds, real, values)
    return Reference(compared, _real_ids(batch), None, values, spans, paired)


def _run(model: Any, feeds: Mapping[str, Any], real: NDArray[np.bool_]) -> tuple[str, NDArray[Any]]:
    outputs = model(**feeds)
    return real_values({n: outputs[n] for n in outputs if n in _OUTPUTS}, real)


def _check_alone(
    model: Any, feeds: Mapping[str, Any], real: NDArray[np.bool_], values: NDArray[Any]
) -> None:
    """Refuse an encoder that gives a row in a padded batch other numbers than the row alone, which
    is what the pipelines run."""
    alone = []
    for n, length in enumerate(real.sum(axis=1)):
        row = {name: feed[n : n + 1, :length] for name, feed in feeds.items()}
        alone.append(_run(model, row, real[n : n + 1, :length])[1])
    difference = float(np.max(np.abs(np.concatenate(alone) - values)))
    if difference > _PADDING * max(1.0, float(np.max(np.abs(values)))):
        raise ExportError(
            f"a {model.config.model_type!r} mixes padding into its rows: in PyTorch a row in a "
            f"batch and the row alone are {difference:.3g} apart",
            "take a checkpoint of one of the families of encoders in the README",
        )


_PADDED = {"truncation": True, "padding": True, "padding_side": "right", "return_tensors": "pt"}


def _real_ids(batch: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    rows = zip(batch["input_ids"], batch["attention_mask"] == 1, strict=True)
    return tuple(tuple(ids[real].tolist()) for ids, real in rows)


def real_values(outputs: Mapping[str, Any], real: NDArray[np.bool_]) -> tuple[str, NDArray[Any]]:
    """What an encoder's outputs are, in words, and their numbers without those of the padding.

    Args:
        outputs: Tensors or arrays by name: (rows, width), (rows, tokens) of start and end logits,
            or (rows, tokens, width).
        real: (rows, tokens), False at the padding.
    """
    values = [np.asarray(outputs[name]) for name in _OUTPUTS if name in outputs]
    what = "hidden states" if "last_hidden_state" in outputs else "logits"
    if "start_logits" in outputs:
        return "the start and end logits of the real tokens", np.stack(values, axis=-1)[real]
    if values[0].ndim == 3:
        return f"the {what} of the real tokens", values[0][real]
    return f"the {what}", values[0]


def _causal(model: Any, tokenizer: Any, model_config: ModelConfig, along: Ints | None) -> Reference:
    """Let a causal model continue each prompt alone, greedily or along given tokens.

    No prompt is padded here, while the graphs get them all in one padded batch: a mask or a
    position that is wrong there shows. As in `_greedy`, the tokens come from steps with a cache and
    the logits from one pass without.
    """
    import torch

    limit = token_limit(model_config)
    prompts = [
        tuple(tokenizer(text, truncation=True, max_length=limit).input_ids)
        for text in sentences.singles(model_config)
    ]
    forced, values = [], []
    for n, prompt in enumerate(prompts):
        start = prompt if along is None else (*prompt, *along[n])
        with torch.no_grad():
            tokens = _continued(model, torch.tensor([start]), len(prompt) + STEPS - 1)
            logits = model(input_ids=tokens, use_cache=False).logits
        forced.append(tokens[0, len(prompt) :].numpy())
        values.append(logits[0, len(prompt) - 1 :].numpy())
    return Reference(_FORCED, tuple(prompts), np.stack(forced), np.stack(values))


def _continued(model: Any, tokens: Any, length: int) -> Any:
    """Tokens (1, n) and a causal model's greedy ones up to a length."""
    import torch

    past = None
    while tokens.shape[1] < length:
        last = tokens if past is None else tokens[:, -1:]
        step = model(input_ids=last, past_key_values=past, use_cache=True)
        past = step.past_key_values
        tokens = torch.cat([tokens, step.logits[:, -1:].argmax(-1)], dim=1)
    return tokens


def _encoder_decoder(
    model: Any, tokenizer: Any, model_config: ModelConfig, along: Ints | None
) -> Reference:
    import torch

    assert model_config.decoder
    texts = sentences.singles(model_config)
    batch = tokenizer(texts, max_length=token_limit(model_config), **_PADDED)
    with torch.no_grad():
        forced, logits = _greedy(model, batch, model_config.decoder.start_id, along)
    return Reference(_FORCED, _real_ids(batch), forced.numpy(), logits.numpy())


def _greedy(
    model: Any, batch: Mapping[str, Any], start_id: int, along: Ints | None
) -> tuple[Any, Any]:
    """Decoder inputs (rows, steps) of a greedy decoding, and the logits of one pass over them.

    The decoding is written out because transformers' generate() would follow the checkpoint's
    beams, penalties and forced tokens, and stop at the end token; numbers behind it are as good for
    a comparison. The logits come from a pass without a cache, which the graphs are compared with.
    """
    import torch

    mask = batch["attention_mask"]
    memory = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask)
    shared = {"encoder_outputs": memory, "attention_mask": mask}
    tokens = torch.full((len(mask), 1), start_id, dtype=torch.int64)
    tokens = tokens if along is None else torch.from_numpy(along)
    past = None
    while tokens.shape[1] < STEPS:
        step = model(
            **shared, decoder_input_ids=tokens[:, -1:], past_key_values=past, use_cache=True
        )
        past = step.past_key_values
        tokens = torch.cat([tokens, step.logits.argmax(-1)], dim=1)
    return tokens, model(**shared, decoder_input_ids=tokens, use_cache=False).logits
