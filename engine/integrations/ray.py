"""Ray: a bundle as the actor class of `map_batches`, and a run whose shares are Ray tasks.

    ds = ds.repartition(target_num_rows_per_block=1024)  # a block is answered by one actor
    ds.map_batches(EngineMapper, fn_constructor_kwargs={"bundle": "/models/minilm"},
                   batch_format="pyarrow", batch_size=1024, num_cpus=2,
                   compute=ray.data.ActorPoolStrategy(size=4))

    run("/models/minilm", ["/corpus"], "/out", text=["text"], keep=["id"], num_cpus=2)

`EngineMapper` answers tables that Ray Data has read. `run` has the engine read, answer and commit:
its output is that of `engine.run`, and what an actor or a node that is lost costs is a window.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Unpack

import pyarrow as pa

import engine
from engine.core.settings import check_whole
from engine.errors import SettingsError
from engine.integrations.mapped_rows import MapArguments, MapSettings, check_there, whole
from engine.integrations.ray_cluster import assigned
from engine.integrations.ray_shares import Output, run
from engine.pipeline import MAX_WORKERS

__all__ = ["EngineMapper", "Output", "run"]

FEW_ROWS = 100
"""Below so many rows in a call padding and the call itself cost noticeably."""
CALLS = 3
"""So many calls say whether they are small."""


class EngineMapper:
    """A bundle that answers the tables of Ray Data, an actor each.

    It takes the CPUs of its actor as threads and runs on a GPU where the actor has one. Every row
    of a table comes back, in order: kept columns, results, and `reject`, which says why a row was
    not answered.

    Args:
        bundle: The bundle's folder, at a path that every node has.
        device: auto, cpu, cuda or cuda:N; by default that of the actor.
        threads: By default the actor's CPUs.
        gpu_memory: As for `Bundle.load`.
        arguments: As `MapSettings` has them, and the options of the bundle's task.

    Raises:
        MissingDependency: Ray is not installed.
        SettingsError, ColumnError, BundleError, DeviceError: As `Bundle.load` and `Bundle.answer`.
        InputError: on_error is "fail", and a row is bad.
    """

    def __init__(
        self,
        bundle: Path | str,
        *,
        device: str = "",
        threads: int = 0,
        gpu_memory: int = 0,
        **arguments: Unpack[MapArguments],
    ) -> None:
        self._settings = MapSettings.of(arguments)
        cpus, has_gpu = assigned()
        check_there(bundle, "copy it there, or name a folder that every node has at this path")
        device = device or ("cuda" if has_gpu else "cpu" if cpus else "auto")
        check_whole("threads", threads, 0)
        threads = threads or cpus
        self._bundle = engine.Bundle.load(
            bundle,
            device=device,
            threads=threads,
            workers=min(MAX_WORKERS, threads) if device == "cpu" else 0,
            gpu_memory=gpu_memory,
        )
        self._calls, self._rows, self._has_warned = 0, 0, False

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The table's rows with their answers."""
        if not isinstance(batch, pa.Table):
            raise SettingsError(
                f"EngineMapper was given a {type(batch).__name__}, not an Arrow table",
                'map_batches(EngineMapper, batch_format="pyarrow", ...)',
            )
        self._warn_of_few(len(batch))
        answered = self._bundle.answer(batch, **self._settings.answering)
        return whole(batch, answered, self._settings)

    def _warn_of_few(self, rows: int) -> None:
        """Say once that calls have few rows; the last block of a file may."""
        self._calls, self._rows = self._calls + 1, self._rows + rows
        mean = self._rows // self._calls
        if self._calls < CALLS or mean >= FEW_ROWS or self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"EngineMapper answers {mean} rows a call: calls of fewer than {FEW_ROWS} rows cost up "
            "to 1.7 times as much for each row; repartition(target_num_rows_per_block=1024) before "
            "map_batches(..., batch_size=1024) hands over more",
            stacklevel=3,
        )
