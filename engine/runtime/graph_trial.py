"""Opens a graph as a run does on a CPU; for `core.confined_process`."""

from __future__ import annotations

from pathlib import Path

from engine.core.confined_process import RefusedError
from engine.runtime.device import PROVIDERS, runtime
from engine.runtime.graph_scan import check


def prepare() -> None:
    """Load the runtime."""
    runtime()


def attempt(file: str, names: list[str], opens: bool) -> None:
    """Look through a graph, and have the runtime open it.

    Args:
        names: Files that may hold its weights.
        opens: Whether it is one for a CPU.

    Raises:
        RefusedError: Why it cannot be used.
    """
    check(Path(file), frozenset(names))
    if not opens:
        return
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        ort.InferenceSession(file, options, providers=[PROVIDERS["cpu"]], enable_fallback=False)
    except Exception as error:
        raise RefusedError(f"ONNX Runtime {ort.__version__} refuses the graph: {error}") from error
