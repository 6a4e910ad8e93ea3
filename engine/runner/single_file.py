"""Names of an output that is one file, `-o out.parquet`, and of the folder of its run.

out.parquet          all answers in input order, written whole at the end
.out.parquet.run/    the run itself: parts, bad rows and records, by which a later start goes on
"""

from __future__ import annotations

from pathlib import Path

from engine.core.config import FORMATS
from engine.errors import SettingsError

ENDINGS = {ending: name for name, ending in FORMATS.items()} | {
    ".pq": "parquet",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".ndjson": "jsonl",
}
_OTHERS = (".json", ".tsv", ".txt", ".gz", ".zst", ".bz2", ".xz", ".zip", ".xlsx", ".orc", ".avro")


def is_file(out: Path | str) -> bool:
    """Whether an output is one file, by its ending; a folder that is there is a folder.

    Raises:
        SettingsError: The ending is of files that are not written.
    """
    path = Path(out)
    if path.is_dir():
        return False
    if path.suffix.lower() in _OTHERS:
        raise SettingsError(
            f"{out}: no file with the ending {path.suffix} is written",
            f"end it in one of {' '.join(ENDINGS)}, or name a folder",
        )
    return path.suffix.lower() in ENDINGS


def folder_of(file: Path | str) -> Path:
    """The folder in which the run of a file works."""
    path = Path(file)
    return path.with_name(f".{path.name}.run")


def file_of(folder: Path) -> Path | None:
    """The file that the run in a folder is for, or None."""
    name = folder.name
    of_file = name.startswith(".") and name.endswith(".run")
    return folder.with_name(name[1 : -len(".run")]) if of_file else None


def run_folder(out: Path | str) -> Path:
    """The folder that has the records of an output, a folder or a file."""
    path = Path(out)
    return folder_of(path) if path.is_file() and folder_of(path).is_dir() else path
