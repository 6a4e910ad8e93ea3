"""How many positions a decoder with rotary positions has, and which scalings of them are known."""

from __future__ import annotations

from typing import Any


def position_limit(config: Any) -> int:
    """Positions that a model with rotary positions is for.

    Args:
        config: Its transformers configuration.
    """
    limit = int(config.max_position_embeddings or 0)
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "longrope":
        # Behind these, other factors would rotate the positions before, too.
        return int(getattr(config, "original_max_position_embeddings", None) or limit)
    if kind == "yarn":
        # Qwen's instructions add this scaling to a config.json whose limit is the one without.
        original = int(scaling.get("original_max_position_embeddings") or limit)
        return max(limit, int(original * float(scaling["factor"])))
    return limit
