"""What this machine and this installation are, and what does not work."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.core import hardware, vendor_telemetry
from engine.core.graphs import GraphRecord
from engine.errors import EngineError
from engine.runtime import cuda
from engine.runtime.backend import OrtBackend
from engine.runtime.device import PROVIDERS, built_for, preload, resolve, runtime, why_gpu_is_idle
from engine.runtime.speed import Advice, Machine, advice
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
        cuda: What the driver says of itself and of its GPUs, what CUDA the runtime was built for,
            and which of its libraries are missing.
        memory: Bytes this process may use.
        telemetry: Whether libraries report to their makers, and by which setting.
        hints: What the user can do, most important first.
        faster: What matters for speed here, and what to do about it.
    """

    engine: str
    python: str
    system: str
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory: int
    telemetry: str
    versions: dict[str, str]
    providers: dict[str, str]
    cuda: dict[str, Any]
    hints: tuple[str, ...] = field(default=())
    faster: tuple[Advice, ...] = field(default=())


def diagnose(graph: Path) -> Diagnosis:
    """Look at the machine; `graph` is a small ONNX file to try the providers with."""
    model, features = hardware.cpu()
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    providers, hints = _providers(graph)
    return Diagnosis(
        engine=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=model,
        cpu_features=features,
        cores=hardware.cores(),
        memory=hardware.memory(),
        telemetry=vendor_telemetry.state(),
        versions=versions,
        providers=providers,
        cuda=_cuda(),
        hints=tuple(hints + _hints(versions)),
        faster=advice(_machine(features, versions)),
    )


def _machine(features: tuple[str, ...], versions: Mapping[str, str]) -> Machine:
    """What the advice on speed depends on."""
    gpus = cuda.look().gpus
    try:
        problem = why_gpu_is_idle()
    except EngineError as error:
        problem = error.message
    return Machine(
        features=features,
        cores=os.cpu_count() or 1,
        limits=hardware.core_limits(),
        gpus=tuple(gpu.name for gpu in gpus),
        gpu_problem=problem,
        exports="optimum-onnx" in versions,
        telemetry=vendor_telemetry.wanted(),
    )


def _cuda() -> dict[str, Any]:
    """The CUDA driver, its GPUs and libraries, whether or not anything here can use them."""
    driver = cuda.look()
    facts: dict[str, Any] = {"driver": driver.problem or driver.release or "loaded"}
    if driver.gpus:
        facts["serves"] = ".".join(map(str, driver.cuda))
        facts["gpus"] = [
            f"cuda:{n} {gpu.name}, {gpu.memory / 2**30:.0f} GiB, capability {gpu.capability}"
            for n, gpu in enumerate(driver.gpus)
        ]
    try:
        major = built_for()
    except EngineError:
        return facts
    facts["onnxruntime"] = f"built for CUDA {major}" if major else "built without CUDA"
    if major:
        preload()
        facts["missing"] = list(cuda.missing(major))
    return facts


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _providers(graph: Path) -> tuple[dict[str, str], list[str]]:
    """Whether each provider of this build loads (being listed only means that it was compiled), and
    hints for those that do not."""
    try:
        built = runtime().get_available_providers()
    except EngineError as error:
        return {"onnxruntime": error.message}, [error.hint]
    states, hints = {}, []
    for kind, name in PROVIDERS.items():
        if name not in built:
            continue
        try:
            OrtBackend(graph.parent, [GraphRecord(graph.name, "encoder")], device=resolve(kind))
            states[name] = "loads"
        except EngineError as error:
            states[name] = error.message
            hints.append(error.hint)
    return states, hints


def _hints(versions: dict[str, str]) -> list[str]:
    hints = []
    if {"onnxruntime", "onnxruntime-gpu"} <= versions.keys():
        hints.append(
            "onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, install one"
        )
    return hints
