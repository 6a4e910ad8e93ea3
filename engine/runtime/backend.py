"""ONNX Runtime behind the Backend protocol: sessions, bindings and buffers on one device.

Sessions are created from a bundle's graphs and shared by all workers, since `run` may be called
from many threads: weights are in memory once. What the runtime raises is translated here only.

On a GPU inputs go through page-locked memory, one buffer for each thread, and outputs stay on the
GPU until `host` asks for them. Two threads keep two batches in flight, which queue up on one
stream: one is prepared, or read, while the other is computed.

A decoder step is captured as a CUDA graph. ONNX Runtime keeps a capture with the thread that made
it: another thread's first launch would capture again, and run the step twice. And while CUDA
captures, no other thread of the process may allocate or copy (cudaStreamCaptureModeGlobal).
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.device import Device
from engine.core.graphs import GraphRecord, Role
from engine.errors import BackendError, OutOfMemory, Stopped
from engine.runtime import cuda
from engine.runtime.buffers import OrtBuffer, ort_value
from engine.runtime.device import (
    built_for,
    execution_info,
    from_runtime,
    preload,
    runtime,
)
from engine.runtime.gpu_serialization import GPU_LOCK, SerialExecutor
from engine.runtime.packing import packing_inputs
from engine.runtime.protocol import T, Value
from engine.runtime.sessions import SessionFactory, first_line
from engine.runtime.shared_sources import SOURCE_LAST

# How the runtime, CUDA and cuBLAS say that memory is full.
_FULL = re.compile(r"out of memory|failed to allocate memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
# How the runtime says that `RunOptions.terminate` was set. What it has computed by then is lost.
_TERMINATED = "terminate flag"
# Bytes that arrays in page-locked memory are aligned to.
_ALIGNMENT = 64
# Bytes of one decoding's KV caches on the CPU; on a GPU one third of its memory is for those of all
# decodings, of which at most two are kept: the longest sources and the longest answers.
_CPU_CACHE_BYTES, _GPU_CACHE_SHARE, _GPU_CACHES = 1 << 30, 3, 2
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OrtGraph:
    """One graph, in a session of its own."""

    def __init__(self, file: Path, record: GraphRecord, session: Any, device: Device) -> None:
        self._file, self._record, self._session = file, record, session
        self._gpu = device.index if device.is_gpu else None
        self.inputs: tuple[str, ...] = tuple(i.name for i in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in session.get_outputs())
        self.shapes: dict[str, tuple[int | str | None, ...]] = {
            v.name: tuple(v.shape) for v in (*session.get_inputs(), *session.get_outputs())
        }
        self.dtypes: dict[str, Any] = {
            v.name: _DTYPES.get(v.type) for v in (*session.get_inputs(), *session.get_outputs())
        }
        self._page_locked = threading.local()
        self._captures = itertools.count(1)
        self._options = _run_options()

    def under(self, options: Any) -> OrtGraph:
        """This graph, each call of which has these options of the runtime."""
        graph = copy.copy(self)
        graph._options = options
        return graph

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        """See `protocol.Graph.run`; values stay with the runtime until `host` asks for them.

        Raises:
            OutOfMemory: The batch does not fit.
            BackendError: The runtime failed on this batch.
            Stopped: It was stopped, as `OrtBackend.stoppable` says.
        """
        ids = feeds.get("input_ids")
        if self._record.packed:
            feeds = {**feeds, **packing_inputs(feeds["attention_mask"])}
        with self._translated(f" at {ids.shape}" if isinstance(ids, np.ndarray) else ""):
            if self._gpu is None:
                return self._run_on_cpu(feeds, fetch)
            with GPU_LOCK.shared():
                return self._run_on_gpu(feeds, fetch)

    def _run_on_cpu(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        inputs = {name: ort_value(value) for name, value in feeds.items()}
        run = self._session.run_with_ort_values
        outputs: list[Value] = run(list(fetch), inputs, self._options)
        return outputs

    def _run_on_gpu(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        binding = self._session.io_binding()
        arrays = {name: v for name, v in feeds.items() if isinstance(v, np.ndarray)}
        for name, staged in self._stage(arrays).items():
            binding.bind_cpu_input(name, staged)
        for name in feeds.keys() - arrays.keys():
            self._bind_input(binding, name, feeds[name])
        for name in fetch:
            binding.bind_output(name, "cuda", self._gpu)
        self._session.run_with_iobinding(binding, self._options)
        # In the order of binding.
        values: list[Value] = binding.get_outputs()
        return values

    def _stage(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Copies of the arrays in this thread's page-locked memory, valid until its next run."""
        sizes = {
            name: -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for name, array in arrays.items()
        }
        size = sum(sizes.values())
        memory = getattr(self._page_locked, "memory", None)
        if memory is None or memory.nbytes < size:
            self._page_locked.memory = memory = cuda.page_locked(2 * size, built_for())
        staged, start = {}, 0
        for name, array in arrays.items():
            copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            copy[...] = array
            staged[name], start = copy, start + sizes[name]
        return staged

    def bind(
        self, inputs: Mapping[str, Value], outputs: Mapping[str, OrtBuffer]
    ) -> Callable[[], None]:
        """See `protocol.Graph.bind`. On a GPU the first call of a graph whose record says so is
        captured as a CUDA graph, which later calls launch.

        Raises:
            OutOfMemory: An input does not fit; the returned call raises it, too.
            BackendError: The runtime failed; the returned call raises it, too.
        """
        # Inputs that are not on the GPU yet are copied there now.
        with self._translated(""), GPU_LOCK.shared() if self._gpu is not None else nullcontext():
            binding = self._session.io_binding()
            for name, value in inputs.items():
                self._bind_input(binding, name, value)
            for name, buffer in outputs.items():
                if buffer.view:
                    binding.bind_output(name, *buffer.address(self._gpu))
                else:
                    binding.bind_ortvalue_output(name, buffer.value)
        captured = self._gpu is not None and self._record.captured
        if not captured:
            return _BoundCall(self, binding, (inputs, outputs), self._options)
        # A captured step is too short for a stop to end it.
        number = next(self._captures)
        options = _run_options(number)
        bound = _BoundCall(self, binding, (inputs, outputs), options, captures=True)
        # For CUDA this does nothing in ONNX Runtime 1.31.1: a capture lives as long as its session.
        release = getattr(self._session, "release_captured_graph", None)
        if release:
            weakref.finalize(bound, release, number)
        return bound

    def _bind_input(self, binding: Any, name: str, value: Value) -> None:
        if isinstance(value, OrtBuffer) and value.view:
            binding.bind_input(name, *value.address(self._gpu))
        else:
            binding.bind_ortvalue_input(name, ort_value(value))

    def launch(self, binding: Any, options: Any) -> None:
        with self._translated(" in a decoder step"):
            self._session.run_with_iobinding(binding, options)

    @contextmanager
    def _translated(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the runtime's exceptions share no base but Exception
            if not from_runtime(error):
                raise
            if _TERMINATED in str(error):
                raise Stopped("stopped while a batch was computed") from error
            reason = first_line(error)
            if isinstance(error, MemoryError) or _FULL.search(str(error)):
                raise OutOfMemory(
                    f"{self._file}: out of memory{where}: {reason}",
                    "a smaller --batch-tokens or a shorter --max-length needs less",
                ) from error
            raise BackendError(
                f"{self._file}: inference failed{where}: {reason}",
                "a smaller --batch-tokens needs less memory; engine doctor checks the installation",
            ) from error

    def end_profiling(self) -> Path:
        """End this session's profile and return its file."""
        return Path(self._session.end_profiling())

    @property
    def session(self) -> Any:
        return self._session

    @property
    def on_gpu(self) -> bool:
        return self._gpu is not None


class _BoundCall:
    """A call of a graph over fixed buffers, which it keeps alive; with `captures`, the first call
    is captured."""

    def __init__(
        self,
        graph: OrtGraph,
        binding: Any,
        buffers: Sequence[Mapping[str, Value]],
        options: Any,
        captures: bool = False,
    ) -> None:
        self._graph, self._binding, self._options = graph, binding, options
        self._buffers = buffers
        self._captures = captures

    def __call__(self) -> None:
        on_gpu = self._graph.on_gpu
        lock = GPU_LOCK.exclusive if self._captures else GPU_LOCK.shared
        with lock() if on_gpu else nullcontext():
            self._graph.launch(self._binding, self._options)
        self._captures = False


class OrtBackend:
    """A bundle's graphs on one device; see `protocol.Backend` for its methods.

    Args:
        folder: The bundle.
        graphs: Those to load, one of each role.
        device: What computes.
        threads: Threads for one batch.
        profiles: Folder for the runtime's own profiles, which slow it down; None for none.
        gpu_memory: Bytes of the GPU that each graph's arena may take up, and all KV caches; 0 for
            no limit on arenas, and a third of the GPU for KV caches.
        beams: Of the rows that the first decode steps are for; `graph` opens the step for other
            numbers when it is asked.
        unchanged: Around what is opened then: raises if the bundle is no longer what it was.

    Raises:
        DeviceError: The device is not what would run.
        BackendError: The runtime refuses a graph.
    """

    def __init__(
        self,
        folder: Path,
        graphs: Sequence[GraphRecord],
        *,
        device: Device,
        threads: int = 1,
        profiles: Path | None = None,
        gpu_memory: int = 0,
        beams: int = 1,
        unchanged: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.device = device
        self._sessions = SessionFactory(folder, device, threads, profiles, gpu_memory)
        self._unchanged = unchanged
        self.cache_bytes: int = _cache_bytes(device, gpu_memory)
        if device.is_gpu:
            preload()
        captures = device.is_gpu and any(graph.captured for graph in graphs)
        self._serial = SerialExecutor() if captures else None
        # On a CPU side by side: the runtime creates a session without Python's lock.
        with ThreadPoolExecutor(1 if device.is_gpu else max(1, len(graphs))) as pool:
            loaded = pool.map(lambda graph: self._load(graph, beams), graphs)
            self._graphs = {graph.role: each for graph, each in zip(graphs, loaded, strict=True)}
        self._records = {graph.role: graph for graph in graphs}
        # Decode steps by their number of beams, and those that were asked for.
        self._steps = {beams: self._graphs["step"]} if "step" in self._graphs else {}
        self._asked: set[int] = set()
        self._opening = threading.Lock()
        self._options: Any = None

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset(self._records)

    @property
    def ran(self) -> dict[str, Any]:
        """See `protocol.Backend`."""
        sessions = {role: graph.session for role, graph in self._graphs.items()}
        return execution_info(self.device, sessions).to_dict()

    def end_profiling(self) -> dict[Role, Path]:
        """End profiling; the file of every graph, JSON in the format of Chrome's tracing. Of the
        decode step it is that which was opened last."""
        steps = list(self._steps.values())
        graphs = self._graphs | ({"step": steps[-1]} if steps else {})
        return {role: graph.end_profiling() for role, graph in graphs.items()}

    @property
    def loaded(self) -> Mapping[Role, OrtGraph]:
        """The graphs by role; of decode steps that which was loaded first and is still there."""
        return self._graphs

    def graph(self, role: Role, beams: int = 1) -> OrtGraph:
        """See `protocol.Backend.graph`.

        Raises:
            BackendError, BundleError: A step for these beams cannot be opened.
        """
        graph = self._graphs[role]
        if role == "step" and SOURCE_LAST.decode() in graph.inputs:
            graph = self._step(beams)
        return graph.under(self._options) if self._options else graph

    def _step(self, beams: int) -> OrtGraph:
        """The decode step for so many beams. It takes the place of one that nobody has asked for:
        each holds the weights in memory."""
        with self._opening:
            if beams not in self._steps:
                with self._unchanged():
                    step = self._load(self._records["step"], beams)
                if not self._asked:
                    self._steps.clear()
                    self._graphs["step"] = step
                self._steps[beams] = step
            self._asked.add(beams)
            return self._steps[beams]

    def _load(self, graph: GraphRecord, beams: int) -> OrtGraph:
        session = self._sessions.open(graph, beams if graph.role == "step" else 1)
        return OrtGraph(self._sessions.folder / graph.file, graph, session, self.device)

    def stoppable(self) -> tuple[OrtBackend, Callable[[], None]]:
        """See `protocol.Backend.stoppable`. The runtime looks between two nodes of a graph, so that
        a stop takes as long as the largest of them."""
        backend = copy.copy(self)
        backend._options = options = _run_options()
        return backend, partial(setattr, options, "terminate", True)

    def serially(self, call: Callable[[], T]) -> T:
        return call() if self._serial is None else self._serial(call)

    def host(self, value: Value) -> NDArray[Any]:
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, OrtBuffer):
            if value.array is not None:
                return value.array
            assert value.view is None, "a view of a buffer stays on the GPU"
            value = value.value
        with GPU_LOCK.shared() if self.device.is_gpu else nullcontext():
            return np.asarray(value.numpy())

    def put(self, buffer: OrtBuffer, array: NDArray[Any]) -> None:
        if buffer.array is not None:
            buffer.array[...] = array
            return
        assert buffer.view is None, "a view of a buffer stays on the GPU"
        with GPU_LOCK.shared():
            buffer.value.update_inplace(np.ascontiguousarray(array))

    def buffer(self, shape: Sequence[int], dtype: Any, old: OrtBuffer | None = None) -> OrtBuffer:
        if self.device.is_gpu:
            return self._gpu_buffer(shape, dtype, old)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        # Pages that are never written take up no memory: a cache costs what its rows use.
        fits = old is not None and old.memory is not None and old.memory.nbytes >= size
        memory = old.memory if old and fits else np.zeros(size, np.uint8)
        assert memory is not None
        return OrtBuffer(memory, memory[:size].view(dtype).reshape(shape))

    def parts(self, buffer: OrtBuffer) -> list[OrtBuffer]:
        assert buffer.array is not None, "a buffer on a GPU has no parts"
        return [OrtBuffer(part.reshape(-1).view(np.uint8), part) for part in buffer.array]

    def _gpu_buffer(self, shape: Sequence[int], dtype: Any, old: OrtBuffer | None) -> OrtBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if old and old.value.tensor_size_in_bytes() >= size:
            return OrtBuffer(None, None, old.value, (shape, dtype))
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        with GPU_LOCK.shared():
            try:
                value = make(list(shape), dtype, "cuda", self.device.index)
            except Exception as error:  # as above: no common base
                if not from_runtime(error):
                    raise
                raise OutOfMemory(
                    f"{self.device} has no memory left for {tuple(shape)} of {np.dtype(dtype)}",
                    "a smaller --batch-tokens or --max-new-tokens needs less",
                ) from error
            # Fresh memory may hold NaN, which masking with zero weights would not remove.
            value.update_inplace(np.zeros(shape, dtype))
        return OrtBuffer(None, None, value)


def _run_options(capture: int = -1) -> Any:
    options = runtime().RunOptions()
    # Also on a CPU, where it means nothing: each bound run asks for it, and what the runtime raises
    # and catches where it is not set takes 50 microseconds.
    options.add_run_config_entry("gpu_graph_id", str(capture))
    return options


def _cache_bytes(device: Device, gpu_memory: int) -> int:
    if not device.is_gpu:
        return _CPU_CACHE_BYTES
    share = cuda.look().gpus[device.index].memory // _GPU_CACHE_SHARE
    return min(share, gpu_memory or share) // _GPU_CACHES
