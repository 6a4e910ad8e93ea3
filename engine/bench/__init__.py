"""Measuring a bundle on a corpus: over its own settings, and side by side with other libraries."""

from engine.bench.peers import against

__all__ = ["against"]
