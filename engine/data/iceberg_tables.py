"""Iceberg tables: the data files of the current snapshot, by the package `pyiceberg`.

A file is read as Parquet, by the names of its columns. So a table is refused where names alone do
not say what is what: Iceberg knows columns by number, and old files keep old names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from engine.core.local_file import opened
from engine.data.data_files import DataFile
from engine.errors import InputError

_VERSION = re.compile(r"v?(\d+)(?:-[^/]*)?(?:\.gz)?\.metadata\.json(?:\.gz)?")
_REWRITE = "rewrite its data files, such as with Spark's rewrite_data_files"


def data_files(folder: Path) -> list[DataFile]:
    """The files of a table's current snapshot.

    Raises:
        ImportError: pyiceberg is not installed.
        InputError: The files as they lie are not the table's rows; without the folder's name.
    """
    from pyiceberg.table import StaticTable

    table = StaticTable.from_metadata(str(current_metadata(folder)))
    files = []
    for task in table.scan().plan_files():
        if task.delete_files:
            raise InputError("an Iceberg table with deletes that its data files have not", _REWRITE)
        if str(getattr(task.file.file_format, "value", task.file.file_format)) != "PARQUET":
            raise InputError("an Iceberg table with files of ORC or Avro", _REWRITE)
        path = _local(str(task.file.file_path), folder)
        by = {f.source_id for f in table.spec().fields if str(f.transform) == "identity"}
        _check_columns(path, table.schema(), by)
        files.append(DataFile(path))
    return files


def current_metadata(folder: Path) -> Path:
    """The file of the table's current version: the one that version-hint.text names, or else the
    one with the highest number."""
    versions: dict[int, list[Path]] = {}
    for path in (folder / "metadata").iterdir():
        if match := _VERSION.fullmatch(path.name):
            versions.setdefault(int(match.group(1)), []).append(path)
    hint = folder / "metadata" / "version-hint.text"
    text = hint.read_text().strip() if hint.is_file() else ""
    number = int(text) if text.isdigit() and int(text) in versions else max(versions)
    if len(versions[number]) > 1:
        raise InputError(
            f"an Iceberg table with {len(versions[number])} metadata files of version {number}",
            "remove those that its catalog does not name",
        )
    return versions[number][0]


def is_table(folder: Path) -> bool:
    """Whether a folder has Iceberg's metadata."""
    metadata = folder / "metadata"
    return metadata.is_dir() and any(_VERSION.fullmatch(path.name) for path in metadata.iterdir())


def _local(uri: str, folder: Path) -> Path:
    parsed = urlparse(uri)
    path = Path(unquote(parsed.path) if parsed.scheme == "file" else uri)
    for base in (folder, folder.resolve()):  # its metadata knows nothing of links
        if parsed.scheme in ("", "file") and path.is_relative_to(base):
            return folder / path.relative_to(base)
    raise InputError(
        "an Iceberg table with files outside of its folder",
        "its metadata has absolute paths: read it where it was written",
    )


def _check_columns(path: Path, schema: Any, partition: set[int]) -> None:
    """Raise InputError unless the columns of a file are the table's, by number and name; those that
    were added later may be missing, but for those of the partition."""
    import pyarrow.parquet as pq

    fields = {field.field_id: field for field in schema.fields}
    numbers = set()
    for column in pq.read_schema(opened(path)):
        number = int((column.metadata or {}).get(b"PARQUET:field_id", b"-1"))
        numbers.add(number)
        if number < 0:
            raise InputError("an Iceberg table whose files do not number their columns", _REWRITE)
        if number not in fields or fields[number].name != column.name:
            raise InputError(
                f"an Iceberg table whose column {column.name!r} was renamed or dropped after "
                f"{path.name} was written",
                _REWRITE,
            )
        _check_nested(path, column.type, fields[number].field_type)
    for number, field in fields.items():
        has_value = number in partition or getattr(field, "initial_default", None) is not None
        if number not in numbers and has_value:
            raise InputError(
                f"an Iceberg table whose column {field.name!r} has values that are not in "
                f"{path.name}",
                _REWRITE,
            )


def _check_nested(path: Path, kind: Any, expected: Any) -> None:
    """Raise InputError unless the fields within a column have the names of the table's, in their
    order."""
    names = re.findall(r"(?:struct<|, )(\w+): ", str(kind))
    wanted = re.findall(r"\d+: (\w+): ", str(expected))
    if "struct" in str(kind) and names != wanted:
        raise InputError(
            f"an Iceberg table whose nested fields were changed after {path.name} was written",
            _REWRITE,
        )
