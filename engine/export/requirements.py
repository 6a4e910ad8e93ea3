"""The packages of the extra `export`."""

from __future__ import annotations

from importlib.util import find_spec

from engine.errors import MissingDependency

# Modules, and the packages that install them.
_REQUIRED = {
    "torch": "torch",
    "transformers": "transformers",
    "optimum.exporters.onnx": "optimum-onnx",
    "onnx": "onnx",
    "safetensors": "safetensors",
}


def check_installed() -> None:
    """Check that the extra `export` is installed.

    Raises:
        MissingDependency: It is not; the hint says what to install.
    """
    missing = [name for module, name in _REQUIRED.items() if not _is_installed(module)]
    if missing:
        raise MissingDependency(
            f"export needs packages that are not installed: {', '.join(missing)}",
            'pip install "corpus-engine[export]"',
        )
    if not _is_installed("onnxruntime"):
        raise MissingDependency(
            "export tests its graphs with ONNX Runtime, which is not installed",
            'pip install "corpus-engine[cpu,export]"',
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
