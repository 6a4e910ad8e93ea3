"""A graph of a bundle, opened by ONNX Runtime on one device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.confined_process import RefusedError
from engine.core.device import Device
from engine.core.graphs import GraphRecord
from engine.errors import BackendError
from engine.runtime.device import (
    PROVIDERS,
    captured_stderr,
    check_nodes,
    check_provider,
    from_runtime,
    runtime,
    start_failure,
)
from engine.runtime.gpu_serialization import GPU_LOCK
from engine.runtime.shared_sources import with_beams

# The first turns a Gather of positions into a Slice, whose ends the host waits for; the second
# makes a Gemm, for which the bias is written out for every row first and read back: on an H200 that
# took a quarter of BERT-base's time.
_GPU_DISABLED_FUSIONS = ("GatherToSliceFusion", "MatMulAddFusion")
# The first takes ten times as long as a sum and LayerNormalization, which sums with vectors; the
# second has no AVX-512 kernel, and Gelu has one: a sum and Gelu take three quarters of its time.
_CPU_DISABLED_FUSIONS = ("SkipLayerNormFusion", "BiasGeluFusion")


@dataclass(frozen=True)
class SessionFactory:
    """Opens graphs, all in the same way.

    Attributes:
        folder: The bundle.
        device, threads, profiles, gpu_memory: As `backend.OrtBackend` takes them.
    """

    folder: Path
    device: Device
    threads: int
    profiles: Path | None
    gpu_memory: int

    def open(self, graph: GraphRecord, beams: int = 1) -> Any:
        """A session of a graph; of a decode step, for so many beams (`shared_sources.with_beams`).

        Raises:
            DeviceError: The device is not what would run.
            BackendError: The runtime refuses the graph.
        """
        ort, file = runtime(), self.folder / graph.file
        options = self._options(file)
        log: list[str] = []
        try:
            with self._logged(log):
                # Its own fallback to the CPU prints, and would be refused below anyway.
                session = ort.InferenceSession(
                    self._content(file, beams),
                    options,
                    providers=self._providers(graph),
                    enable_fallback=False,
                    disabled_optimizers=list(
                        _GPU_DISABLED_FUSIONS if self.device.is_gpu else _CPU_DISABLED_FUSIONS
                    ),
                )
        except Exception as error:  # the runtime's exceptions share no base but Exception
            if not from_runtime(error):
                raise
            raise start_failure(self.device, error) or BackendError(
                f"{file}: ONNX Runtime {ort.__version__} refuses the graph: {first_line(error)}",
                "export the model again with this installation",
            ) from error
        check_provider(self.device, session, log)
        check_nodes(file, self.device, session)
        return session

    def _content(self, file: Path, beams: int) -> str | bytes:
        """The graph's file, or what it becomes for several beams."""
        try:
            return (with_beams(file.read_bytes(), beams) if beams > 1 else None) or str(file)
        except RefusedError as error:
            raise BackendError(f"{file}: {error}", "export the model again") from error

    def _options(self, file: Path) -> Any:
        options = runtime().SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # A provider that does not load says so in the log, as an error, and nowhere else.
        options.log_severity_level = 3 if self.device.is_gpu else 4
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # Where weights are if the graph comes as bytes.
        folder = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(folder, str(self.folder))
        if self.profiles:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.profiles / file.stem)
        return options

    @contextmanager
    def _logged(self, log: list[str]) -> Iterator[None]:
        """Around the creation of a session; on a GPU it adds what the runtime logs to `log`."""
        if not self.device.is_gpu:
            yield
            return
        with captured_stderr(log), GPU_LOCK.shared():
            yield

    def _providers(self, graph: GraphRecord) -> list[Any]:
        if not self.device.is_gpu:
            return [PROVIDERS["cpu"]]
        options = {
            "device_id": str(self.device.index),
            # Grow by what is needed, not by powers of two.
            "arena_extend_strategy": "kSameAsRequested",
            # One stream: batches that are computed at once finish at about the same time, and the
            # GPU then waits for the host. On an H200 MiniLM took a fifth longer.
            "use_ep_level_unified_stream": "1",
            # float32 stays float32 where TF32 would not hold the numbers.
            "use_tf32": "1" if graph.tf32 else "0",
            # A norm's mean is summed in float32, for float16, too.
            "enable_skip_layer_norm_strict_mode": "1",
        }
        if self.gpu_memory:
            options["gpu_mem_limit"] = str(self.gpu_memory)
        if graph.captured:
            options["enable_cuda_graph"] = "1"
        return [(PROVIDERS["cuda"], options), PROVIDERS["cpu"]]


def first_line(error: Exception) -> str:
    """What the runtime says, without its traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
