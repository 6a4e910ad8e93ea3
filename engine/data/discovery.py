"""Paths, folders and globs to the files of a corpus."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.activity import proceeding
from engine.core.suggestions import path_meant
from engine.core.types import CorpusFile
from engine.data.compression import COMPRESSIONS, plain_kind
from engine.data.folder_listing import OUTPUT, Search, why_name
from engine.data.kinds import ENDINGS, kind_as, kind_of, kind_of_name
from engine.data.lake_tables import Tables
from engine.data.object_files import ObjectPath
from engine.data.object_listings import find_objects
from engine.data.origins import partition_of
from engine.data.outputs import RUN, check_finished, folder_beside, in_order
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
        [n for n in named if is_url(n)], input_format, why_name, by_content=by_content
    )
    local = _find_local([n for n in named if not is_url(n)], input_format)
    ours = os.path.abspath(out or "")
    for path in [one for one in local.unread if ours in (one, str(folder_beside(Path(one))))]:
        del local.unread[path]
    straight = _without_doubles(in_order(local.roots), local.links)
    depths: dict[str | ObjectPath, int] = {
        path: path.count("/") - local.roots[path].rstrip("/").count("/")
        for path in proceeding(straight)
    }
    depths |= {path: file.depth for path, file in stored.files.items()}
    files = [
        _local_file(place, name, local)
        if isinstance(place, str)
        else CorpusFile(place, name, stored.files[place].kind, partition_of(name))
        for place, name in proceeding(_unique_names(depths).items())
    ]
    counts = _unread_counts(local) + stored.unread
    return Discovery(files, dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))))


@dataclass
class _Local:
    """What local inputs name, by absolute path in text.

    Attributes:
        roots: Of each file that is read the folder below which its name begins.
        kinds: Those that their endings do not tell.
        unread: Why others are not read.
        links: Files that are links.
        tables: The tables among the inputs.
    """

    roots: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    links: set[str] = field(default_factory=set)
    tables: Tables = field(default_factory=Tables)

    def take(self, name: str, input_format: str) -> None:
        """Take what an input names."""
        search = Search(input_format, self.tables)
        root, paths = _match(name, search)
        is_named = list(paths) == [str(Path(name).expanduser())] or name == DASH
        above = os.path.abspath(root)
        for path, why in proceeding(paths.items()):
            is_absolute = str(root) == above and "/../" not in path
            absolute = path if is_absolute else os.path.abspath(path)
            if why:
                self.unread[absolute] = why
                continue
            self.roots[absolute] = above
            if path not in search.looked_at:
                continue
            if os.path.islink(absolute):
                self.links.add(absolute)
            if (is_named and input_format) or kind_of_name(os.path.basename(path)) is None:
                self.kinds[absolute] = kind_as(Path(absolute), input_format)


def _find_local(names: Sequence[str], input_format: str) -> _Local:
    local = _Local()
    try:
        for name in names:
            local.take(name, input_format)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}", "check the path") from error
    return local


def _local_file(path: str, name: str, local: _Local) -> CorpusFile:
    root = local.roots[path].rstrip("/")
    if len(root) + 1 + len(name) != len(path):
        root = path[: -len(name) - 1]
    kind = local.kinds.get(path) or kind_of_name(os.path.basename(path)) or ""
    if local.tables.were_found and local.tables.lists(Path(path)):
        # The folders of a table are called as its format likes.
        return CorpusFile(root, name, kind, (), local.tables.constants(Path(path)))
    return CorpusFile(root, name, kind, partition_of(name))


def _unread_counts(local: _Local) -> Counter[str]:
    """How many files are not read, by why; one that another input reads is no such."""
    if not local.unread:
        return Counter()
    folders = _real_folders([*local.roots, *local.unread])
    places = {_place(path, folders): why for path, why in local.unread.items()}
    for path in local.roots:
        places.pop(_place(path, folders), None)
    return Counter(places.values())


def _place(path: str, folders: Mapping[str, str]) -> tuple[str, str]:
    folder, name = os.path.split(path)
    return folders[folder], name


def find_files(inputs: Sequence[str | Path], input_format: str = "") -> list[CorpusFile]:
    """`Discovery.files` of the inputs; raises what `discover` raises."""
    return discover(inputs, None, input_format).files


def _without_doubles(paths: Sequence[str], links: Collection[str]) -> Sequence[str]:
    """The paths, of those that lead to one file through links only the straightest."""
    folders = _real_folders(paths)
    if not links and len(set(folders.values())) == len(folders):
        return paths
    by_target: dict[str, str] = {}
    for path in sorted(paths, key=lambda one: _crookedness(one, links, folders)):
        place = os.path.join(*_place(path, folders))
        by_target.setdefault(os.path.realpath(path) if path in links else place, path)
    straight = set(by_target.values())
    return [path for path in paths if path in straight]


def _real_folders(paths: Iterable[str]) -> dict[str, str]:
    """The folders of paths without the links on the way to them."""
    return {folder: os.path.realpath(folder) for folder in set(map(os.path.dirname, paths))}


def _crookedness(
    path: str, links: Collection[str], folders: Mapping[str, str]
) -> tuple[bool, bool, int]:
    folder = os.path.dirname(path)
    return path in links, folders[folder] != folder, path.count("/")


def _unique_names(depths: Mapping[str | ObjectPath, int]) -> dict[str | ObjectPath, str]:
    """Each file's path relative to its root, by how deep it lies below it; where two are the same,
    with as many more folders before it as tell them apart."""
    names = {path: _last(path, count) for path, count in depths.items()}
    if len(set(names.values())) == len(names):
        return names
    parts = dict(depths)
    while True:
        by_name: dict[str, list[str | ObjectPath]] = {}
        for path, name in names.items():
            by_name.setdefault(name, []).append(path)
        clashes = [path for paths in by_name.values() if len(paths) > 1 for path in paths]
        if not clashes:
            return names
        for path in clashes:
            parts[path] += 1
            names[path] = _last(path, parts[path])


def _last(path: str | ObjectPath, count: int) -> str:
    """The last parts of a path."""
    parts = path.split("/") if isinstance(path, str) else path.parts
    return "/".join(parts[-count:])


def _match(name: str, search: Search) -> tuple[Path, dict[str, str]]:
    """(root, paths): a file's name in the corpus is its path relative to the root. For each path
    why it is not read, or ""."""
    input_format, tables = search.input_format, search.tables
    if name == DASH:
        if not input_format:
            raise InputError(f"{DASH}: its format is not known", _NO_FORMAT)
        path = spool()
        search.looked_at.add(str(path))
        return path.parent, {str(path): ""}
    path = Path(name).expanduser()
    if path.is_dir():
        check_finished(path)
        tables.check_outside(path)
        below = _without_notes(dict(search.below(path)))
        if all(below.values()):
            raise InputError(f"{path}: no input files in this folder", _hint(below))
        return path, below
    if path.exists():
        if not path.is_file():
            raise InputError(f"{path}: not a regular file", "write its rows to a file first")
        if kind_of(path) is None and not input_format:
            raise InputError(f"{path}: unknown ending", f"{_NO_FORMAT}; {_KNOWN}")
        tables.check_outside(path)
        search.looked_at.add(str(path))
        return path.parent, {str(path): ""}
    if not glob.has_magic(name):
        raise InputError(f"{path}: no such file or folder", path_meant(path) + _list_folder(path))
    root = _root_of(path)
    tables.check_outside(root / path.name)
    matches = _without_notes(dict(_glob(path, root, search)))
    if all(matches.values()):
        raise InputError(f"{name}: nothing matches", _hint(matches))
    return root, matches


def _hint(matches: Mapping[str, str]) -> str:
    outputs = [path for path, why in matches.items() if why == OUTPUT]
    return f"name the output of a run itself to read it: {outputs[0]}" if outputs else _KNOWN


def _without_notes(matches: dict[str, str]) -> dict[str, str]:
    """Plain text beside files of other kinds is about them: it is read where it is named."""
    texts = [path for path, why in matches.items() if not why and _is_text(path)]
    if len(texts) == sum(not why for why in matches.values()):
        return matches
    return matches | {path: Path(path).suffix.lower() for path in texts}


def _is_text(path: str) -> bool:
    if ".txt" not in path.lower():
        return False
    return plain_kind(kind_of_name(os.path.basename(path)) or "") == "txt"


def _root_of(pattern: Path) -> Path:
    """The last folder of a glob before its first wildcard."""
    parts = pattern.parts[:-1]
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:count])


def _glob(pattern: Path, root: Path, search: Search) -> Iterator[tuple[str, str]]:
    """What a glob matches, and what lies below the folders among it, and why it is not read; of an
    output of a run the folder alone, and of a table its files."""
    outputs: dict[Path, bool] = {}
    for match in map(Path, glob.glob(str(pattern), recursive=True)):
        above = [match, *match.parents]
        below_root = above[: len(match.parts) - len(root.parts)]
        for folder in below_root:
            outputs.setdefault(folder, (folder / RUN).is_file())
        if output := next((folder for folder in below_root if outputs[folder]), None):
            yield search.why_unread(output)
        elif table := next(filter(None, map(search.tables.below, below_root)), None):
            yield from map(search.why_unread, table)
        elif match.is_dir():
            yield from search.below(match)
        else:
            yield search.why_unread(match)


def _list_folder(path: Path) -> str:
    """What the folder of a missing file has, as a hint."""
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either"
    names = sorted(p.name for p in parent.iterdir() if p.is_dir() or kind_of(p))
    return f"{parent} has: {', '.join(names[:8]) or 'no input files'}"
