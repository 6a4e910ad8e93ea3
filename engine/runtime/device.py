"""Selects the execution provider; says why a device was rejected and which nodes it was assigned.

A GPU that was asked for and does not work is an error that says why. A provider that is listed as
available has only been compiled: one that does not load leaves the session on the CPU, with nothing
but a line in the log, and a node without a kernel falls back to the CPU between two copies. Both
are refused here.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from engine.core import vendor_telemetry
from engine.core.config import check_device
from engine.core.device import ALL, AUTO, CPU, Device, Kind
from engine.core.graphs import Role
from engine.errors import DeviceError, MissingDependency, SettingsError
from engine.runtime import cuda

PROVIDERS: Mapping[Kind, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
GPU = 'pip install "corpus-engine[gpu]"'
_INSTALL = 'pip install "corpus-engine[cpu]", or "corpus-engine[gpu]" for an NVIDIA GPU (not both)'
_SWAP = f"pip uninstall -y onnxruntime onnxruntime-gpu, then {GPU}"
_CPU = "--device cpu runs on the CPU"
# Ops that the CUDA provider leaves to the CPU on purpose: arithmetic of shapes, whose inputs are on
# the host. None of them has a weight or a token's state as input.
_OF_SHAPES = {
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal",
    "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "If", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax",
    "ReduceMin", "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Sqrt", "Squeeze", "Sub",
    "Unsqueeze", "Where",
}  # fmt: skip


@dataclass(frozen=True)
class ExecutionInfo:
    """What computed, as a run's records keep it.

    Attributes:
        device: Such as cpu or cuda:0.
        provider: ONNX Runtime's name of it.
        runtime: onnxruntime's version.
        gpu, driver, cuda, cudnn: Name of the GPU and versions; "" on a CPU.
        nodes: By the graph's role, how many nodes each provider was assigned, if known.
    """

    device: str
    provider: str
    runtime: str
    gpu: str = ""
    driver: str = ""
    cuda: str = ""
    cudnn: str = ""
    nodes: Mapping[Role, Mapping[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def execution_info(device: Device, sessions: Mapping[Role, Any]) -> ExecutionInfo:
    """What computes the graphs of these sessions."""
    counts = {name: node_counts(session) for name, session in sessions.items()}
    version = str(runtime().__version__)
    info = ExecutionInfo(str(device), PROVIDERS[device.kind], version, nodes=counts)
    if not device.is_gpu:
        return info
    driver, loaded = cuda.look(), cuda.versions(built_for())
    gpu = driver.gpus[device.index].name if device.index < len(driver.gpus) else ""
    return replace(info, gpu=gpu, driver=driver.release, cuda=loaded["cuda"], cudnn=loaded["cudnn"])


@cache
def runtime() -> Any:
    """The onnxruntime module.

    Raises:
        MissingDependency: Neither the cpu nor the gpu extra is installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("onnxruntime is not installed", _INSTALL) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingDependency(
            "onnxruntime is installed in part: its two builds overwrite each other's files",
            "pip uninstall onnxruntime onnxruntime-gpu, then " + _INSTALL,
        )
    # Counts and crash reports; what goes out by itself only the environment stops.
    if not vendor_telemetry.wanted():
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def from_runtime(error: Exception) -> bool:
    """Whether the runtime raised an error, and not a bug of this engine: it has classes of its own,
    and its Python bindings raise RuntimeError and MemoryError, no class derived from them."""
    own = type(error).__module__.startswith("onnxruntime.")
    return own or type(error) in (RuntimeError, MemoryError)


def built_for() -> int:
    """The CUDA major version that the installed onnxruntime was built for, 0 for none."""
    if PROVIDERS["cuda"] not in runtime().get_available_providers():
        return 0
    version = str(getattr(runtime(), "cuda_version", "") or "")
    if not version:
        with contextlib.suppress(ImportError):
            from onnxruntime.capi import build_and_package_info

            version = str(getattr(build_and_package_info, "cuda_version", "") or "")
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 13


def resolve(request: str) -> Device:
    """The device that auto, cpu, cuda or cuda:N stands for on this machine.

    Raises:
        SettingsError: It is none of these names, or several GPUs.
        DeviceError: A GPU was asked for and there is none; the message says why.
    """
    check_device(request)
    if request == ALL:
        raise SettingsError(f"device is {ALL}, and one is needed here", "cuda, cuda:0 or cpu")
    if request == AUTO:
        return CPU if why_no_gpu() else Device("cuda")
    device = Device.parse(request)
    if device.is_gpu and device.index >= (count := _gpu_count(request)):
        raise DeviceError(
            f"{request} was asked for, and the driver has {count} "
            f"GPU{'s' * (count > 1)}: cuda:0{f' to cuda:{count - 1}' * (count > 1)}",
            "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES hides some",
        )
    return device


def devices(request: str) -> tuple[Device, ...]:
    """The devices that a run uses: one, or with cuda:all every GPU.

    Raises:
        DeviceError: As `resolve`.
    """
    if request != ALL:
        return (resolve(request),)
    return tuple(Device("cuda", index) for index in range(_gpu_count(request)))


def _gpu_count(request: str) -> int:
    if problem := why_no_gpu():
        raise DeviceError(f"{request} was asked for, but {problem[0]}", problem[1])
    return len(cuda.look().gpus)


def gpu_name(device: Device) -> str:
    """Name of the GPU, "" for the CPU."""
    return cuda.look().gpus[device.index].name if device.is_gpu else ""


def why_no_gpu() -> tuple[str, str] | None:
    """Why no GPU can be used here, and a hint; None where one can."""
    if PROVIDERS["cuda"] not in runtime().get_available_providers():
        return "the installed onnxruntime has no CUDA provider", f"{_SWAP}; or {_CPU}"
    driver, major = cuda.look(), built_for()
    if driver.problem:
        return driver.problem, f"nvidia-smi should list the GPU; {_CPU}"
    if driver.cuda[0] < major:
        served = ".".join(map(str, driver.cuda))
        return (
            f"the driver serves CUDA {served} and this onnxruntime is built for CUDA {major}",
            f"install a newer NVIDIA driver, or: pip install {_older(driver.cuda[0])}",
        )
    return None


def why_gpu_is_idle() -> str:
    """Why a GPU that this machine has cannot be used; "" where it has none, or one can."""
    problem = why_no_gpu() if cuda.look().gpus else None
    return problem[0] if problem else ""


def _older(major: int) -> str:
    """The line of onnxruntime-gpu on PyPI that is built for a CUDA major version."""
    return '"onnxruntime-gpu<1.27"' if major == 12 else f"an onnxruntime-gpu for CUDA {major}"


def preload() -> None:
    """Load CUDA's and cuDNN's libraries from PyPI's packages, or those that torch has loaded.

    Whatever does not load shows when a session is made (`check_provider`).
    """
    load = getattr(runtime(), "preload_dlls", None)
    if load is None:
        return
    # It prints what it does not find; the error that follows says it better.
    with open(os.devnull, "w", encoding="utf-8") as away, contextlib.redirect_stdout(away):
        load()


@contextlib.contextmanager
def captured_stderr(lines: list[str]) -> Iterator[None]:
    """Add to `lines` what is written to file descriptor 2 within: the only place where the runtime
    says why a provider does not load."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            lines += caught.read().decode(errors="replace").splitlines()


def start_failure(device: Device, error: Exception) -> DeviceError | None:
    """What to raise where a session cannot be created because CUDA does not start; None where the
    error is another one."""
    if not device.is_gpu or not (why := _cause([str(error)])):
        return None
    return DeviceError(
        f"{device} was asked for, and the CUDA provider does not start: {why}",
        "engine doctor shows driver, GPUs and libraries; nvidia-smi should list the GPU",
    )


def check_provider(device: Device, session: Any, log: Sequence[str]) -> None:
    """Check that a session is on the device it was created for.

    Args:
        log: Lines that the runtime logged while it was created.

    Raises:
        DeviceError: It is not; the message says why, in the runtime's words.
    """
    provider = session.get_providers()[0]
    if provider == PROVIDERS[device.kind]:
        return
    major = built_for()
    cause = _cause(log) or next(iter(cuda.missing(major)), "")
    why = "the CUDA provider does not load" + (f": {cause}" if cause else "")
    raise DeviceError(
        f"{device} was asked for, and {provider} is what would run: {why}",
        f"{GPU} brings CUDA {major} and cuDNN; engine doctor lists what is missing",
    )


def _cause(log: Sequence[str]) -> str:
    """The library that could not be opened, or CUDA's error, out of what the runtime logged."""
    text = "\n".join(log)
    if library := re.search(r"(lib[\w.+-]+\.so[.\d]*): (cannot open[^\"\n]*|[^\"\n]{1,80})", text):
        return f"{library[1]}: {library[2].strip()}"
    failure = re.search(r"CUDA failure \d+: [^;\n]{1,80}", text)
    return failure[0] if failure else ""


def node_counts(session: Any) -> dict[str, int]:
    """How many nodes each provider was assigned; empty where this onnxruntime does not tell."""
    counts: Counter[str] = Counter()
    for part in _assigned(session):
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def _assigned(session: Any) -> Sequence[Any]:
    assignment = getattr(session, "get_provider_graph_assignment_info", None)
    return list(assignment()) if assignment else []


def check_nodes(file: Path, device: Device, session: Any) -> None:
    """Check that no node fell back from the GPU to the CPU, but for arithmetic of shapes.

    Raises:
        DeviceError: Some did; their ops are named.
    """
    if not device.is_gpu:
        return
    fallen: Counter[str] = Counter()
    for part in _assigned(session):
        if part.ep_name == PROVIDERS["cpu"]:
            fallen.update(
                node.op_type
                for node in part.get_nodes()
                if node.domain not in ("", "ai.onnx") or node.op_type not in _OF_SHAPES
            )
    if fallen:
        listed = ", ".join(f"{count} {op}" for op, count in fallen.most_common(3))
        raise DeviceError(
            f"{file}: {device} was asked for, and {fallen.total()} nodes fell back to the CPU: "
            f"{listed}",
            "a GPU runs bundles of recipe fp16 and fp32; --device cpu runs this one",
        )
