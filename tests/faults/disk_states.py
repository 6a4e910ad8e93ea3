"""What a disk may hold after a power loss, by a model of file systems that is stricter than they.

Names and contents are separate. Of a file, what was written since its last fsync or fdatasync may
be absent, there in part (the first half), zeros, or there. Of a folder, the changes of names since
its last fsync may be lost: all after any of them, and where they are four or fewer, any of them.
Folders do not wait for each other, and a new name is not on the disk because its file is. A rename
within a folder is one change; one to another folder shows the old name, both, or the new one. What
was there before the run is on the disk.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from faults.call_traces import Call

Tree = Mapping[str, bytes | None]
"""Contents of files by their paths; None for a folder."""
ABSENT, TORN, ZEROS, WHOLE = "absent", "torn", "zeros", "whole"
_KINDS = (ABSENT, TORN, ZEROS, WHOLE)
_ANY_OF = 4


@dataclass(eq=False)
class File:
    """What is on the disk, and the writes since: number, offset and bytes, or None for a cut."""

    durable: bytes = b""
    pending: list[tuple[int, int, bytes | None]] = field(default_factory=list)

    def sync(self, before: int) -> None:
        """Put on the disk what was written before a call."""
        for number, at, data in self.pending:
            if number < before:
                self.durable = _written(self.durable, at, data)
        self.pending = [write for write in self.pending if write[0] >= before]

    def content(self, kind: str) -> bytes:
        """What may be there after a power loss."""
        content = self.durable
        left = sum(len(data or b"") for _, _, data in self.pending) // 2
        for _, at, data in self.pending if kind != ABSENT else ():
            some = data
            if kind == TORN and data is not None:
                some, left = data[:left], left - len(data[:left])
            elif kind == ZEROS and data is not None:
                some = bytes(len(data))
            content = _written(content, at, some)
        return content


@dataclass(eq=False)
class Change:
    """New files of names in one folder, None for those that go. It is on the disk only if another
    one is, too: a file does not go from its old name before it has its new one."""

    number: int
    names: Mapping[str, Node | None]
    needs: Change | None = None


@dataclass(eq=False)
class Folder:
    """The names on the disk, and the changes since."""

    durable: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def sync(self, before: int) -> None:
        """Put on the disk what was changed before a call."""
        done = [change for change in self.pending if change.number < before]
        self.durable = self.names(done)
        self.pending = [change for change in self.pending if change.number >= before]

    def names(self, changes: Sequence[Change]) -> dict[str, Node]:
        """The names with some of the changes."""
        names: dict[str, Node | None] = dict(self.durable)
        for change in changes:
            names.update(change.names)
        return {name: node for name, node in names.items() if node is not None}

    def choices(self) -> Iterator[tuple[Change, ...]]:
        """What may have come to the disk of the changes."""
        if len(self.pending) > _ANY_OF:
            yield from (tuple(self.pending[:count]) for count in range(len(self.pending) + 1))
            return
        for size in range(len(self.pending) + 1):
            yield from itertools.combinations(self.pending, size)


Node = File | Folder
_Found = TypeVar("_Found", File, Folder)


class Disk:
    """A folder of a disk: what programs see, and what a power loss may leave.

    Args:
        path: Where the folder is.
        content: A copy of it, of what is on the disk at first.
        without: A name in it that no call is on.
    """

    def __init__(self, path: Path, content: Path, without: str) -> None:
        self._path = str(path)
        self._returned = 0
        self.root = _read(content, without)

    def count(self) -> int:
        """How many states there are now, equal ones included."""
        total = 4 ** len(self._unsynced(File))
        for folder in self._unsynced(Folder):
            total *= len(list(folder.choices()))
        return total

    def apply(self, call: Call) -> None:
        """Let a call happen."""
        number, self._returned = self._returned, self._returned + 1
        folder, name = self._parent(call.path)
        node = folder.names(folder.pending).get(name) if name else self.root
        if call.name == "sync" and node:
            node.sync(call.entered)
        elif call.name == "mkdir":
            folder.pending.append(Change(number, {name: Folder()}))
        elif call.name in ("unlink", "rmdir"):
            folder.pending.append(Change(number, {name: None}))
        elif call.name == "rename":
            self._rename(number, folder, name, call.target)
        elif call.name == "open" and node is None:
            folder.pending.append(Change(number, {name: File()}))
        elif isinstance(node, File):
            if call.name == "write":
                node.pending.append((number, call.at, call.data))
            elif call.name == "truncate" or call.cuts:
                node.pending.append((number, call.at, None))

    def _rename(self, number: int, folder: Folder, name: str, target: str) -> None:
        node = folder.names(folder.pending)[name]
        to, new = self._parent(target)
        if to is folder:
            folder.pending.append(Change(number, {name: None, new: node}))
            return
        added = Change(number, {new: node})
        to.pending.append(added)
        folder.pending.append(Change(number, {name: None}, needs=added))

    def _parent(self, path: str) -> tuple[Folder, str]:
        *folders, name = path.removeprefix(self._path).strip("/").split("/")
        folder = self.root
        for one in folders:
            # What is written to a file that has been removed is nobody's.
            below = folder.names(folder.pending).get(one)
            folder = below if isinstance(below, Folder) else Folder()
        return folder, name

    def extremes(self) -> Iterator[Tree]:
        """All lost, all there, all names over zeros, and all contents under earlier names."""
        folders, files = self._unsynced(Folder), self._unsynced(File)
        lost: list[tuple[Change, ...]] = [()] * len(folders)
        there = [tuple(folder.pending) for folder in folders]
        for names, kind in ((lost, ABSENT), (there, WHOLE), (there, ZEROS), (lost, WHOLE)):
            yield self._tree(folders, names, files, [kind] * len(files))

    def states(self, most: int, seed: str) -> Iterator[Tree]:
        """What a power loss may leave now: all, or where that is more than `most`, so many drawn
        with a seed."""
        folders, files = self._unsynced(Folder), self._unsynced(File)
        changes: list[list[tuple[Change, ...]]] = [list(folder.choices()) for folder in folders]
        if self.count() <= most:
            for choice in itertools.product(*changes, *[_KINDS] * len(files)):
                names = list(choice[: len(folders)])
                yield self._tree(folders, names, files, list(choice[len(folders) :]))
            return
        drawn = random.Random(seed)
        for _ in range(most):
            names = [drawn.choice(some) for some in changes]
            yield self._tree(folders, names, files, [drawn.choice(_KINDS) for _ in files])

    def _unsynced(self, kind: type[_Found]) -> list[_Found]:
        """Folders or files with changes that may be lost, and that may have a name."""
        nodes: dict[int, Node] = {}
        waiting: list[Node] = [self.root]
        while waiting:
            node = waiting.pop()
            if id(node) in nodes:
                continue
            nodes[id(node)] = node
            if isinstance(node, Folder):
                new = (n for change in node.pending for n in change.names.values() if n)
                waiting += [*node.durable.values(), *new]
        return [node for node in nodes.values() if isinstance(node, kind) and node.pending]

    def _tree(
        self,
        folders: Sequence[Folder],
        names: Sequence[tuple[Change, ...]],
        files: Sequence[File],
        kinds: Sequence[str],
    ) -> Tree:
        lost = {id(change) for folder in folders for change in folder.pending}
        lost -= {id(change) for some in names for change in some}
        chosen = {
            id(folder): [c for c in some if not (c.needs and id(c.needs) in lost)]
            for folder, some in zip(folders, names, strict=True)
        }
        kind_of = {id(file): kind for file, kind in zip(files, kinds, strict=True)}
        tree: dict[str, bytes | None] = {}

        def walk(folder: Folder, path: str) -> None:
            for name, node in sorted(folder.names(chosen.get(id(folder), ())).items()):
                if isinstance(node, File):
                    tree[path + name] = node.content(kind_of.get(id(node), WHOLE))
                else:
                    tree[path + name] = None
                    walk(node, f"{path}{name}/")

        walk(self.root, "")
        return tree


def digest(tree: Tree) -> bytes:
    """What two equal states have in common."""
    total = hashlib.sha256()
    for path, data in sorted(tree.items()):
        total.update(repr((path, data if data is None else hashlib.sha256(data).digest())).encode())
    return total.digest()


def _read(folder: Path, without: str = "") -> Folder:
    names = {
        path.name: _read(path) if path.is_dir() else File(path.read_bytes())
        for path in folder.iterdir()
        if path.name != without
    }
    return Folder(dict(names))


def _written(content: bytes, at: int, data: bytes | None) -> bytes:
    """Content after a write, or after it was cut to a size, or lengthened by zeros."""
    padded = content[:at].ljust(at, b"\0")
    return padded if data is None else padded + data + content[at + len(data) :]
