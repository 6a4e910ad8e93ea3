"""Versions of what makes a bundle."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress

from engine.version import __version__

_RECORDED = (
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "tokenizers",
)


def versions() -> dict[str, str]:
    """By distribution name; what is not installed is left out."""
    tools = {"corpus-engine": __version__}
    for name in _RECORDED:
        with suppress(importlib.metadata.PackageNotFoundError):
            tools[name] = importlib.metadata.version(name)
    return tools
