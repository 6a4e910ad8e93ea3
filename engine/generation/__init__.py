"""Decoding: what turns a step graph into sequences. Sees only the Backend protocol."""

from engine.generation.greedy import greedy

__all__ = ["greedy"]
