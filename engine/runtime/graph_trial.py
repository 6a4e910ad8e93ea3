"""Opens a graph as a run does on a CPU; for `core.confined_process`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.core.confined_process import RefusedError, is_full
from engine.runtime.device import PROVIDERS, runtime
from engine.runtime.graph_scan import check

_OF_TOKENS = {"input_ids", "attention_mask", "token_type_ids"}


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
        session = ort.InferenceSession(
            file, options, providers=[PROVIDERS["cpu"]], enable_fallback=False
        )
    except Exception as error:  # the runtime's exceptions share no base but Exception
        raise RefusedError(f"ONNX Runtime {ort.__version__} refuses the graph: {error}") from error
    _run(session)


def _run(session: Any) -> None:
    """Compute a row of four tokens, where a graph takes tokens: it may take memory for other
    things, too. What else fails is not judged, since no model need take this row."""
    inputs = {value.name for value in session.get_inputs()}
    if "input_ids" not in inputs or not inputs <= _OF_TOKENS:
        return
    row = np.ones((1, 4), np.int64)
    feeds = {name: row if name != "token_type_ids" else 0 * row for name in inputs}
    try:
        session.run(None, feeds)
    except Exception as error:  # as above
        if is_full(str(error)):
            raise RefusedError(f"out of memory: {error}") from error
