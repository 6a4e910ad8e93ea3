"""Paths, folders and globs to the files of a corpus."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.core.types import CorpusFile
from engine.data.kinds import ENDINGS, kind_of
from engine.errors import InputError

_KNOWN = f"known endings: {' '.join(ENDINGS)}"


def find_files(inputs: Sequence[str | Path]) -> list[CorpusFile]:
    """The files that paths, folders and globs name: each once, sorted by path.

    A folder stands for every file of a known kind below it, except those whose name, or a folder's
    on the way to them, begins with a dot or an underscore, and those in the output folder of a run.
    A link beside its target counts once.

    Raises:
        InputError: An input is missing, matches nothing, or is of no known kind.
    """
    if not inputs:
        raise InputError("no input was given", "name Parquet, JSONL or Arrow files, or a folder")
    try:
        pairs = {
            Path(os.path.abspath(path)): root for name in inputs for root, path in _match(str(name))
        }
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}", "check the path") from error
    names = _unique_names({path: pairs[path] for path in _without_doubles(sorted(pairs))})
    return [CorpusFile(path, name, str(kind_of(path))) for path, name in names.items()]


def _without_doubles(paths: Sequence[Path]) -> list[Path]:
    """The paths without links to a file that is among them, or that an earlier link leads to."""
    targets = {path for path in paths if not path.is_symlink()}
    singles = []
    for path in paths:
        if path.is_symlink():
            target = Path(os.path.realpath(path))
            if target in targets:
                continue
            targets.add(target)
        singles.append(path)
    return singles


def _unique_names(roots: dict[Path, Path]) -> dict[Path, str]:
    """Each file's path relative to its root; where two are the same, with as many more folders
    before it as tell them apart."""
    parts = {
        path: len(path.relative_to(os.path.abspath(root)).parts) for path, root in roots.items()
    }
    while True:
        names = {path: "/".join(path.parts[-count:]) for path, count in parts.items()}
        by_name: dict[str, list[Path]] = {}
        for path, name in names.items():
            by_name.setdefault(name, []).append(path)
        clashes = [path for paths in by_name.values() if len(paths) > 1 for path in paths]
        if not clashes:
            return names
        for path in clashes:
            parts[path] += 1


def _match(name: str) -> Iterable[tuple[Path, Path]]:
    """(root, file): a file's name in the corpus is its path relative to the root."""
    if "://" in name:
        raise InputError(f"{name}: only local files are read", "copy or mount the corpus first")
    path = Path(name).expanduser()
    if path.is_dir():
        if files := _files_below(path):
            return [(path, file) for file in files]
        raise InputError(f"{path}: no input files in this folder", _KNOWN)
    if path.exists():
        if not path.is_file():
            raise InputError(f"{path}: not a regular file", "write its rows to a file first")
        if kind_of(path) is None:
            raise InputError(f"{path}: unknown ending", _KNOWN)
        return [(path.parent, path)]
    if not glob.has_magic(name):
        raise InputError(f"{path}: no such file or folder", _list_folder(path))
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    below = [f for m in matches for f in (_files_below(m) if m.is_dir() else [m]) if kind_of(f)]
    below = [file for file in below if file.is_file()]
    if not below:
        raise InputError(f"{name}: nothing matches", _KNOWN)
    return [(_root_of(path), file) for file in below]


def _root_of(pattern: Path) -> Path:
    """The last folder of a glob before its first wildcard."""
    parts = pattern.parts[:-1]
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:count])


def _files_below(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if kind_of(p) and p.is_file()]


def _visible(folder: Path) -> Iterator[Path]:
    """What lies below a folder, but for hidden names and for what other runs have left there: their
    outputs, and the rejects of the folder itself where it is one."""
    skipped = {folder / "rejects"} if (folder / _RUN).is_file() else set()
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [
            name
            for name in folders
            if name[0] not in "._"
            and here / name not in skipped
            and not (here / name / _RUN).is_file()
        ]
        yield from (here / name for name in files if name[0] not in "._")


def unread_files(inputs: Sequence[str | Path]) -> dict[str, int]:
    """How many files below the folders among the inputs are not read, by ending, most first; for
    what is no file or a link to nothing, by what it is."""
    counts: Counter[str] = Counter()
    for folder in (Path(name).expanduser() for name in inputs):
        for path in _visible(folder) if folder.is_dir() else ():
            if not path.is_file():
                counts["links to nothing" if path.is_symlink() else "special files"] += 1
            elif kind_of(path) is None:
                counts[path.suffix.lower() or "names without an ending"] += 1
    return dict(counts.most_common())


_RUN = Path("_manifest", "run.json")


def _list_folder(path: Path) -> str:
    """What the folder of a missing file has, as a hint."""
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either"
    names = sorted(p.name for p in parent.iterdir() if p.is_dir() or kind_of(p))
    return f"{parent} has: {', '.join(names[:8]) or 'no input files'}"
