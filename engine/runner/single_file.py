"""Names of an output that is one file, `-o out.parquet`, and of the folder of its run.

out.parquet          all answers in input order, written whole at the end
.out.parquet.run/    the run itself: parts, bad rows and records, by which a later start goes on
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.core.config import FORMATS, check_compression, default_compression
from engine.data import check_local, is_url, store_access
from engine.errors import OtherRunError, SettingsError

ENDINGS = {ending: name for name, ending in FORMATS.items()} | {
    ".pq": "parquet",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".ndjson": "jsonl",
}
FILE_RECORD = "_manifest/file.json"
"""Below the folder of a run: of which parts its file is."""
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


def check_out(out: str, settings: Mapping[str, object]) -> None:
    """Refuse what `check_local` or, of a URL, `store_access.check_output` refuses, and what
    `is_file` and `check_file` do."""
    (store_access.check_output if is_url(out) else check_local)(out)
    check_share(out, settings)
    if is_file(out):
        check_file(Path(out), settings)


def check_share(out: Path | str, settings: Mapping[str, object]) -> None:
    """Raise SettingsError for a share of an output in an object store."""
    if settings.get("share") and is_url(out):
        raise SettingsError(
            f"share is {settings['share']}, and {out} is in an object store, where one run at a "
            "time writes",
            "name a folder of a file system that all shares see, and copy it when they are done",
        )


def check_file(path: Path, settings: Mapping[str, object]) -> tuple[str, str]:
    """The format and the compression of a file.

    Raises:
        SettingsError: The settings have another format, or a compression that it does not have.
        OtherRunError: The file is there, and no run's.
    """
    kind = ENDINGS[path.suffix.lower()]
    wanted, compression = settings.get("format") or kind, str(settings.get("compression") or "")
    if wanted != kind:
        raise SettingsError(
            f"out is {path.name}, and format is {wanted}",
            "leave --format out, or change the ending",
        )
    check_compression(kind, compression)
    if path.exists() and not folder_of(path).is_dir() and not settings.get("overwrite"):
        raise OtherRunError(
            f"{path}: is there already, and no run is known to have written it",
            "choose another file with -o, or replace this one with --overwrite",
        )
    return kind, default_compression(kind, compression)


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
