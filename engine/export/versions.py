"""Versions of the packages that an export uses."""

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
    """The version of each installed package, by distribution name."""
    tools = {"corpus-engine": __version__}
    for name in _RECORDED:
        with suppress(importlib.metadata.PackageNotFoundError):
            tools[name] = importlib.metadata.version(name)
    return tools
