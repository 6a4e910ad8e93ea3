"""The machine and the versions behind a result; without them its figures mean nothing."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.core import hardware

RESULTS = Path(__file__).with_name("results")
_PACKAGES = (
    "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow", "torch", "transformers",
    "ctranslate2",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """CPU, cores, Python and package versions."""
    cpu, features = hardware.cpu()
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cpu_features": list(features),
        "cores": hardware.cores(),
        "python": platform.python_version(),
        "versions": {name: version for name, version in versions.items() if version},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def save(name: str, result: dict[str, Any]) -> Path:
    """Write results/NAME.json: the machine, then the figures."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": describe(), **result}, indent=2) + "\n")
    return file
