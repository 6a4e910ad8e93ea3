"""What a bundle's description says of its graphs, compared with the graphs that were opened.

A run takes memory for caches by the description's numbers, and reads scores by its labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.bundle.format import GRAPHS, PACKING, Description, ModelConfig
from engine.core.graphs import Role

Shape = Sequence[Any]
"""Numbers, and names or None where a size is open."""

_CACHE = re.compile(r"(past|cross|present|cross_present|encoded|filled|moved|grown)\.(\d+)\.")
_OWN = re.compile(r"(past|present|moved|grown)\.")
# Roles whose caches are of all layers.
_OF_ALL_LAYERS: Mapping[Role, str] = {
    "encoder": "cross", "step": "past", "device_step": "past", "move": "past", "grow": "past",
}  # fmt: skip
# What is read of each role's outputs: one of these sets.
_OUTPUTS: Mapping[Role, tuple[set[str], ...]] = {
    "model": ({"last_hidden_state"}, {"logits"}, {"start_logits", "end_logits"}),
    "dense": ({"projected"},),
    "pooling": ({"pooled"},),
    "mask_logits": ({"masked_logits"},),
    "step": ({"logits"},),
    "device_step": ({"logits", "next_state", "next_emitted"},),
}
_CLASSIFYING = ("text-classification", "token-classification", "zero-shot-classification")
# What a task without a decoder reads of the graph `model`, and its number of axes.
_READ: Mapping[str, tuple[str, int]] = {
    "feature-extraction": ("last_hidden_state", 3),
    "text-classification": ("logits", 2),
    "zero-shot-classification": ("logits", 2),
    "rerank": ("logits", 2),
    "token-classification": ("logits", 3),
    "fill-mask": ("logits", 3),
    "question-answering": ("start_logits", 2),
}


def task_problems(description: Description, model: Mapping[str, Shape] | None) -> Iterator[str]:
    """What the graphs lack for the task, in words that follow the name of the description.

    Args:
        model: Shapes of what the graph `model` gives by name; None where there is none.
    """
    if description.task not in _READ:
        return
    name, axes = _READ[description.task]
    if model is None or name not in model:
        yield f"task is {description.task}, and no graph gives {name}"
    elif model[name] and len(model[name]) != axes:
        yield f"task is {description.task}, and {name} has {len(model[name])} axes, not {axes}"


def problems(
    description: Description, role: Role, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]
) -> Iterator[str]:
    """What of a graph is not as its role and the description say, in words that follow its name.

    Args:
        inputs, outputs: Their shapes by name.
    """
    if unknown := sorted(set(inputs) - _known_inputs(role, inputs)):
        yield f"takes {unknown[0][:60]!a}, which nothing gives to a graph of the role {role}"
    needed = _OUTPUTS.get(role, (set(),))
    if not any(names <= outputs.keys() for names in needed):
        yield f"does not give {' and '.join(sorted(needed[0]))}"
    config = description.model_config
    yield from _cache_problems(config, role, {**inputs, **outputs})
    yield from _width_problems(config, role, outputs)
    if description.task in _CLASSIFYING and config.labels and "logits" in outputs:
        yield from _compared("model_config.labels", len(config.labels), "logits", outputs["logits"])


def _known_inputs(role: Role, inputs: Mapping[str, Shape]) -> set[str]:
    templates = {
        name
        for template in GRAPHS[role][0]
        for name in re.sub(r" \(.*\)", "", template).split(", ")
    }
    return {
        name for name in inputs if name in PACKING or re.sub(r"\.\d+\.", ".N.", name) in templates
    }


def _cache_problems(config: ModelConfig, role: Role, shapes: Mapping[str, Shape]) -> Iterator[str]:
    decoder = config.decoder
    caches = {name: match for name in shapes if (match := _CACHE.match(name))}
    if not decoder:
        if caches:
            yield "has caches, and model_config.decoder is null"
        return
    key = "model_config.decoder"
    if kind := _OF_ALL_LAYERS.get(role):
        layers = {int(match[2]) for match in caches.values() if match[1] == kind}
        if layers != set(range(decoder.layers)):
            yield f"has the caches of {len(layers)} layers, and {key}.layers is {decoder.layers}"
    if role in ("step", "device_step") and decoder.causal == any("cross." in n for n in caches):
        yield f"takes {'a' if decoder.causal else 'no'} source, and {key}.start_id says otherwise"
    for name in caches:
        # A source's keys may have as many heads as the queries.
        heads = {decoder.cache_heads, 0 if _OWN.match(name) else decoder.heads}
        shape = shapes[name]
        if len(shape) != 4:
            yield f"has a cache {name} of {len(shape)} axes, not of 4"
        elif isinstance(shape[1], int) and shape[1] not in heads:
            yield f"has {shape[1]} heads in {name}, and {key} says {decoder.cache_heads}"
        elif isinstance(shape[3], int) and shape[3] != decoder.head_dim:
            yield f"has heads of {shape[3]} in {name}, and {key}.head_dim is {decoder.head_dim}"


def _width_problems(config: ModelConfig, role: Role, outputs: Mapping[str, Shape]) -> Iterator[str]:
    widths = {
        "last_hidden_state": ("model_config.hidden", config.hidden),
        "projected": ("model_config.dimensions", config.dimensions),
    }
    if role in ("step", "device_step") and config.decoder:
        key, vocabulary = "model_config.decoder.vocabulary", config.decoder.vocabulary
        yield from _compared(key, vocabulary, "logits", outputs.get("logits", ()))
    for name, (key, value) in widths.items():
        if value and name in outputs:
            yield from _compared(key, value, name, outputs[name])


def _compared(key: str, value: int, name: str, shape: Shape) -> Iterator[str]:
    if shape and isinstance(shape[-1], int) and shape[-1] != value:
        yield f"gives {name} of the width {shape[-1]}, and {key} has {value}"
