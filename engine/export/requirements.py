"""The packages of the extra `export`."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec

from engine.errors import MissingDependency
from engine.runtime.device import runtime

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
    # Before transformers and Optimum import them.
    runtime()
    _import_http_client()


def _import_http_client() -> None:
    """Import urllib3 without the socket that it binds to ::1 to see whether there is IPv6: where
    it takes an address that there is not for one, it goes on with the next.

    So an export of local files opens no socket at all.
    """
    if "urllib3" in sys.modules or not _is_installed("urllib3"):
        return
    before = socket.has_ipv6
    socket.has_ipv6 = False
    try:
        from urllib3.util import connection
    finally:
        socket.has_ipv6 = before
    connection.HAS_IPV6 = before


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
