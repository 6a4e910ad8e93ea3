"""The lock of an output folder, which one run at a time may hold.

    OUT/_manifest/.lock      who writes here: host, process, since when, and the token of its hold

The file is locked by `flock`. Some network file systems have no such locks, nor has Windows: there
the file's existence is the lock, and one whose process has ended is taken over. Shares of a run
have locks of the same kind (`share_locks`).

A run that has lost its lock, since somebody removed the file while it was stopped, changes nothing
any more: it looks for its token before it renames or removes anything.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.core import system_calls
from engine.data import writing
from engine.errors import OutputError
from engine.runner.lock_holder import SIZE, read_holder, this_process

LOCK = ".lock"
GATE = ".shares.lock"
"""The lock that a share holds for a moment while it begins or ends."""
SHARES = "shares"
"""The folder below the records that has what shares of a run know of each other."""
FLOCK, FILE = "flock", "file"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What `flock` fails with where another process has the lock."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What it fails with where the file system has no locks: NFS without its lock service, Lustre
without `-o flock`, FUSE."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
# How long a lock file may be without a content: whoever creates one writes it at once.
_EMPTY_SECONDS = 1.0


class LockHeldError(OutputError):
    """Another process has the lock."""


@dataclass(frozen=True)
class Hold:
    """A run's hold of an output folder, for its processes too.

    Attributes:
        out: The output folder.
        file: The lock file.
        record: What the lock file says as long as the folder is held; empty where nothing guards
            it.
    """

    out: Path
    file: Path
    record: bytes = b""

    def is_lost(self) -> bool:
        """Whether the lock file is gone or another's, or cannot be read: nobody knows then."""
        try:
            return self._is_other()
        except OSError:
            return True

    def _is_other(self) -> bool:
        return bool(self.record) and _content(self.file) != self.record

    def check(self) -> None:
        """Raise OutputError where the hold is lost: nothing may be changed any more."""
        with writing(self.file):
            if not self._is_other():
                return
            holder = read_holder(_content(self.file) or b"")
        taken = f"another run has taken the folder ({holder})" if holder else "it is gone or empty"
        raise OutputError(
            f"{self.file}: no longer the lock of this run: {taken}",
            "nothing was changed since; see that one run at a time writes here, and run the same "
            "command again to go on",
        )


@contextmanager
def locked(
    out: Path, folder: Path, *, guarded: bool = True, name: str = LOCK, shared: bool = False
) -> Iterator[Hold]:
    """Hold the lock of an output folder while the body runs.

    Args:
        out: The output folder.
        folder: Where its records are; it is there.
        guarded: Without it there is no lock, and nobody is kept out.
        name: Of the lock file.
        shared: Whether shares of a run may be writing here.

    Raises:
        OutputError: Another run, or a share of one, is writing here, or the folder cannot be
            locked.
    """
    file, handle = folder / name, None
    hold = Hold(out, file)
    if guarded:
        with writing(file):
            hold, handle = _take(out, file)
    try:
        if guarded and not shared:
            _check_no_share(out, folder)
        yield hold
    finally:
        with suppress(OSError):
            _let_go(hold, handle)
        _close(handle)


def shares_running(folder: Path) -> list[Path]:
    """The lock files of the shares that write now; asked while none can begin.

    Raises:
        OutputError: One of the files cannot be read.
    """
    with writing(folder):
        return [file for file in sorted((folder / SHARES).glob(f"*{LOCK}")) if way_held(file)]


def _check_no_share(out: Path, folder: Path) -> None:
    """Raise OutputError where a share of a run is writing."""
    if files := shares_running(folder):
        raise _refused(out, files[0], _content(files[0]), runs=way_held(files[0]) == FLOCK)


def way_held(file: Path) -> str:
    """How a lock file is held: FLOCK or FILE, or "" where nobody holds it.

    Raises:
        OSError: It cannot be read.
    """
    try:
        handle = system_calls.open_file(file, os.O_RDWR)
    except FileNotFoundError:
        return ""
    try:
        system_calls.lock(handle)
    except OSError as error:
        if error.errno in _HELD:
            return FLOCK
    finally:
        os.close(handle)
    holder = read_holder(_content(file) or b"")
    return FILE if holder and holder.way == FILE and not holder.is_gone() else ""


def _let_go(hold: Hold, handle: int | None) -> None:
    """Have the lock file name nobody, or remove it where its existence is the lock."""
    if hold.record and not hold.is_lost():
        if handle is None:
            hold.file.unlink()
        else:
            os.ftruncate(handle, 0)


def _take(out: Path, file: Path) -> tuple[Hold, int | None]:
    """The hold, and the handle that has the system's lock; None where there is no such lock."""
    while True:
        handle: int | None
        handle, created = _opened(file)
        try:
            has_locks = _flock(out, file, handle)
            way = FLOCK if has_locks else FILE
            me = this_process(way)
            hold = Hold(out, file, me.to_bytes())
            if has_locks and _is(handle, file):
                _check_no_file_lock(out, file)
            elif has_locks or not created:
                os.close(handle)  # before it is replaced, which Windows does to no open file
                handle = None
                if has_locks or not _take_over(out, file, hold.record):
                    continue  # it was removed meanwhile: its holder has finished
            if handle is not None:
                _name(handle, hold.record)
            if hold.is_lost():
                raise _refused(out, file, _content(file))
        except BaseException:
            _close(handle)
            raise
        if has_locks:
            return hold, handle
        _close(handle)
        return hold, None


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _name(handle: int, record: bytes) -> None:
    """Have a lock file that has just been opened name its holder."""
    view = memoryview(record)
    while view:  # a disk that is nearly full takes a part, and fails then
        view = view[os.write(handle, view) :]


def _opened(file: Path) -> tuple[int, bool]:
    """A handle of the lock file, and whether it was created."""
    while True:
        with suppress(FileExistsError):
            return system_calls.open_file(file, _NEW), True
        with suppress(FileNotFoundError):  # it has just been removed
            return system_calls.open_file(file, os.O_RDWR), False


def _flock(out: Path, file: Path, handle: int) -> bool:
    """Lock a file; returns whether there are such locks."""
    try:
        return system_calls.lock(handle)
    except OSError as error:
        if error.errno in _HELD:
            raise _refused(out, file, _settled(file), runs=True) from error
        if error.errno in _NO_LOCKS:
            return False
        raise OutputError(
            f"{file}: cannot be locked: {error.strerror}",
            "choose a folder on another file system with -o, or see --no-lock of engine run",
        ) from error


def _check_no_file_lock(out: Path, file: Path) -> None:
    """Refuse a folder that a run holds from where its file system has no locks."""
    content = _content(file)
    holder = read_holder(content or b"")
    if holder and holder.way == FILE and not holder.is_gone():
        raise _refused(out, file, content)


def _take_over(out: Path, file: Path, record: bytes) -> bool:
    """Take a lock file over from a process that has ended.

    What a lock file says names the one file by which it is claimed, and whoever creates that takes
    it over; a claim whose process has ended is claimed in the same way.

    Returns:
        False where the lock file has been removed or replaced meanwhile.
    """
    first = content = _settled(file)
    claim = file
    while content is not None:
        holder = read_holder(content)
        if holder and not holder.is_gone():
            raise _refused(out, file, content)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        claim = file.with_name(f"{file.name}.{digest}")
        try:
            handle = system_calls.open_file(claim, _NEW)
        except FileExistsError:
            content = _settled(claim)
            continue
        with os.fdopen(handle, "wb") as stream:
            stream.write(record)
        if _content(file) == first:
            claim.replace(file)
            _remove_claims(file)
            return True
        claim.unlink(missing_ok=True)
        return False
    return False


def _remove_claims(file: Path) -> None:
    for claim in file.parent.glob(f"{file.name}.*"):
        claim.unlink(missing_ok=True)


def _settled(file: Path) -> bytes | None:
    """What a lock file says once it names its holder, or has not for too long; None where it is
    gone."""
    until = time.monotonic() + _EMPTY_SECONDS
    while True:
        content = _content(file)
        if content is None or read_holder(content) or time.monotonic() > until:
            return content
        time.sleep(0.01)


def _content(file: Path) -> bytes | None:
    """The beginning of a lock file; None where it is gone or no file."""
    try:
        handle = system_calls.open_file(file, os.O_RDONLY, waits=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE):
            return None
        raise
    try:
        return os.read(handle, SIZE)
    finally:
        os.close(handle)


def _is(handle: int, file: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.lstat(file))
    return False


def _refused(out: Path, file: Path, content: bytes | None, *, runs: bool = False) -> LockHeldError:
    """The error for a folder in which another run is writing, and whether that is certain."""
    holder = read_holder(content or b"")
    who = f" ({holder})" if holder else ""
    number, of, count = file.name.removesuffix(LOCK).partition("-of-")
    writer = f"share {number}/{count}" if of else "another run"
    hint = "wait for it, or choose another folder with -o"
    if holder and holder.is_elsewhere() and not runs:
        hint = (
            f"wait for it; if it does not run any more, remove {file} and run the same command "
            "again; or choose another folder with -o"
        )
    return LockHeldError(f"{out}: {writer} is writing here{who}", hint)
