"""What a run does to the files below a folder, call by call, as strace saw it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults import forks

_TRACED = (
    "openat", "open", "creat", "write", "pwrite64", "lseek", "fsync", "fdatasync", "rename",
    "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "truncate",
    "ftruncate", "writev", "pwritev", "link", "linkat", "symlink", "symlinkat", "fallocate",
    "copy_file_range", "sendfile", "sync_file_range",
)  # fmt: skip
_LINE = re.compile(r"^(\d+) +(.*)$")
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)(.*)$", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Call:
    """A call that has succeeded.

    Attributes:
        name: What it does: open, write, truncate, sync, rename, unlink, rmdir or mkdir.
        path: Of what, absolute.
        entered: How many calls had returned as it was entered.
        target: The new name of a rename.
        at: Offset of a write, or the size that a file is cut to.
        data: What is written.
        creates: Whether an open makes a file that is not there, and `cuts` one that is.
    """

    name: str
    path: str
    entered: int
    target: str = ""
    at: int = 0
    data: bytes = b""
    creates: bool = False
    cuts: bool = False


def record(body: Callable[[], object], root: Path, output: Path) -> list[Call]:
    """The calls of an undisturbed run on what is below a folder, in the order they returned.

    Raises:
        RuntimeError: The run failed, or made a call that is not known here.
    """
    log = output.with_suffix(".calls")
    names = ",".join(f"?{name}" for name in _TRACED)
    options = ["-y", "-xx", "-s", str(_LONGEST), "-e", f"trace={names}"]
    code = forks.traced(forks.fork(body, output), log, options)
    if code:
        raise RuntimeError(f"a traced run ended with {code}: {output.read_text()[-1500:]}")
    return list(_Reader(str(root)).calls(log.read_text().splitlines()))


class _Reader:
    """Reads a trace; keeps the offset of each open file, and how many calls have returned."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._offsets: dict[str, int] = {}
        self._returned = 0

    def calls(self, lines: Sequence[str]) -> Iterator[Call]:
        begun: dict[str, tuple[str, int]] = {}
        for line in lines:
            if not (match := _LINE.match(line)):
                continue
            thread, text = match.groups()
            entered = self._returned
            if text.endswith(_UNFINISHED):
                begun[thread] = (text.removesuffix(_UNFINISHED), entered)
                continue
            if resumed := _RESUMED.match(text):
                start, entered = begun.pop(thread)
                text = start + resumed.group(1)
            if call := self._call(text, entered):
                self._returned += 1
                yield call

    def _call(self, text: str, entered: int) -> Call | None:
        match = _CALL.match(text)
        if not match or int(match.group(3)) < 0:
            return None
        name, given, result, rest = match.groups()
        arguments = [_plain(argument) for argument in given.split(", ")]
        if name in ("open", "openat", "creat"):
            return self._open(name, arguments, result + rest, entered)
        paths = _paths(name, arguments)
        if not any(self._is_below(path) for path in paths):
            return None
        if name == "lseek":
            self._offsets[_number(arguments[0])] = int(result)
            return None
        if name in ("write", "pwrite64"):
            return self._write(name, paths[0], arguments, int(result), entered)
        kinds = {
            "fsync": "sync", "fdatasync": "sync", "rename": "rename", "renameat": "rename",
            "renameat2": "rename", "unlink": "unlink", "rmdir": "rmdir", "mkdir": "mkdir",
            "mkdirat": "mkdir", "unlinkat": "unlink", "ftruncate": "truncate",
        }  # fmt: skip
        if name not in kinds:
            raise RuntimeError(f"a call that the model does not know: {name} {paths}")
        kind = "rmdir" if "AT_REMOVEDIR" in arguments[-1] else kinds[name]
        size = int(arguments[1]) if kind == "truncate" else 0
        return Call(kind, paths[0], entered, target=paths[-1], at=size)

    def _open(self, name: str, arguments: list[str], result: str, entered: int) -> Call | None:
        path = _join(arguments[0], arguments[1]) if name == "openat" else _text(arguments[0])
        flags = "O_CREAT|O_TRUNC" if name == "creat" else arguments[1 + (name == "openat")]
        if not self._is_below(path):
            return None
        self._offsets[_number(result)] = 0
        if "O_APPEND" in flags:
            raise RuntimeError(f"the model does not know O_APPEND: {path}")
        creates, cuts = "O_CREAT" in flags, "O_TRUNC" in flags
        return Call("open", path, entered, creates=creates, cuts=cuts) if creates or cuts else None

    def _write(
        self, name: str, path: str, arguments: list[str], size: int, entered: int
    ) -> Call | None:
        file = _number(arguments[0])
        at = int(arguments[-1]) if name == "pwrite64" else self._offsets[file]
        if name == "write":
            self._offsets[file] = at + size
        data = _bytes(arguments[1])[:size]
        if len(data) != size:
            raise RuntimeError(f"a write of {size} bytes was not recorded whole: {path}")
        return Call("write", path, entered, at=at, data=data)

    def _is_below(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")


def _plain(argument: str) -> str:
    """An argument whose path in <> is readable."""
    return re.sub(r"<([^>]*)>", lambda match: f"<{_decoded(match.group(1))}>", argument)


def _decoded(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text.replace("\\x", ""))) if "\\x" in text else text


def _bytes(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _text(argument: str) -> str:
    return os.fsdecode(_bytes(argument))


def _number(argument: str) -> str:
    return argument.partition("<")[0].strip()


def _folder(argument: str) -> str:
    return argument.partition("<")[2].rpartition(">")[0]


def _join(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(_folder(folder), _text(path)))


def _paths(name: str, arguments: list[str]) -> list[str]:
    """What a call is about: one path or two."""
    if name in ("renameat", "renameat2", "linkat"):
        return [_join(arguments[0], arguments[1]), _join(arguments[2], arguments[3])]
    if name in ("unlinkat", "mkdirat"):
        return [_join(arguments[0], arguments[1])]
    if arguments[0].startswith('"'):
        return [_text(argument) for argument in arguments[:2] if argument.startswith('"')]
    return [_folder(argument) for argument in arguments if "<" in argument]
