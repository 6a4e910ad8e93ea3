"""ONNX Runtime behind the Backend protocol: sessions, bindings and buffers on one device.

Sessions are created from a bundle's graphs and shared by all workers, since `run` may be called
from many threads: weights are held once. What the runtime raises is translated here only.

On a GPU inputs go through page-locked memory, one piece for each thread, and outputs stay where
they are until `host` asks for them; two threads keep two batches in flight, which queue up on one
stream: one is made ready, or read, while the other is computed.

A step that is launched again and again is captured there, whole. ONNX Runtime keeps a capture with
the thread that made it, and another thread's first launch would capture anew: the step is carried
out twice then. And while CUDA captures, no other thread of the process may allocate or copy
(cudaStreamCaptureModeGlobal).
"""

from __future__ import annotations

import itertools
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.device import Device
from engine.core.graphs import GraphRecord, Role
from engine.errors import BackendError, OutOfMemory
from engine.runtime import cuda
from engine.runtime.device import (
    PROVIDERS,
    built_for,
    captured_stderr,
    check_nodes,
    check_provider,
    execution_info,
    from_runtime,
    preload,
    runtime,
    start_failure,
)
from engine.runtime.gpu_serialization import ReadWriteLock, SerialExecutor
from engine.runtime.packing import packing_inputs
from engine.runtime.protocol import T, Value

# How the runtime, CUDA and cuBLAS say that memory is full.
_FULL = re.compile(r"out of memory|failed to allocate memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
_PAGE = 64
# Bytes for the caches of a decoder's call on the CPU; and the part of a GPU's memory for those of
# all calls, of which two may be kept at most: the longest sources and the longest answers.
_ROOM, _PART = 1 << 30, 3
# The first makes a Slice of positions whose ends are computed on the GPU and waited for; the other
# a Gemm, for which a bias is written out for every row first and read back: on an H200 that took a
# quarter of BERT-base's time.
_UNWANTED = ("GatherToSliceFusion", "MatMulAddFusion")
# Of all GPUs of this process: what is done on them, and alone what is captured.
_QUIET = ReadWriteLock()
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OrtGraph:
    """One session."""

    def __init__(self, file: Path, record: GraphRecord, session: Any, device: Device) -> None:
        self._file, self._record, self._session = file, record, session
        self._gpu = device.index if device.is_gpu else None
        self.inputs: tuple[str, ...] = tuple(i.name for i in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in session.get_outputs())
        self.dtypes: dict[str, Any] = {
            v.name: _DTYPES.get(v.type) for v in (*session.get_inputs(), *session.get_outputs())
        }
        self._staged = threading.local()
        self._captures = itertools.count(1)

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        """See `flow.Graph.run`; values stay with the runtime until `host` asks for them.

        Raises:
            OutOfMemory: The batch does not fit.
            BackendError: The runtime failed on this batch.
        """
        ids = feeds.get("input_ids")
        if self._record.packed:
            feeds = {**feeds, **packing_inputs(feeds["attention_mask"])}
        with self._failing(f" at {ids.shape}" if isinstance(ids, np.ndarray) else ""):
            if self._gpu is None:
                return self._here(feeds, fetch)
            with _QUIET.shared():
                return self._there(feeds, fetch)

    def _here(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        held = {name: _value(given) for name, given in feeds.items()}
        values: list[Value] = self._session.run_with_ort_values(list(fetch), held)
        return values

    def _there(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        binding = self._session.io_binding()
        arrays = {name: v for name, v in feeds.items() if isinstance(v, np.ndarray)}
        for name, staged in self._stage(arrays).items():
            binding.bind_cpu_input(name, staged)
        for name in feeds.keys() - arrays.keys():
            self._bind_input(binding, name, feeds[name])
        for name in fetch:
            binding.bind_output(name, "cuda", self._gpu)
        options = runtime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1")
        self._session.run_with_iobinding(binding, options)
        # In the order of binding.
        values: list[Value] = binding.get_outputs()
        return values

    def _stage(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays in page-locked memory of this thread, which is there until its next run."""
        sizes = {name: -(-array.nbytes // _PAGE) * _PAGE for name, array in arrays.items()}
        size = sum(sizes.values())
        memory = getattr(self._staged, "memory", None)
        if memory is None or memory.nbytes < size:
            self._staged.memory = memory = cuda.page_locked(2 * size, built_for())
        staged, at = {}, 0
        for name, array in arrays.items():
            place = memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            place[...] = array
            staged[name], at = place, at + sizes[name]
        return staged

    def bind(
        self, inputs: Mapping[str, Value], outputs: Mapping[str, OrtBuffer]
    ) -> Callable[[], None]:
        """See `flow.Graph.bind`. On a GPU a graph that is to be captured is captured at its
        first call and launched as a whole from then on.

        Raises:
            OutOfMemory: What it reads does not fit; from the call that is returned, too.
            BackendError: The runtime failed; likewise.
        """
        # What is not there yet is copied to the GPU now.
        with self._failing(""), _QUIET.shared() if self._gpu is not None else nullcontext():
            binding = self._session.io_binding()
            for name, given in inputs.items():
                self._bind_input(binding, name, given)
            for name, buffer in outputs.items():
                if buffer.view:
                    binding.bind_output(name, *buffer.address(self._gpu))
                else:
                    binding.bind_ortvalue_output(name, buffer.value)
        if self._gpu is None:
            return _Bound(self, binding, (inputs, outputs))
        captured = self._record.captured
        number = next(self._captures) if captured else -1
        options = runtime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        bound = _Bound(self, binding, (inputs, outputs), options, captured)
        # ONNX Runtime 1.31.1 does nothing then for CUDA: a capture lives as long as its session.
        release = getattr(self._session, "release_captured_graph", None)
        if captured and release:
            weakref.finalize(bound, release, number)
        return bound

    def _bind_input(self, binding: Any, name: str, given: Value) -> None:
        if isinstance(given, OrtBuffer) and given.view:
            binding.bind_input(name, *given.address(self._gpu))
        else:
            binding.bind_ortvalue_input(name, _value(given))

    def launch(self, binding: Any, options: Any) -> None:
        with self._failing(" in a decoder step"):
            self._session.run_with_iobinding(binding, options)

    @contextmanager
    def _failing(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the runtime's exceptions share no base but Exception
            if not from_runtime(error):
                raise
            reason = _first_line(error)
            if isinstance(error, MemoryError) or _FULL.search(str(error)):
                raise OutOfMemory(
                    f"{self._file}: out of memory{where}: {reason}",
                    "a smaller --batch-tokens or a shorter --max-length needs less",
                ) from error
            raise BackendError(
                f"{self._file}: inference failed{where}: {reason}",
                "a smaller --batch-tokens needs less memory; engine doctor checks the installation",
            ) from error

    def profiled(self) -> Path:
        """End this session's profile and name its file."""
        return Path(self._session.end_profiling())

    @property
    def session(self) -> Any:
        return self._session


class _Bound:
    """A call of a graph over fixed buffers, which it holds; `captures` says that the first one is
    captured."""

    def __init__(
        self,
        graph: OrtGraph,
        binding: Any,
        buffers: Sequence[Mapping[str, Value]],
        options: Any = None,
        captures: bool = False,
    ) -> None:
        self._graph, self._binding, self._options = graph, binding, options
        self._buffers = buffers
        self._captures = captures

    def __call__(self) -> None:
        on_gpu = self._options is not None
        around = _QUIET.alone if self._captures else _QUIET.shared if on_gpu else nullcontext
        with around():
            self._graph.launch(self._binding, self._options)
        self._captures = False


class OrtBuffer:
    """Memory that an array on the host and a value of the runtime share; or, on a GPU, the
    runtime's value alone, or its beginning, of a shape and a dtype of its own."""

    def __init__(
        self,
        memory: NDArray[np.uint8] | None,
        array: NDArray[Any] | None,
        value: Any = None,
        view: tuple[Sequence[int], Any] | None = None,
    ) -> None:
        self.memory, self.array, self.view = memory, array, view
        self.value = runtime().OrtValue.ortvalue_from_numpy(array) if value is None else value

    def address(self, gpu: int | None) -> tuple[Any, ...]:
        """A view as a binding takes it."""
        assert self.view
        shape, dtype = self.view
        return "cuda", gpu, dtype, list(shape), self.value.data_ptr()


class OrtBackend:
    """A bundle's graphs on one device; what its methods do, `flow.Backend` says.

    Args:
        folder: The bundle.
        graphs: Those to load, one of each role.
        device: What computes.
        threads: Threads for one batch.
        profiles: Folder for the runtime's own profiles, which slow it down; None for none.
        gpu_memory: Bytes of the GPU that a graph's arena may take up, and all caches of a decoder;
            0 for no limit of arenas, and a third of the GPU for caches.

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
    ) -> None:
        self.device = device
        self._profiles, self._gpu_memory = profiles, gpu_memory
        self.room: int = _room(device, gpu_memory)
        if device.is_gpu:
            preload()
        captured = device.is_gpu and any(graph.captured for graph in graphs)
        self._lane = SerialExecutor() if captured else None
        self._graphs = {graph.role: self._load(folder, graph, threads) for graph in graphs}

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset(self._graphs)

    @property
    def ran(self) -> dict[str, Any]:
        """See `flow.Backend`."""
        sessions = {name: graph.session for name, graph in self._graphs.items()}
        return execution_info(self.device, sessions).to_dict()

    def profiled(self) -> dict[Role, Path]:
        """End profiling: the file of every graph, JSON in the format of Chrome's tracing."""
        return {name: graph.profiled() for name, graph in self._graphs.items()}

    def graph(self, role: Role) -> OrtGraph:
        return self._graphs[role]

    def alone(self, call: Callable[[], T]) -> T:
        return call() if self._lane is None else self._lane(call)

    def host(self, value: Value) -> NDArray[Any]:
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, OrtBuffer):
            if value.array is not None:
                return value.array
            assert value.view is None, "a part of a buffer stays on the GPU"
            value = value.value
        with _QUIET.shared() if self.device.is_gpu else nullcontext():
            return np.asarray(value.numpy())

    def put(self, buffer: OrtBuffer, array: NDArray[Any]) -> None:
        if buffer.array is not None:
            buffer.array[...] = array
            return
        assert buffer.view is None, "a part of a buffer stays on the GPU"
        with _QUIET.shared():
            buffer.value.update_inplace(np.ascontiguousarray(array))

    def buffer(self, shape: Sequence[int], dtype: Any, old: OrtBuffer | None = None) -> OrtBuffer:
        if self.device.is_gpu:
            return self._there(shape, dtype, old)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        # Pages that are never written take up no memory: a cache costs what its rows fill.
        fits = old is not None and old.memory is not None and old.memory.nbytes >= size
        memory = old.memory if old and fits else np.zeros(size, np.uint8)
        assert memory is not None
        return OrtBuffer(memory, memory[:size].view(dtype).reshape(shape))

    def _there(self, shape: Sequence[int], dtype: Any, old: OrtBuffer | None) -> OrtBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if old and old.value.tensor_size_in_bytes() >= size:
            return OrtBuffer(None, None, old.value, (shape, dtype))
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        with _QUIET.shared():
            try:
                value = make(list(shape), dtype, "cuda", self.device.index)
            except Exception as error:  # as above: no common base
                if not from_runtime(error):
                    raise
                raise OutOfMemory(
                    f"{self.device} has no memory left for {tuple(shape)} of {np.dtype(dtype)}",
                    "a smaller --batch-tokens or --max-new-tokens needs less",
                ) from error
            # What lies there is anybody's, NaN among it, which no mask of zeros would keep out.
            value.update_inplace(np.zeros(shape, dtype))
        return OrtBuffer(None, None, value)

    def first(self, buffer: OrtBuffer, rows: int) -> OrtBuffer:
        assert buffer.array is not None
        return OrtBuffer(buffer.memory, buffer.array[:rows])

    def _load(self, folder: Path, graph: GraphRecord, threads: int) -> OrtGraph:
        ort, file = runtime(), folder / graph.file
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        on_gpu = self.device.is_gpu
        # A provider that does not load says so in the log, as an error, and nowhere else.
        options.log_severity_level = 3 if on_gpu else 4
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self._profiles:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._profiles / file.stem)
        log: list[str] = []
        try:
            with self._loading(log):
                # Its own way back to the CPU prints, and is refused here all the same.
                session = ort.InferenceSession(
                    str(file),
                    options,
                    providers=self._providers(graph),
                    enable_fallback=False,
                    disabled_optimizers=list(_UNWANTED) if on_gpu else None,
                )
        except Exception as error:  # as above: no common base
            if not from_runtime(error):
                raise
            raise start_failure(self.device, error) or BackendError(
                f"{file}: ONNX Runtime {ort.__version__} refuses the graph: {_first_line(error)}",
                "export the model again with this installation",
            ) from error
        check_provider(self.device, session, log)
        check_nodes(file, self.device, session)
        return OrtGraph(file, graph, session, self.device)

    @contextmanager
    def _loading(self, log: list[str]) -> Iterator[None]:
        if not self.device.is_gpu:
            yield
            return
        with captured_stderr(log), _QUIET.shared():
            yield

    def _providers(self, graph: GraphRecord) -> list[Any]:
        if not self.device.is_gpu:
            return [PROVIDERS["cpu"]]
        options = {
            "device_id": str(self.device.index),
            # Grows by what is needed, not by powers of two.
            "arena_extend_strategy": "kSameAsRequested",
            # Of batches that a GPU computes at once, all are finished at about the same time, and
            # it waits for the host then: on an H200 MiniLM took a fifth longer. They queue up.
            "use_ep_level_unified_stream": "1",
            # float32 is float32, where what is multiplied needs it.
            "use_tf32": "1" if graph.tf32 else "0",
            # And a norm's mean is summed up in it, of float16, too.
            "enable_skip_layer_norm_strict_mode": "1",
        }
        if self._gpu_memory:
            options["gpu_mem_limit"] = str(self._gpu_memory)
        if graph.captured:
            options["enable_cuda_graph"] = "1"
        return [(PROVIDERS["cuda"], options), PROVIDERS["cpu"]]


def _room(device: Device, gpu_memory: int) -> int:
    if not device.is_gpu:
        return _ROOM
    most = cuda.look().gpus[device.index].memory // _PART
    return min(most, gpu_memory or most) // 2


def _value(value: Value) -> Any:
    if isinstance(value, OrtBuffer):
        return value.value
    return runtime().OrtValue.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
