"""Paths, folders and globs to the files of a corpus."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.core.types import CorpusFile, InputPath
from engine.data import dataset_folders
from engine.data.compression import COMPRESSIONS, plain_kind
from engine.data.kinds import ENDINGS, kind_as, kind_of
from engine.data.lake_tables import NOT_LISTED, Tables
from engine.data.object_files import ObjectPath
from engine.data.object_listings import find_objects
from engine.data.origins import partition_of
from engine.data.outputs import RUN, check_finished, folder_beside, in_order, is_single
from engine.data.standard_input import DASH, spool
from engine.data.stores import is_url
from engine.errors import InputError

_NO_FORMAT = "name it with --input-format, such as --input-format jsonl"
_KNOWN = (
    f"known endings: {' '.join(e for e in ENDINGS if e.count('.') == 1)}; "
    f"of text also with {' '.join(f'.{suffix}' for suffix in COMPRESSIONS)}"
)


@dataclass(frozen=True)
class Discovery:
    """What the inputs of a run name.

    Attributes:
        files: The files to read, sorted by path; the parts of a run in its order.
        unread: How many others the folders and globs have, by ending, most first; for what is no
            file, by what it is.
    """

    files: list[CorpusFile]
    unread: Mapping[str, int]


def discover(
    inputs: Sequence[str | Path],
    out: Path | None = None,
    input_format: str = "",
    *,
    by_content: bool = False,
) -> Discovery:
    """The files that paths, folders and globs name, each once, and what is not read of them.

    A folder stands for every file of a known kind below it, except those whose name, or a folder's
    on the way to them, begins with a dot or an underscore, and those in the output folder of a run,
    unless that folder is named itself. A link beside its target counts once.

    Args:
        inputs: What the person named.
        out: The output folder of this run, which may lie among them.
        input_format: The kind of standard input, of files that are named themselves, and of those
            in folders and globs whose ending is unknown; "" to tell all by their endings.
        by_content: Whether an object of a store is known by its bytes rather than by its e-tag.

    Raises:
        InputError: An input is missing, matches nothing, or is of no known kind.
    """
    if not inputs:
        raise InputError(
            "no input was given",
            "name Parquet, JSONL or Arrow files, a folder, or a URL such as s3://bucket/folder/",
        )
    named = list(dict.fromkeys(map(str, inputs)))
    stored = find_objects(
        [n for n in named if is_url(n)], input_format, _why_name, by_content=by_content
    )
    tables = Tables()
    roots, kinds, unread = _local([n for n in named if not is_url(n)], input_format, tables)
    ours = Path(os.path.abspath(out or ""))
    unread = {path: why for path, why in unread.items() if ours not in (path, folder_beside(path))}
    depths: dict[Path | ObjectPath, int] = {}
    depths |= {path: _depth(path, roots[path]) for path in _without_doubles(in_order(roots))}
    depths |= {path: file.depth for path, file in stored.files.items()}
    names = _unique_names(depths)
    files = [
        CorpusFile(
            path,
            name,
            kinds[path] if isinstance(path, Path) else stored.files[path].kind,
            # The folders of a table are called as its format likes.
            () if isinstance(path, Path) and tables.lists(path) else partition_of(name),
            tables.constants(path) if isinstance(path, Path) else (),
        )
        for path, name in names.items()
    ]
    folders = _real_folders([*roots, *unread])
    places = {(folders[path.parent], path.name): why for path, why in unread.items()}
    for path in roots:
        places.pop((folders[path.parent], path.name), None)
    counts = Counter(places.values()) + stored.unread
    return Discovery(files, dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))))


def _local(
    names: Sequence[str], input_format: str, tables: Tables
) -> tuple[dict[Path, Path], dict[Path, str], dict[Path, str]]:
    """The roots and the kinds of local files that are read, and why others are not."""
    roots: dict[Path, Path] = {}
    kinds: dict[Path, str] = {}
    unread: dict[Path, str] = {}
    try:
        for name in names:
            root, paths = _match(name, input_format, tables)
            is_named = list(paths) == [Path(name).expanduser()] or name == DASH
            for path, why in paths.items():
                absolute = Path(os.path.abspath(path))
                if why:
                    unread[absolute] = why
                else:
                    roots[absolute] = root
                    kinds[absolute] = _kind(absolute, input_format, is_named=is_named)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}", "check the path") from error
    return roots, kinds, unread


def find_files(inputs: Sequence[str | Path], input_format: str = "") -> list[CorpusFile]:
    """`Discovery.files` of the inputs; raises what `discover` raises."""
    return discover(inputs, None, input_format).files


def _kind(path: Path, input_format: str, *, is_named: bool) -> str:
    """The kind of a file that is read."""
    by_ending = kind_of(path)
    if by_ending and not (is_named and input_format):
        return by_ending
    return kind_as(path, input_format)


def _without_doubles(paths: Sequence[Path]) -> list[Path]:
    """The paths, of those that lead to one file through links only the straightest."""
    folders = _real_folders(paths)
    by_target: dict[str, Path] = {}
    for path in sorted(paths, key=lambda one: _crookedness(one, folders)):
        place = os.path.join(folders[path.parent], path.name)
        by_target.setdefault(os.path.realpath(path) if path.is_symlink() else place, path)
    straight = set(by_target.values())
    return [path for path in paths if path in straight]


def _real_folders(paths: Collection[Path]) -> dict[Path, str]:
    """The folders of paths without the links on the way to them."""
    return {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}


def _crookedness(path: Path, folders: Mapping[Path, str]) -> tuple[bool, bool, int]:
    return path.is_symlink(), folders[path.parent] != str(path.parent), len(path.parts)


def _depth(path: Path, root: Path) -> int:
    """How many parts of a path lie below a root."""
    return len(path.relative_to(os.path.abspath(root)).parts)


def _unique_names(depths: Mapping[Path | ObjectPath, int]) -> dict[Path | ObjectPath, str]:
    """Each file's path relative to its root, by how deep it lies below it; where two are the same,
    with as many more folders before it as tell them apart."""
    parts = dict(depths)
    while True:
        names = {path: "/".join(path.parts[-count:]) for path, count in parts.items()}
        by_name: dict[str, list[Path | ObjectPath]] = {}
        for path, name in names.items():
            by_name.setdefault(name, []).append(path)
        clashes = [path for paths in by_name.values() if len(paths) > 1 for path in paths]
        if not clashes:
            return names
        for path in clashes:
            parts[path] += 1


def _match(name: str, input_format: str, tables: Tables) -> tuple[Path, dict[Path, str]]:
    """(root, paths): a file's name in the corpus is its path relative to the root. For each path
    why it is not read, or ""."""
    if name == DASH:
        if not input_format:
            raise InputError(f"{DASH}: its format is not known", _NO_FORMAT)
        path = spool()
        return path.parent, {path: ""}
    path = Path(name).expanduser()
    if path.is_dir():
        check_finished(path)
        tables.check_outside(path)
        below = {one: _why_unread(one, input_format, tables) for one in _visible(path, tables)}
        below = _without_notes(below)
        if all(below.values()):
            raise InputError(f"{path}: no input files in this folder", _hint(below))
        return path, below
    if path.exists():
        if not path.is_file():
            raise InputError(f"{path}: not a regular file", "write its rows to a file first")
        if kind_of(path) is None and not input_format:
            raise InputError(f"{path}: unknown ending", f"{_NO_FORMAT}; {_KNOWN}")
        tables.check_outside(path)
        return path.parent, {path: ""}
    if not glob.has_magic(name):
        raise InputError(f"{path}: no such file or folder", _list_folder(path))
    root = _root_of(path)
    tables.check_outside(root / path.name)
    matches = {one: _why_unread(one, input_format, tables) for one in _glob(path, root, tables)}
    matches = _without_notes(matches)
    if all(matches.values()):
        raise InputError(f"{name}: nothing matches", _hint(matches))
    return root, matches


def _hint(matches: Mapping[Path, str]) -> str:
    outputs = [path for path, why in matches.items() if why == _OUTPUT]
    return f"name the output of a run itself to read it: {outputs[0]}" if outputs else _KNOWN


def _without_notes(matches: dict[Path, str]) -> dict[Path, str]:
    """Plain text beside files of other kinds is about them: it is read where it is named."""
    texts = [path for path, why in matches.items() if not why and _is_text(path)]
    if len(texts) == sum(not why for why in matches.values()):
        return matches
    return matches | {path: path.suffix.lower() for path in texts}


def _is_text(path: Path) -> bool:
    return plain_kind(kind_of(path) or "") == "txt"


def _why_closed(folder: Path) -> str:
    if not folder.is_dir():
        return _OUTPUT
    if folder.name not in (dataset_folders.splits(folder.parent) or [folder.name]):
        return "folders that a dataset does not list"
    return "links to folders" if folder.is_symlink() else _OUTPUT


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
    return _why_name(path, input_format)


def _why_name(path: InputPath, input_format: str) -> str:
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


_BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that tools write beside a corpus, in lower case; they are read where they are named."""
_PAPER = re.compile(
    r"(readme|licen[sc]e|copying|notice|changelog|citation|requirements|(md5|sha\d+)sums?)\b.*\.txt$",
    re.I,
)
"""Names of texts about a corpus."""


def _has_rows(path: InputPath) -> bool:
    """Whether a file called .json begins as an array or an object does."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b")) or b"\0" in head[:4]:
        return True  # UTF-16 or gzip, which the reader gives advice on
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{", b"")


def _root_of(pattern: Path) -> Path:
    """The last folder of a glob before its first wildcard."""
    parts = pattern.parts[:-1]
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:count])


def _glob(pattern: Path, root: Path, tables: Tables) -> Iterator[Path]:
    """What a glob matches, and what lies below the folders among it; of an output of a run the
    folder alone, and of a table its files."""
    outputs: dict[Path, bool] = {}
    for match in map(Path, glob.glob(str(pattern), recursive=True)):
        above = [match, *match.parents]
        below_root = above[: len(match.parts) - len(root.parts)]
        for folder in below_root:
            outputs.setdefault(folder, (folder / RUN).is_file())
        if output := next((folder for folder in below_root if outputs[folder]), None):
            yield output
        elif table := next(filter(None, map(tables.below, below_root)), None):
            yield from table
        elif match.is_dir():
            yield from _visible(match, tables)
        else:
            yield match


def _visible(folder: Path, tables: Tables) -> Iterator[Path]:
    """What lies below a folder, but for hidden names; a link to a folder and the output of a run as
    a path of their own, and of a table its files. Where the folder is an output itself, its rejects
    are left out."""
    skipped = {folder / "rejects"} if (folder / RUN).is_file() else set()
    for parent, folders, files in os.walk(folder):
        here, splits = Path(parent), None
        if not _OF_TABLES.isdisjoint(folders) and (table := tables.below(here)) is not None:
            yield from table
            folders.clear()
            continue
        if not _BESIDE.isdisjoint(files):
            dataset_folders.check(here)
            splits = dataset_folders.splits(here)
        visible = [here / name for name in folders if name[0] not in "._"]
        visible = [path for path in visible if path not in skipped]
        unlisted = [path for path in visible if path.name not in (splits or [path.name])]
        yield from unlisted
        visible = [path for path in visible if path not in unlisted]
        closed = [path for path in visible if path.is_symlink() or (path / RUN).is_file()]
        folders[:] = [path.name for path in visible if path not in closed]
        yield from closed
        yield from (here / name for name in files if name[0] not in "._")


_OUTPUT = "outputs of other runs"
_OF_TABLES = {"_delta_log", "metadata"}


def _list_folder(path: Path) -> str:
    """What the folder of a missing file has, as a hint."""
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either"
    names = sorted(p.name for p in parent.iterdir() if p.is_dir() or kind_of(p))
    return f"{parent} has: {', '.join(names[:8]) or 'no input files'}"
