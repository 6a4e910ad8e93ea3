"""A GPU that is not there: onnxruntime with its CUDA provider, on the CPU's kernels.

Sessions, bindings and values are the real ones; where a value is and what runs on
the GPU is recorded, so that the code for a GPU runs everywhere.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engine.bundle.format import BundleFolder
from engine.core.device import Device
from engine.core.graphs import GraphRecord
from engine.runtime import backend, cuda, device, doctor, sessions
from engine.runtime.cuda import Driver, Gpu
from engine.runtime.gpu_serialization import SerialExecutor

H100 = Gpu("NVIDIA H100 80GB HBM3", 80 << 30, "9.0")
DRIVER = Driver("580.65.06", (13, 0), (H100,))
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass
class Node:
    op_type: str
    domain: str = ""


@dataclass
class Part:
    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        return self.nodes


class Values:
    """onnxruntime.OrtValue, in whose eyes the GPU is the host."""

    ortvalue_from_numpy = staticmethod(onnxruntime.OrtValue.ortvalue_from_numpy)

    def __init__(self, runtime: FarRuntime) -> None:
        self.runtime = runtime

    def ortvalue_from_shape_and_type(
        self, shape: Sequence[int], dtype: Any, kind: str, index: int
    ) -> Any:
        assert (kind, index) == ("cuda", self.runtime.index)
        self.runtime.touch()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self.runtime.largest_buffer:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype)
        value.update_inplace(np.full(shape, 1, dtype))
        return value


class Binding:
    def __init__(self, session: FarSession) -> None:
        self.session, self.real = session, session.real.io_binding()
        self.staged: dict[str, Any] = {}
        self.bind_ortvalue_output = self.real.bind_ortvalue_output
        self.get_outputs = self.real.get_outputs

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        # It is copied now.
        self.session.runtime.touch()
        self.real.bind_ortvalue_input(name, value)

    def bind_cpu_input(self, name: str, array: Any) -> None:
        # A GPU copies at once: what becomes of the host's memory later is nothing to it.
        self.staged[name] = array
        self.real.bind_cpu_input(name, array.copy())

    def bind_input(self, name: str, kind: str, index: int, *memory: Any) -> None:
        assert (kind, index) == ("cuda", self.session.runtime.index)
        self.real.bind_input(name, "cpu", 0, *memory)

    def bind_output(self, name: str, kind: str, index: int, *memory: Any) -> None:
        assert (kind, index) == ("cuda", self.session.runtime.index)
        self.real.bind_output(name, "cpu", 0, *memory)


class FarSession:
    """A session that says it is on the GPU."""

    def __init__(self, runtime: FarRuntime, file: str, providers: list[Any]) -> None:
        self.runtime, self.file = runtime, file
        self.options = dict(providers[0][1])
        self.real = onnxruntime.InferenceSession(file, providers=[CPU])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.runs: list[str] = []
        self.released: list[int] = []
        self.captured: set[tuple[int, str]] = set()

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self.runtime.loads else [CPU]

    def get_provider_graph_assignment_info(self) -> list[Part]:
        return [Part(CUDA, [Node("MatMul")] * 3), *self.runtime.parts]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        number = options.entries["gpu_graph_id"]
        self.runs.append(number)
        self.runtime.touch()
        # As ONNX Runtime 1.31.1 does it: once to warm up, and once more in the capture, for every
        # thread that comes with this number.
        key = (threading.get_ident(), number)
        if number != "-1" and key not in self.captured:
            self.captured.add(key)
            self.real.run_with_iobinding(binding.real)
            self.runtime.capture()
        tokens = [a.size for a in binding.staged.values()]
        if tokens and max(tokens) > self.runtime.most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
        self.real.run_with_iobinding(binding.real)

    def release_captured_graph(self, number: int) -> None:
        self.released.append(number)


class RunOptions(onnxruntime.RunOptions):  # type: ignore[misc]  # it has no types
    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


@dataclass
class FarRuntime:
    """The onnxruntime module of a machine with a GPU.

    Args:
        loads: Whether the CUDA provider does; else sessions come back on the CPU.
        says: What is written to the log where it does not.
        parts: Nodes that are not on the GPU.
        most: Elements of an input above which a run is out of memory.
        largest_buffer: Bytes above which a buffer cannot be had.
    """

    loads: bool = True
    says: str = ""
    parts: list[Part] = field(default_factory=list)
    most: int = 1 << 40
    largest_buffer: int = 1 << 40
    index: int = 0
    sessions: list[FarSession] = field(default_factory=list)
    cuda_version: str = "13.0"
    __version__: str = "1.31.1"
    preloaded: int = 0

    def __post_init__(self) -> None:
        self.OrtValue = Values(self)
        self.capturing = 0
        self.RunOptions = RunOptions
        self.SessionOptions = onnxruntime.SessionOptions

    def capture(self) -> None:
        """Take a while about it."""
        self.capturing = threading.get_ident()
        time.sleep(0.02)
        self.capturing = 0

    def touch(self) -> None:
        """See that nobody else captures, as cudaStreamCaptureModeGlobal wants it."""
        if self.capturing not in (0, threading.get_ident()):
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        print("what it prints is not for the person")  # noqa: T201  # as the real one does
        self.preloaded += 1

    def InferenceSession(  # noqa: N802  # onnxruntime's name
        self,
        file: str,
        options: Any,
        providers: list[Any],
        enable_fallback: bool,
        disabled_optimizers: list[str] | None,
    ) -> Any:
        assert not enable_fallback
        on_gpu = providers != [CPU]
        assert ("SkipLayerNormFusion" in (disabled_optimizers or [])) != on_gpu
        if providers == [CPU]:
            return onnxruntime.InferenceSession(file, options, providers=providers)
        assert providers[0][0] == CUDA
        self.touch()
        if self.says:
            os.write(2, self.says.encode() + b"\n")
        self.sessions.append(FarSession(self, file, providers))
        return self.sessions[-1]


def pretend(monkeypatch: pytest.MonkeyPatch) -> FarRuntime:
    """A machine with an H100 and onnxruntime-gpu."""
    far = FarRuntime()
    for room in (device, backend, doctor, sessions):
        monkeypatch.setattr(room, "runtime", lambda: far)
    monkeypatch.setattr(cuda, "look", lambda: DRIVER)
    monkeypatch.setattr(cuda, "missing", lambda major: ())
    return far


def carried(folder: BundleFolder, of: Any = BundleFolder.graphs_for) -> list[GraphRecord]:
    """A GPU's graphs of a bundle, as far as a CPU can carry them: encoders with their padding."""
    padded = {graph.role: graph for graph in folder.description.graphs if not graph.packed}
    return [padded[graph.role] for graph in of(folder, Device("cuda"))]


class Late:
    """A backend like a GPU's: a bound call returns at once and is carried out only when somebody
    asks for a value; see `flow.Backend`."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.device = backend, Device("cuda")
        self.ran, self.roles = {"device": "cuda:0"}, backend.roles
        self.cache_bytes = backend.cache_bytes
        self.lane = SerialExecutor()
        self.waiting: list[Any] = []
        self.looks = 0
        self.launches: dict[str, int] = {}

    def stoppable(self) -> Any:
        return self, lambda: None

    def serially(self, call: Any) -> Any:
        return self.lane(call)

    def graph(self, name: str, beams: int = 1) -> LateGraph:
        return LateGraph(name, self.backend.graph(name, beams), self)

    def settle(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def host(self, value: Any) -> Any:
        self.settle()
        self.looks += 1
        return self.backend.host(value).copy()

    def put(self, buffer: Any, array: Any) -> None:
        copy = array.copy()
        self.waiting.append(lambda: self.backend.put(buffer, copy))

    def buffer(self, shape: Any, dtype: Any, old: Any = None) -> Any:
        return self.backend.buffer(shape, dtype, old)


class LateGraph:
    def __init__(self, name: str, graph: Any, late: Late) -> None:
        self.name, self.graph, self.late = name, graph, late
        self.inputs, self.outputs, self.dtypes = graph.inputs, graph.outputs, graph.dtypes

    def run(self, feeds: Any, fetch: Any) -> Any:
        self.late.settle()
        return self.graph.run(feeds, fetch)

    def bind(self, inputs: Any, outputs: Any) -> Any:
        bound = self.graph.bind(inputs, outputs)

        def call() -> None:
            self.late.launches[self.name] = self.late.launches.get(self.name, 0) + 1
            self.late.waiting.append(bound)

        return call
