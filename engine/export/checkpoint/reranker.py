"""What a reranker does around its one logit, as sentence-transformers' CrossEncoder has it.

Versions 2 to 6 write the activation into three places; without any it is the sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import labels
from engine.export.checkpoint.hub import Checkpoint

_SETTINGS = "config_sentence_transformers.json"
# By the names that torch has for its modules, in full or short.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "none"}
_TORCH = "torch."
# Keys of config.json: of versions 4 to 5.3, and of those before.
_OF_LIBRARY, _BEFORE_4 = "sentence_transformers", "sbert_ce_default_activation_function"


def reranks(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers' CrossEncoder saved the checkpoint, as far as it says so."""
    saved = checkpoint.read_top_json(_SETTINGS).get("model_type") == "CrossEncoder"
    return saved or _is_older(checkpoint.config)


def _is_older(config: Mapping[str, Any]) -> bool:
    """Whether a version up to 5.3 saved it."""
    return any(config.get(key) is not None for key in (_OF_LIBRARY, _BEFORE_4))


def read(
    checkpoint: Checkpoint, names: tuple[str, ...], note: Callable[[str], None]
) -> dict[str, Any]:
    """Fields of the bundle's ModelConfig: activation, prefix and strip.

    Args:
        names: The labels, one for each logit.
        note: Called with what the user should know.

    Raises:
        ExportError: There are more logits than one, modules behind the transformer, or an
            activation that is not supported.
    """
    if len(names) != 1:
        raise ExportError(
            f"{checkpoint.name}: rerank needs a head with one logit; config.json names "
            f"{len(names)}: {labels.listed(names)}",
            "export it with --task text-classification, which takes pairs, too",
        )
    _check_modules(checkpoint)
    settings = checkpoint.read_top_json(_SETTINGS)
    return {
        "activation": _activation(checkpoint, settings, note),
        "prefix": _prefix(checkpoint, settings),
        # Versions up to 5.3 strip texts, and write no modules.json.
        "strip": _is_older(checkpoint.config) and not checkpoint.modules,
    }


def _check_modules(checkpoint: Checkpoint) -> None:
    kinds = [module.kind for module in checkpoint.modules]
    if kinds not in ([], ["Transformer"]):
        raise ExportError(
            f"{checkpoint.name}: modules.json has the layers {', '.join(kinds)}; a reranker is "
            "exported if it is a Transformer alone",
            "export another checkpoint; this one's scores would come out different",
        )


def _activation(
    checkpoint: Checkpoint, settings: Mapping[str, Any], note: Callable[[str], None]
) -> str:
    """The function that makes a score of a logit; the places are looked at as version 6 does."""
    config = checkpoint.config
    of_library = config.get(_OF_LIBRARY)
    places = (
        (_SETTINGS, settings.get("activation_fn")),
        ("config.json", of_library.get("activation_fn") if isinstance(of_library, dict) else None),
        ("config.json", config.get(_BEFORE_4)),
    )
    for file, path in places:
        if path is None:
            continue
        if not str(path).startswith(_TORCH):
            note(f"{file} names the activation {path}, which is code of others; taken is sigmoid")
            return "sigmoid"
        activation = _ACTIVATIONS.get(str(path).rsplit(".", 1)[-1])
        if activation is None:
            raise ExportError(
                f"{checkpoint.name}: {file} names the activation {path}; supported are "
                f"{' and '.join(_ACTIVATIONS)}",
                "export another checkpoint, or this one with --task text-classification, and give "
                "a run --function-to-apply none to get its logits",
            )
        return activation
    return "sigmoid"


def _prefix(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> str:
    """The default prompt, which is put before each query."""
    default, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    if default is None:
        return ""
    if default not in prompts:
        raise ExportError(
            f"{checkpoint.name}: {_SETTINGS} has the default prompt {default!r}, which is not "
            f"among its prompts: {', '.join(prompts) or 'none'}",
            "correct default_prompt_name in that file, or set it to null",
        )
    return str(prompts[default] or "")
