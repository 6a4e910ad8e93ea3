"""How many positions a decoder with rotary positions has, and which scalings of them are known."""

from __future__ import annotations

from typing import Any


def position_limit(config: Any) -> int:
    """Positions that a model with rotary positions is for.

    Args:
        config: Its transformers configuration.
    """
    limit = int(config.max_position_embeddings or 0)
    if _rope_type(config) == "yarn":
        # Qwen's instructions add this scaling to a config.json whose limit is the one without.
        original = int(config.rope_scaling.get("original_max_position_embeddings") or limit)
        return max(limit, int(original * float(config.rope_scaling["factor"])))
    return limit


def long_from(config: Any) -> int:
    """Positions of a row beyond which all of it is rotated by other factors; 0 for none.

    Args:
        config: A transformers configuration.
    """
    original = getattr(config, "original_max_position_embeddings", None)
    if _rope_type(config) != "longrope" or not original:
        return 0
    return int(original) if original < position_limit(config) else 0


def _rope_type(config: Any) -> str:
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type")))
