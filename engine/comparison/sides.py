"""One of two outputs that are compared: a run, or files of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine import data
from engine.core.suggestions import did_you_mean
from engine.core.types import CorpusFile
from engine.data import reading
from engine.errors import ColumnError, InputError
from engine.measures.rankings import is_list
from engine.runner import results, starts
from engine.runner.manifest import Manifest
from engine.runner.records import Entry
from engine.runner.single_file import run_folder
from engine.runner.starts import Start

ROWS = 4096
"""Rows of a batch at most."""
KEPT = " (kept)"
"""Ends our name of a kept column that is called as a result is without the run's prefix."""
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Side:
    """An output.

    Attributes:
        path: As it was named.
        schema: Its columns, under the names that they have in its files.
        renames: Our name -> its name, of columns that it has under another.
        manifest: The records of a run, None for other files.
        entries: The records of a run's parts, in input order.
        files: Of what is no run.
    """

    path: str
    schema: pa.Schema
    renames: Mapping[str, str] = field(default_factory=dict)
    manifest: Manifest | None = None
    entries: Sequence[Entry] = ()
    files: Sequence[CorpusFile] = ()

    @property
    def names(self) -> list[str]:
        """Our names of its columns."""
        ours = {its: our for our, its in self.renames.items()}
        return [ours.get(name, name) for name in self.schema.names]

    def batches(self, columns: Sequence[str], entry: Entry | None = None) -> Iterator[pa.Table]:
        """The rows in order, at most `ROWS` at a time, under our names; of one part for `entry`.

        Raises:
            InputError: A file is damaged.
        """
        its = [self.renames.get(name, name) for name in columns]
        for batch in self._read(its, entry):
            for start in range(0, batch.num_rows, ROWS):
                some = batch.slice(start, ROWS)
                arrays = [_plain(some.column(some.schema.get_field_index(name))) for name in its]
                yield pa.table(arrays, names=list(columns))

    def _read(self, names: list[str], entry: Entry | None) -> Iterator[pa.RecordBatch]:
        if self.manifest is None:
            for file in self.files:
                yield from _file_batches(file, names)
            return
        for one in [entry] if entry else self.entries:
            yield from results.columns(self.manifest, one, names)

    def speed(self) -> dict[str, Any]:
        """Rows, bytes and, of a run, seconds and what computed, of its own records."""
        if self.manifest is None:
            return {"bytes": sum(file.path.stat().st_size for file in self.files)}
        run = self.manifest.read_run() or {}
        seconds = sum(entry.seconds for entry in self.entries)
        rows = sum(entry.counts["rows_out"] for entry in self.entries)
        return {
            "bytes": sum(entry.part.bytes for entry in self.entries),
            "rows": rows,
            "rejected": sum(entry.counts["rows_rejected"] for entry in self.entries),
            "tokens": sum(entry.counts["tokens"] for entry in self.entries),
            "worker_seconds": seconds,
            "rows_per_worker_second": rows / seconds if seconds else None,
            **_of_starts(starts.read(self.manifest, str(run.get("fingerprint", ""))), rows),
            "devices": sorted({entry.device for entry in self.entries}),
            "bundle": run.get("bundle"),
        }

    def row_numbers(self, entry: Entry) -> NDArray[np.int64]:
        """The numbers in the input file of a part's answered rows, blank lines not counted."""
        first = entry.input.first_row
        numbers = np.arange(first, first + entry.counts["rows_in"])
        return numbers[~np.isin(numbers, self.rejected(entry))]

    def rejected(self, entry: Entry) -> NDArray[np.int64]:
        """The numbers in the input file of a part's bad rows."""
        if self.manifest is None or entry.rejects is None:
            return np.zeros(0, np.int64)
        path = self.manifest.path(entry.rejects.file)
        return np.fromiter((row["row"] for row in data.read_rejects(path)), np.int64)


def _of_starts(began: Sequence[Start], rows: int) -> dict[str, Any]:
    """The recipe, and CPU time where all rows are of starts that are recorded."""
    if not began:
        return {}
    seconds = sum(start.cpu_seconds for start in began)
    computed = sum(start.counts.get("rows", 0) for start in began)
    figures = {"recipe": began[-1].model.get("recipe")}
    if computed < rows or not seconds:
        return figures
    return {**figures, "cpu_seconds": round(seconds, 3), "rows_per_cpu_second": rows / seconds}


def open_side(path: str | Path, mapping: Mapping[str, str]) -> Side:
    """An output: a folder of a run, a file of one, or Parquet, Arrow, JSON lines or CSV.

    Args:
        path: Where it is.
        mapping: Our names of columns -> another name that they may have.

    Raises:
        InputError: Nothing is there, or it cannot be read.
        OutputError: It is a run that has not finished.
    """
    manifest = results.manifest_of(path) if data.is_url(path) else Manifest(run_folder(path))
    if manifest.read_run() is not None:
        entries = results.answered(manifest)
        if not entries:
            raise InputError(f"{path}: the run has no rows", "compare outputs that have rows")
        first = entries[0]
        schema = data.schema_of(manifest.path(first.part.file), first.table_schema)
        settings = (manifest.read_run() or {}).get("settings", {})
        renames = _of_results(schema, str(settings.get("result_prefix") or ""))
        renames |= _renames(schema, mapping)
        return Side(str(path), schema, renames, manifest, entries)
    files = data.find_files([path])
    schema = _file_schema(files[0])
    return Side(str(path), schema, _renames(schema, mapping), files=files)


def _of_results(schema: pa.Schema, prefix: str) -> dict[str, str]:
    """The names of a run's result columns without their prefix -> with it; a kept column whose name
    is one of these is told apart by `KEPT`."""
    if not prefix:
        return {}
    names = [name for name in schema.names if name.startswith(prefix) and name != prefix]
    ours = {name.removeprefix(prefix): name for name in names}
    return ours | {f"{name}{KEPT}": name for name in schema.names if name in ours}


def _renames(schema: pa.Schema, mapping: Mapping[str, str]) -> dict[str, str]:
    names = set(schema.names)
    return {our: its for our, its in mapping.items() if its in names and our not in names}


def check_mapping(sides: Sequence[Side], mapping: Mapping[str, str]) -> None:
    """Raise ColumnError for a column of the mapping that neither of the outputs has."""
    for our, its in mapping.items():
        if not any(our in side.renames for side in sides):
            raise ColumnError(
                f"--map {our}={its}: neither output has a column {its!r} and lacks {our!r}",
                f"{did_you_mean(its, [n for side in sides for n in side.names])}"
                "engine inspect shows the columns of a part",
            )


def _plain(column: pa.Array) -> pa.Array:
    """A column without a dictionary or a view."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.dictionary_decode()
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return column.cast(pa.list_(kind.value_type.value_type))
    return column


def _file_schema(file: CorpusFile) -> pa.Schema:
    import pyarrow.parquet as pq

    with reading(file.path, file.kind):
        if file.kind == "parquet":
            return pq.read_schema(str(file.path))
        if file.kind == "arrow":
            with pa.memory_map(str(file.path)) as source:
                return pa.ipc.open_file(source).schema
        return _dataset(file).schema


def _dataset(file: CorpusFile) -> Any:
    import pyarrow.csv as pcsv
    import pyarrow.dataset as ds

    kind = file.kind.partition(".")[0]
    if kind not in ("jsonl", "csv", "tsv"):
        raise InputError(
            f"{file.path}: no kind of output that can be compared",
            "give a run's output, or Parquet, Arrow, JSON lines, CSV or TSV",
        )
    form = ds.JsonFileFormat() if kind == "jsonl" else ds.CsvFileFormat(
        pcsv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)
    )  # fmt: skip
    return ds.dataset([str(file.path)], format=form)


def _file_batches(file: CorpusFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    with reading(file.path, file.kind):
        _check(file, names)
        yield from _BATCHES.get(file.kind, _of_text)(file, names)


def _check(file: CorpusFile, names: list[str]) -> None:
    there = _file_schema(file).names
    for name in names:
        if name not in there:
            raise ColumnError(f"{file.path}: no column {name!r}", "give files of one schema")


def _parquet(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    # Without a buffer a row group is read as a whole; and over several of them pyarrow keeps the
    # lists of all that it has read.
    with pq.ParquetFile(path, buffer_size=_BUFFER, page_checksum_verification=True) as parquet:
        for group in range(parquet.num_row_groups):
            yield from parquet.iter_batches(
                ROWS, row_groups=[group], columns=names, use_threads=False
            )


def _of_parquet(file: CorpusFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    yield from _parquet(Path(file.text), names)


def _of_arrow(file: CorpusFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file.path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i).select(names)


def _of_text(file: CorpusFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    scanner = _dataset(file).scanner(
        columns=names, batch_size=ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False
    )
    yield from scanner.to_batches()


_BATCHES: dict[str, Callable[[CorpusFile, list[str]], Iterator[pa.RecordBatch]]] = {
    "parquet": _of_parquet,
    "arrow": _of_arrow,
}


def as_text(column: pa.Array) -> pa.Array:
    """Values as large_string, whole numbers and labels alike."""
    return pc.cast(column, pa.large_string())
