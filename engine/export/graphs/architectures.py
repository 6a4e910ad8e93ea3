"""Architectures of decoders by model type: their blueprints, and what is refused of them.

A family is one function from a transformers model to a `Blueprint`, and a row of `BLUEPRINTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ExportError
from engine.export.graphs import (
    causal_blueprints,
    encoder_decoder_blueprints,
    parallel_blueprints,
    rotary_blueprints,
)
from engine.export.graphs.blueprint import ACTIVATIONS, Blueprint, activation_name

BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    **encoder_decoder_blueprints.BLUEPRINTS,
    **causal_blueprints.BLUEPRINTS,
    **rotary_blueprints.BLUEPRINTS,
    **parallel_blueprints.BLUEPRINTS,
}


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
