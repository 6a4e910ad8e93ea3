"""Folders that are Delta or Iceberg tables.

The log of such a table says which of its files have rows: others are of old versions, or were never
committed. So its files are read only as the table's own library lists them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from engine.data import delta_tables, iceberg_tables
from engine.data.data_files import DataFile
from engine.errors import InputError, MissingDependency
from engine.library_errors import reason_of

NOT_LISTED = "files that a table does not list"
_INSTALL = 'pip install "corpus-engine[tables]"'


@dataclass(frozen=True)
class TableFormat:
    """A format of tables.

    Attributes:
        name: In messages.
        package: The library that reads its log.
        is_table: Whether a folder is one.
        data_files: What the library lists.
    """

    name: str
    package: str
    is_table: Callable[[Path], bool]
    data_files: Callable[[Path], list[DataFile]]


FORMATS = (
    TableFormat(
        "Delta", "deltalake", lambda f: (f / "_delta_log").is_dir(), delta_tables.data_files
    ),
    TableFormat("Iceberg", "pyiceberg", iceberg_tables.is_table, iceberg_tables.data_files),
)


def format_of(folder: Path) -> TableFormat | None:
    """The format of the table that a folder is; None where it is none."""
    return next((one for one in FORMATS if one.is_table(folder)), None)


def data_files(folder: Path, table: TableFormat) -> list[DataFile]:
    """The files with a table's rows.

    Raises:
        InputError: The table is damaged, or its files as they lie are not its rows.
        MissingDependency: The library that reads its log is not installed.
    """
    absolute = Path(os.path.abspath(folder))
    try:
        files = table.data_files(absolute)
    except ImportError as error:
        raise MissingDependency(
            f"{folder}: {table.name} tables are read by {table.package}, which is not installed",
            _INSTALL,
        ) from error
    except InputError as error:
        raise InputError(f"{folder}: {error.message}", error.hint) from error
    except Exception as error:  # the libraries have no common ancestor of their errors
        reason = reason_of(error)
        raise InputError(
            f"{folder}: cannot be read as a {table.name} table: {reason}", "repair the table"
        ) from error
    for file in files:
        if file.path.suffix != ".parquet":
            raise InputError(
                f"{folder}: {file.path.name} is not called .parquet", "rewrite the table"
            )
        if not file.path.is_file():
            raise InputError(
                f"{folder}: {file.path.name} is missing, which the table lists", "repair the table"
            )
    return files


class Tables:
    """The tables among the inputs of a run."""

    def __init__(self) -> None:
        self._constants: dict[Path, tuple[tuple[str, pa.Scalar], ...]] = {}
        self._folders: dict[Path, list[Path]] = {}
        self._outside: set[Path] = set()

    @property
    def were_found(self) -> bool:
        """Whether there are any."""
        return bool(self._folders)

    def below(self, folder: Path) -> list[Path] | None:
        """The files of a table and, behind them, others of its folder; None for another folder.

        Raises:
            InputError, MissingDependency: As `data_files`.
        """
        if folder in self._folders:
            return self._folders[folder]
        table = format_of(folder)
        if table is None:
            return None
        absolute = Path(os.path.abspath(folder))
        files = data_files(folder, table)
        self._constants |= {file.path: file.constants for file in files}
        listed = [folder / file.path.relative_to(absolute) for file in files]
        others = set(folder.rglob("*.parquet")) - set(listed)
        self._folders[folder] = [*listed, *sorted(others)]
        return self._folders[folder]

    def is_listed(self, path: Path) -> bool:
        """Whether a file is one of its table's, or in no table."""
        if not self._folders:
            return True
        absolute = Path(os.path.abspath(path))
        return absolute in self._constants or not any(
            path.is_relative_to(folder) for folder in self._folders
        )

    def lists(self, path: Path) -> bool:
        """Whether a table lists a file, by its absolute path."""
        return path in self._constants

    def constants(self, path: Path) -> tuple[tuple[str, pa.Scalar], ...]:
        """`DataFile.constants` of an absolute path."""
        return self._constants.get(path, ())

    def check_outside(self, path: Path) -> None:
        """Raise InputError for a path within a table, whose log says what has rows."""
        for folder in Path(os.path.abspath(path)).parents:
            if folder in self._outside:
                return
            if table := format_of(folder):
                raise InputError(
                    f"{path}: lies in a table of {table.name}, whose log says what has rows",
                    f"name the folder of the table: {folder}",
                )
            self._outside.add(folder)
