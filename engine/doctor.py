"""What this machine and this installation are, and what stands in the way."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from engine import hardware
from engine.backend import OrtBackend, runtime
from engine.errors import EngineError
from engine.version import __version__

_PACKAGES = (
    "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow", "typer",
    "torch", "optimum", "optimum-onnx", "transformers", "onnx",
)  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """All that `engine doctor` shows.

    Attributes:
        providers: Provider name to "loads" or to why it does not, tried with a real graph.
        memory: Bytes this process may use.
        hints: What the person can do, most important first.
    """

    engine: str
    python: str
    system: str
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory: int
    versions: dict[str, str]
    providers: dict[str, str]
    hints: tuple[str, ...] = field(default=())


def diagnose(graph: Path) -> Diagnosis:
    """Look at the machine; `graph` is a small ONNX file to try the providers with."""
    model, features = hardware.cpu()
    versions = {name: found for name in _PACKAGES if (found := _version(name))}
    providers = _providers(graph)
    return Diagnosis(
        engine=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=model,
        cpu_features=features,
        cores=hardware.cores(),
        memory=hardware.memory(),
        versions=versions,
        providers=providers,
        hints=tuple(_hints(features, versions, providers)),
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _providers(graph: Path) -> dict[str, str]:
    """Each provider of this build, tried: being listed as available only says it was compiled."""
    try:
        built = runtime().get_available_providers()
    except EngineError as error:
        return {"onnxruntime": error.message}
    tried = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
    return {name: _tried(graph, device) for name, device in tried.items() if name in built}


def _tried(graph: Path, device: str) -> str:
    try:
        OrtBackend(graph.parent, [graph.name], device=device)
    except EngineError as error:
        return error.message
    return "loads"


def _hints(
    features: tuple[str, ...], versions: dict[str, str], providers: dict[str, str]
) -> list[str]:
    hints = []
    if "onnxruntime" in providers:
        hints.append('install a runtime: pip install "corpus-engine[cpu]" or "corpus-engine[gpu]"')
    if {"onnxruntime", "onnxruntime-gpu"} <= versions.keys():
        hints.append(
            "onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, install one"
        )
    if providers.get("CUDAExecutionProvider", "loads") != "loads":
        hints.append("this build has CUDA but can not use it: check the driver with nvidia-smi")
    if not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"} & set(features):
        hints.append("this CPU has no int8 dot product: expect little from the int8 recipe")
    if "optimum-onnx" not in versions:
        hints.append('exporting needs: pip install "corpus-engine[export]"')
    return hints
