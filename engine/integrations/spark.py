"""Spark: a bundle as the function of `mapInArrow`.

    answer = mapper("/models/minilm", text="body")
    df.mapInArrow(answer, schema(df, "/models/minilm", text="body"))

A Python worker loads a bundle once and keeps it for the tasks that follow
(`spark.python.worker.reuse`). Spark promises no order of rows: keep a column that names them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

import engine
from engine.bundle import format as bundle_format
from engine.core.settings import check_whole
from engine.errors import BundleError, MissingDependency
from engine.integrations import mapped_rows
from engine.integrations.mapped_rows import MapArguments, MapSettings, whole
from engine.pipeline import MAX_WORKERS

ROWS = 4096
"""Rows that are answered together, as in a window of a run."""
FEWEST_ROWS = 1024
BYTES = 32 << 20
"""Bytes of input at which rows are answered together, however few they are."""
# Loaded bundles that a Python worker keeps.
_MOST_LOADED = 2
_LOADED: dict[tuple[str, str, int, int], engine.Bundle] = {}
"""By the hash of the bundle, device, threads and limit of GPU memory."""


def mapper(
    bundle: Path | str,
    *,
    device: str = "",
    threads: int = 0,
    gpu_memory: int = 0,
    batch_rows: int = ROWS,
    batch_bytes: int = BYTES,
    **arguments: Unpack[MapArguments],
) -> Mapper:
    """A function for `DataFrame.mapInArrow`; `schema` with the same arguments has its schema.

    Every row comes back: kept columns (by default all), results, and `reject`, which says why a
    row was not answered.

    Args:
        bundle: The bundle's folder at a path that every executor has; or its name below the folder
            of `SparkFiles`, where `addArchive("minilm.tar.gz#minilm")` puts it.
        device: auto, cpu, cuda or cuda:N; by default the GPU that Spark gave the task, or the CPU.
        threads: By default `spark.task.cpus`.
        gpu_memory: As for `Bundle.load`.
        batch_rows: Rows that are answered together, at least 1,024. Smaller batches are joined.
        batch_bytes: Bytes of input at which fewer rows are answered together.
        arguments: As `MapSettings` has them, and the options of the bundle's task.

    Raises:
        SettingsError: A setting is malformed or out of range.
        BundleError: The driver has a folder there that is no bundle.
    """
    check_whole("threads", threads, 0)
    check_whole("gpu_memory", gpu_memory, 0)
    check_whole("batch_rows", batch_rows, FEWEST_ROWS)
    check_whole("batch_bytes", batch_bytes, 1)
    settings = MapSettings.of(arguments)
    fingerprint = bundle_format.load(bundle).fingerprint if Path(bundle).exists() else ""
    return Mapper(
        str(bundle), fingerprint, settings, (device, threads, gpu_memory), batch_rows, batch_bytes
    )


def schema(df: Any, bundle: Path | str, **arguments: Unpack[MapArguments]) -> Any:
    """The schema of what a mapper with these arguments makes of a data frame, as a `StructType`.

    Raises:
        MissingDependency: PySpark is not installed.
        BundleError: The driver finds no bundle there.
        SettingsError, ColumnError: An option or a column is unknown, or two have one name.
    """
    types = _pyspark("pyspark.sql.types")
    given = _pyspark("pyspark.sql.pandas.types").to_arrow_schema(df.schema)
    joined = mapped_rows.schema(_folder(str(bundle)), given, MapSettings.of(arguments))
    own = {field.name: field for field in df.schema.fields}
    return types.StructType([own.get(field.name) or _spark_field(field) for field in joined])


class Mapper:
    """What `mapper` returns. It travels to the workers as its settings."""

    def __init__(
        self,
        bundle: str,
        fingerprint: str,
        settings: MapSettings,
        loading: tuple[str, int, int],
        rows: int,
        size: int,
    ) -> None:
        self._bundle, self._fingerprint, self._settings = bundle, fingerprint, settings
        self._loading, self._rows, self._size = loading, rows, size

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows of a partition with their answers, in their order."""
        bundle = _loaded(_folder(self._bundle), self._fingerprint, *self._loading)
        given: deque[pa.Table] = deque()

        def tables() -> Iterator[pa.Table]:
            for table in rebatched(batches, self._rows, self._size):
                given.append(table)
                yield table

        for answered in bundle.stream(tables(), **self._settings.answering):
            table = whole(given.popleft(), answered, self._settings)
            yield from _in_types_of_spark(table).combine_chunks().to_batches()


def rebatched(batches: Iterator[pa.RecordBatch], rows: int, size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows, the last of fewer; of fewer, too, where they have
    more than `size` bytes."""
    waiting: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while len(waiting) >= rows or waiting.nbytes >= size:
            within = max(1, size * len(waiting) // max(1, waiting.nbytes))
            count = min(rows, within)
            yield waiting.slice(0, count)
            waiting = waiting.slice(count)
    if waiting is not None and len(waiting):
        yield waiting


def _loaded(
    folder: Path, fingerprint: str, device: str, threads: int, gpu_memory: int
) -> engine.Bundle:
    """The bundle, loaded where this worker does not have it yet.

    Args:
        fingerprint: Of the driver's bundle, which must be this one; "" where the driver has none.
    """
    here = bundle_format.load(folder).fingerprint
    if fingerprint and here != fingerprint:
        raise BundleError(
            f"{folder}: another bundle than the driver's",
            "copy the bundle again, so that every executor has the driver's",
        )
    device, threads = device or _device(), threads or _cpus()
    key = (here, device, threads, gpu_memory)
    if key not in _LOADED:
        while len(_LOADED) >= _MOST_LOADED:
            del _LOADED[next(iter(_LOADED))]
        _LOADED[key] = engine.Bundle.load(
            folder,
            device=device,
            threads=threads,
            workers=min(MAX_WORKERS, threads) if device == "cpu" else 0,
            gpu_memory=gpu_memory,
        )
    return _LOADED[key]


def _folder(bundle: str) -> Path:
    """Where a bundle is on this machine.

    Raises:
        BundleError: Nowhere.
    """
    if Path(bundle).exists():
        return Path(bundle)
    if not os.path.isabs(bundle):
        there = Path(_pyspark("pyspark").SparkFiles.get(bundle))
        if there.exists():
            return there
    mapped_rows.check_there(
        bundle,
        "copy it to a path that every executor has, or send it along: "
        'spark.addArchive("minilm.tar.gz#minilm") and mapper("minilm")',
    )
    return Path(bundle)


def _cpus() -> int:
    """The CPUs of this task; 1 outside of one."""
    context = _pyspark("pyspark").TaskContext.get()
    return max(1, context.cpus()) if context else 1


def _device() -> str:
    """The first GPU that Spark gave this task, or the CPU."""
    context = _pyspark("pyspark").TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    return f"cuda:{gpu.addresses[0]}" if gpu and gpu.addresses else "cpu"


def _spark_field(field: pa.Field) -> Any:
    """A result column's type in Spark; every one may be null."""
    to_spark = _pyspark("pyspark.sql.pandas.types").from_arrow_type
    kind = to_spark(_type_of_spark(field.type))
    return _pyspark("pyspark.sql.types").StructField(field.name, kind, nullable=True)


def _in_types_of_spark(table: pa.Table) -> pa.Table:
    """The table in types that Spark takes from Arrow."""
    wanted = pa.schema([field.with_type(_type_of_spark(field.type)) for field in table.schema])
    return table if wanted.equals(table.schema) else table.cast(wanted)


def _type_of_spark(kind: pa.DataType) -> pa.DataType:
    """The nearest type that Spark takes from Arrow and that holds every value."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_type_of_spark(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_type_of_spark(field.type)) for field in kind])
    return _TYPES.get(kind, kind)


_TYPES = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.large_binary(): pa.binary(),
}


def _pyspark(module: str) -> Any:
    """PySpark or a module of it.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyspark":
            raise
        raise MissingDependency(
            "PySpark is not installed", 'pip install "corpus-engine[cpu,spark]"'
        ) from error
