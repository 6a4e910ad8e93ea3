"""What lies below a folder of a corpus, as paths in text, and why something of it is not read.

A folder may have a million files. Each is listed once, and one whose name says all, in a folder
that says nothing more of it, is not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.activity import proceed
from engine.core.types import InputPath
from engine.data import dataset_folders
from engine.data.kinds import kind_of, kind_of_name
from engine.data.lake_tables import NOT_LISTED, Tables
from engine.data.outputs import RUN, is_single

OUTPUT = "outputs of other runs"
_OF_TABLES = {"_delta_log", "metadata"}
_BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that tools write beside a corpus, in lower case; they are read where they are named."""
_PAPER = re.compile(
    r"(readme|licen[sc]e|copying|notice|changelog|citation|requirements|(md5|sha\d+)sums?)\b.*\.txt$",
    re.I,
)
"""Names of texts about a corpus."""
_DOUBTFUL = (".json", ".txt")
"""Endings of files that are looked at before they are read."""


@dataclass(frozen=True)
class Search:
    """What is looked for in folders.

    Attributes:
        input_format: The kind of files whose ending is unknown.
        tables: The tables that were found.
        looked_at: The paths that were looked at: every other is that of a regular file.
    """

    input_format: str
    tables: Tables
    looked_at: set[str] = field(default_factory=set)

    def why_unread(self, path: Path | str) -> tuple[str, str]:
        """A path and why it is not read: its ending, or what it is; "" where it is read."""
        text = str(path)
        self.looked_at.add(text)
        return text, _why_unread(Path(path), self.input_format, self.tables)

    def below(self, folder: Path) -> Iterator[tuple[str, str]]:
        """What lies below a folder, but for hidden names, and why it is not read; a link to a
        folder and the output of a run as a path of their own, and of a table its files. Where the
        folder is an output itself, its rejects are left out."""
        skipped = {folder / "rejects"} if (folder / RUN).is_file() else set()
        waiting = [str(folder)]
        while waiting:
            proceed()
            parent = waiting.pop()
            folders, files = _names(parent)
            here = Path(parent)
            if (
                not _OF_TABLES.isdisjoint(folders)
                and (table := self.tables.below(here)) is not None
            ):
                yield from map(self.why_unread, table)
                continue
            splits = None
            if not _BESIDE.isdisjoint(files):
                dataset_folders.check(here)
                splits = dataset_folders.splits(here)
            paths = (here / name for name in folders if name[0] not in "._")
            visible = [path for path in paths if path not in skipped]
            unlisted = [path for path in visible if path.name not in (splits or [path.name])]
            rest = [path for path in visible if path not in unlisted]
            closed = [path for path in rest if path.is_symlink() or (path / RUN).is_file()]
            waiting += [str(path) for path in reversed(rest) if path not in closed]
            yield from map(self.why_unread, [*unlisted, *closed])
            yield from self._files(parent, folders, files)

    def _files(
        self, parent: str, folders: Iterable[str], files: dict[str, bool]
    ) -> Iterator[tuple[str, str]]:
        """The files of a folder."""
        outputs = {name for name in folders if name.endswith(".run")}
        plain = not self.tables.were_found and _BESIDE.isdisjoint(files)
        start = parent if parent.endswith("/") else f"{parent}/"
        for name, is_regular in files.items():
            if name[0] in "._":
                continue
            sure = plain and is_regular and f".{name}.run" not in outputs
            if sure and kind_of_name(name) and not name.lower().endswith(_DOUBTFUL):
                yield start + name, ""
            else:
                yield self.why_unread(start + name)


def _names(folder: str) -> tuple[list[str], dict[str, bool]]:
    """Names of the folders in a folder, links to some among them, and of all else, with whether it
    is a regular file and no link; none where it cannot be listed."""
    folders: list[str] = []
    files: dict[str, bool] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    files[entry.name] = entry.is_file(follow_symlinks=False)
    except OSError:
        return [], {}
    return folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _why_closed(folder: Path) -> str:
    if not folder.is_dir():
        return OUTPUT
    if folder.name not in (dataset_folders.splits(folder.parent) or [folder.name]):
        return "folders that a dataset does not list"
    return "links to folders" if folder.is_symlink() else OUTPUT


def _why_unread(path: Path, input_format: str, tables: Tables) -> str:
    """Why a path is not read: its ending, or what it is; "" where it is read."""
    if path.is_dir() or is_single(path):
        return _why_closed(path)
    if not path.is_file():
        return "links to nothing" if path.is_symlink() else "special files"
    if not tables.is_listed(path):
        return NOT_LISTED
    if kind_of(path) and not dataset_folders.is_listed(path) and path.suffix.lower() != ".json":
        return dataset_folders.NOT_LISTED
    return why_name(path, input_format)


def why_name(path: InputPath, input_format: str) -> str:
    """Why a file of a folder is not read, by its name and how a .json file begins; or ""."""
    ending = path.suffix.lower()
    if (
        path.name.lower() in _BESIDE
        or _PAPER.match(path.name)
        or (ending == ".json" and not _has_rows(path))
    ):
        return ending
    is_format = bool(input_format) and path.name[0] not in "._"
    return "" if kind_of(path) or is_format else ending or "names without an ending"


def _has_rows(path: InputPath) -> bool:
    """Whether a file called .json begins as an array or an object does."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b")) or b"\0" in head[:4]:
        return True  # UTF-16 or gzip, which the reader gives advice on
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{", b"")
