"""ONNX Runtime behind the Backend protocol: the run path's only import of it.

Sessions are created from a bundle's graphs and shared by all workers, since `run` may be called
from many threads: weights are held once. What the runtime raises is translated here only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendError, DeviceError, MissingDependency
from engine.flow import Value

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INSTALL = 'pip install "corpus-engine[cpu]", or "corpus-engine[gpu]" for an NVIDIA card (not both)'


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
    return onnxruntime


class OrtGraph:
    """One session."""

    def __init__(self, file: Path, session: Any) -> None:
        self._file, self._session = file, session
        self.inputs: tuple[str, ...] = tuple(i.name for i in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in session.get_outputs())

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        """See `flow.Graph.run`; values stay with the runtime until `host` asks for them.

        Raises:
            BackendError: The runtime failed on this batch.
        """
        ort = runtime()
        held = {
            name: ort.OrtValue.ortvalue_from_numpy(v) if isinstance(v, np.ndarray) else v
            for name, v in feeds.items()
        }
        try:
            values: list[Value] = self._session.run_with_ort_values(list(fetch), held)
        except Exception as error:  # the binding's exceptions share no base but Exception
            shapes = {n: tuple(v.shape()) for n, v in held.items() if n in ("input_ids",)}
            raise BackendError(
                f"{self._file}: inference failed at {shapes}: {_first_line(error)}",
                "a smaller --batch-tokens needs less memory; engine doctor checks the installation",
            ) from error
        return values

    def bind(
        self, inputs: Mapping[str, OrtBuffer], outputs: Mapping[str, OrtBuffer]
    ) -> Callable[[], None]:
        """See `flow.Graph.bind`.

        Raises:
            BackendError: From the call that is returned: the runtime failed.
        """
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer.value)
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, buffer.value)

        def run() -> None:
            try:
                self._session.run_with_iobinding(binding)
            except Exception as error:  # as above: no common base
                raise BackendError(
                    f"{self._file}: a decoder step failed: {_first_line(error)}",
                    "engine doctor checks the installation",
                ) from error

        return run

    def profiled(self) -> Path:
        """End this session's profile and name its file."""
        return Path(self._session.end_profiling())


class OrtBuffer:
    """Host memory, bytes, of which some are an array and a value of the runtime at once."""

    def __init__(self, memory: NDArray[np.uint8], array: NDArray[Any]) -> None:
        self.memory, self.array = memory, array
        self.value = runtime().OrtValue.ortvalue_from_numpy(array)


class OrtBackend:
    """A bundle's graphs on one device.

    Args:
        folder: The bundle.
        graphs: Names of its ONNX files.
        device: auto, cpu, cuda or cuda:N.
        threads: Threads for one batch.
        profiles: Folder for the runtime's own profiles, which slow it down; None for none.

    Raises:
        DeviceError: The device asked for is not what would run.
        BackendError: The runtime refuses a graph.
    """

    def __init__(
        self,
        folder: Path,
        graphs: Sequence[str],
        *,
        device: str = "auto",
        threads: int = 1,
        profiles: Path | None = None,
    ) -> None:
        self.device: str = resolve(device)
        self._profiles = profiles
        self._graphs = {Path(n).stem: self._load(folder / n, threads) for n in graphs}

    def profiled(self) -> dict[str, Path]:
        """End profiling: the file of every graph, JSON in the format of Chrome's tracing."""
        return {name: graph.profiled() for name, graph in self._graphs.items()}

    def graph(self, name: str) -> OrtGraph:
        return self._graphs[name]

    def host(self, value: Value) -> NDArray[Any]:
        if isinstance(value, OrtBuffer):
            return value.array
        return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())

    def buffer(self, shape: Sequence[int], dtype: Any, old: OrtBuffer | None = None) -> OrtBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        # Pages that are never written take up no memory: a cache costs what its rows fill.
        memory = old.memory if old and old.memory.nbytes >= size else np.zeros(size, np.uint8)
        return OrtBuffer(memory, memory[:size].view(dtype).reshape(shape))

    def first(self, buffer: OrtBuffer, rows: int) -> OrtBuffer:
        return OrtBuffer(buffer.memory, buffer.array[:rows])

    def _load(self, file: Path, threads: int) -> OrtGraph:
        ort = runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if self._profiles:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._profiles / file.stem)
        kind, _, index = self.device.partition(":")
        provider: Any = _PROVIDERS[kind]
        wanted = [(provider, {"device_id": index})] if index else [provider]
        try:
            session = ort.InferenceSession(str(file), options, providers=wanted)
        except Exception as error:  # as above: no common base
            raise BackendError(
                f"{file}: ONNX Runtime {ort.__version__} refuses the graph: {_first_line(error)}",
                "export the model again with this installation",
            ) from error
        if (ran := session.get_providers()[0]) != provider:
            raise DeviceError(
                f"{self.device} was asked for and {ran} is what would run",
                "engine doctor says which library is missing; --device cpu runs on the CPU",
            )
        return OrtGraph(file, session)


def resolve(device: str) -> str:
    """The device that auto, cuda or cpu stands for here.

    Raises:
        DeviceError: CUDA was asked for and this build of the runtime has none.
    """
    if device == "cpu":
        return "cpu"
    has_cuda = _PROVIDERS["cuda"] in runtime().get_available_providers() and _driver()
    if device == "auto":
        return "cuda:0" if has_cuda else "cpu"
    if _PROVIDERS["cuda"] not in runtime().get_available_providers():
        raise DeviceError(
            f"{device} was asked for, but the installed onnxruntime has no CUDA provider",
            'pip uninstall onnxruntime, then pip install "corpus-engine[gpu]"',
        )
    if not has_cuda:
        raise DeviceError(
            f"{device} was asked for, but no NVIDIA driver is loaded",
            "nvidia-smi should list the card; --device cpu runs on the CPU",
        )
    return device if ":" in device else f"{device}:0"


def _driver() -> bool:
    """Whether an NVIDIA driver is loaded: available providers say what was built, not what runs."""
    return Path("/proc/driver/nvidia/version").exists() or os.name == "nt"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
