"""What only POSIX systems have, and a second way for the others: the one place that knows both.

                           POSIX                     elsewhere, as on Windows
    lock                   flock                     none: that the lock file exists is the lock
    sync, sync_data        fsync, fdatasync          fsync
    sync_folder            fsync of the folder       none: the file system keeps names by itself
    open_file              O_NOFOLLOW                a look at the name before
    read_at, write_at      pread, pwrite             a seek before, one thread at a time
    Incoming, write_now    poll                      a thread that waits
    process_start          signal 0                  a handle of the process
    clock                  CLOCK_BOOTTIME            its clock, which counts sleep anyway
    memory                 sysconf                   none: it is unknown
    limits                 resource                  none: nothing bounds a process
    NEW_GROUP              a session of its own      a group of its own
    ENVIRONMENT            nothing                   what Python does not start without

On Linux each function makes the call of the middle column, and no other.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

NEW_GROUP = 0x200 if sys.platform == "win32" else 0
"""Creation flag of a process that Ctrl-C does not reach, beside `start_new_session`."""
ENVIRONMENT = ("SYSTEMROOT",)
"""Variables that a process needs in an environment that has nothing else."""
# What a pipe's thread reads ahead at most; a call of its own takes no more either.
_AHEAD_BYTES, _BLOCK_BYTES = 64 << 20, 1 << 16
# How long a message may wait for a reader where nobody can be asked whether there is one.
_WRITE_SECONDS = 0.5
# What opening or syncing a folder fails with where that is not done.
_FOLDERS_NOT_SYNCED = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EBADF,
    errno.EACCES,
    errno.EISDIR,
)
_FULL_SYNC_MISSING = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)
# Of all seeks, for the sake of a file that several threads use.
_seeking = threading.Lock()


def lock(handle: int) -> bool:
    """Lock a file for this process, until its handle is closed.

    Returns:
        False where the system has no such locks.

    Raises:
        OSError: Another process has the lock, or the file system has none.
    """
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def sync(handle: int) -> None:
    """Put a file's bytes on the disk.

    Raises:
        OSError: The disk does not take them.
    """
    if sys.platform == "darwin":  # its fsync leaves them in the disk's cache
        import fcntl

        try:
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in _FULL_SYNC_MISSING:
                raise
        else:
            return
    os.fsync(handle)


def sync_data(handle: int) -> None:
    """As `sync`, but for what is known of the file besides its bytes and size."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:
        sync(handle)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, so that a rename survives a power cut.

    Network file systems and FUSE refuse this for folders, or refuse to open one, and have no other
    way to do it; nor has Windows. What a disk fails with, such as EIO, is an error here as for a
    file.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | _own())
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _FOLDERS_NOT_SYNCED:
            raise


def open_file(file: Path, flags: int, *, waits: bool = True) -> int:
    """A handle of a file, which no process that is started inherits.

    Args:
        file: Its path; a link is not followed.
        flags: As for `os.open`.
        waits: Without it a pipe of that name is opened at once, too.

    Raises:
        OSError: ELOOP for a link.
    """
    if hasattr(os, "O_NOFOLLOW"):
        flags |= os.O_NOFOLLOW
    elif os.path.islink(file):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file))
    return os.open(file, flags | _own() | (0 if waits else getattr(os, "O_NONBLOCK", 0)), 0o666)


def _own() -> int:
    """Flags for bytes as they are, and a handle that is not inherited; Windows has the first, and
    Python does the second there."""
    return getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_at(handle: int, size: int, start: int) -> bytes:
    """Bytes of a file from a place on; fewer at its end. Several threads may read at once."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, start)
    with _seeking:
        os.lseek(handle, start, os.SEEK_SET)
        return os.read(handle, size)


def write_at(handle: int, content: bytes | memoryview, start: int) -> int:
    """Write bytes at a place of a file; returns how many were written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, content, start)
    with _seeking:
        os.lseek(handle, start, os.SEEK_SET)
        return os.write(handle, content)


class Incoming:
    """The reading end of a pipe, and whether something has come.

    Args:
        handle: It stays the caller's, who closes it once nobody reads any more.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._ahead = None if hasattr(select, "poll") else _ReadAhead(handle)

    def has_come(self, seconds: float = 0.0) -> bool:
        """Whether a read would return at once, be it because the other end is closed; waited for as
        long."""
        if self._ahead:
            return self._ahead.has_come(seconds)
        return _polled(self._handle, select.POLLIN, seconds)

    def has_ended(self) -> bool:
        """Whether the other end is closed, whatever has not been read."""
        if self._ahead:
            return self._ahead.ended
        return _polled(self._handle, 0, 0.0)

    def read(self, size: int = _BLOCK_BYTES) -> bytes:
        """What has come, waited for; nothing where the other end is closed."""
        return self._ahead.take(size) if self._ahead else os.read(self._handle, size)

    def file(self) -> BinaryIO:
        """All that comes as a file, read in place of `read`."""
        if self._ahead:
            return io.BufferedReader(self._ahead)
        return os.fdopen(self._handle, "rb", closefd=False)


class _ReadAhead(io.RawIOBase):
    """A pipe of which a thread reads what comes."""

    def __init__(self, handle: int) -> None:
        super().__init__()
        # Its own, so that closing the caller's does not wait for the thread.
        self._handle = os.dup(handle)
        self._blocks: list[bytes] = []
        self._size = 0
        self.ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="read-ahead", daemon=True).start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.take(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def has_come(self, seconds: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._blocks or self.ended, seconds))

    def take(self, size: int) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self.ended)
            if not self._blocks:
                return b""
            content, rest = self._blocks[0][:size], self._blocks[0][size:]
            self._blocks[:1] = [rest] if rest else []
            self._size -= len(content)
            self._changed.notify_all()
            return content

    def _run(self) -> None:
        block = b"-"
        while block:
            try:
                block = os.read(self._handle, _BLOCK_BYTES)
            except OSError:  # on Windows a pipe whose other end is closed may be broken
                block = b""
            with self._changed:
                self._changed.wait_for(lambda: self._size < _AHEAD_BYTES)
                if block:
                    self._blocks.append(block)
                self._size += len(block)
                self.ended = not block
                self._changed.notify_all()
        os.close(self._handle)


def write_now(handle: int, content: bytes) -> None:
    """Write to a file or pipe, unless it is full and nobody reads it.

    Raises:
        OSError: The other end is closed.
    """
    if hasattr(select, "poll"):
        if _polled(handle, select.POLLOUT, 0.0):
            os.write(handle, content)
        return

    def write() -> None:
        with suppress(OSError):
            os.write(handle, content)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(_WRITE_SECONDS)


def _polled(handle: int, events: int, seconds: float) -> bool:
    # A new one each time: a poll object is for one thread at a time.
    poll = select.poll()
    poll.register(handle, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def process_start(pid: int) -> str | None:
    """What tells a process from a later one of the same number, or "" where nothing does; None
    where it has ended."""
    if sys.platform == "win32":
        return _created(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return ""


if sys.platform == "win32":

    def _created(pid: int) -> str | None:
        """As `process_start`; signal 0 is Ctrl-C there, and would be sent."""
        import ctypes

        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = ctypes.c_void_p
        # To wait for it (SYNCHRONIZE), and to see when it began (QUERY_LIMITED_INFORMATION).
        number = kernel.OpenProcess(0x00100000 | 0x1000, False, pid)
        if not number:
            # 87 is ERROR_INVALID_PARAMETER: no such process. Another user's is denied.
            return None if ctypes.get_last_error() == 87 else ""
        process = ctypes.c_void_p(number)
        times = [ctypes.c_uint64() for _ in range(4)]
        try:
            if kernel.WaitForSingleObject(process, 0) == 0:  # ended, and looked at by somebody
                return None
            known = kernel.GetProcessTimes(process, *map(ctypes.byref, times))
            return str(times[0].value) if known else ""
        finally:
            kernel.CloseHandle(process)


def clock() -> float:
    """Seconds, those that the process or the machine sleeps among them."""
    if not hasattr(time, "clock_gettime"):
        return time.monotonic()
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def memory() -> int:
    """Bytes of the machine's memory; 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def limits() -> Any:
    """The module `resource`; None where processes have no limits that they could lower."""
    try:
        import resource
    except ImportError:
        return None
    return resource


def peak_memory() -> int:
    """Bytes of memory that this process had at most; 0 where nobody counts them."""
    if not (resource := limits()):
        return 0
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
