"""Makes of a Linux Python one that has nothing of POSIX, as on Windows, in whatever it starts, too.

On PYTHONPATH of a process this takes away what the engine must not need: modules, functions and
flags of `os`, signals, polls. Files that are open are neither renamed, replaced nor removed, and no
folder is opened. The standard library keeps what it needs on Linux.
"""

from __future__ import annotations

import importlib.abc
import os
import select
import selectors  # noqa: F401  # these take at their import what is gone afterwards
import shutil  # noqa: F401
import signal
import socket  # noqa: F401
import subprocess  # noqa: F401
import sys
import tempfile
from collections.abc import Callable
from typing import Any

MODULES = ("fcntl", "resource", "grp", "pwd", "pty", "termios", "tty", "syslog", "readline")
OF_OS = (
    "pread", "pwrite", "fdatasync", "sched_getaffinity", "sysconf", "getuid",
    "geteuid", "getgid", "fork", "killpg", "setsid", "statvfs", "posix_fadvise", "mkfifo",
    "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY", "sync",
)  # fmt: skip
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT", "SIGPIPE", "SIGALRM", "SIGXCPU")


class Blocked(importlib.abc.MetaPathFinder):
    """No finder finds what is not there."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away() -> None:
    """All of it, for the rest of the process."""
    sys.meta_path.insert(0, Blocked())
    for name in MODULES:
        sys.modules.pop(name, None)
    for name in OF_OS:
        if hasattr(os, name):
            delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)
    del select.poll, select.epoll
    tempfile._bin_openflags = os.O_RDWR | os.O_CREAT | os.O_EXCL  # type: ignore[attr-defined]  # of Windows
    for name in ("rename", "replace", "remove", "unlink"):
        setattr(os, name, if_closed(getattr(os, name)))
    real = os.open
    os.open = lambda path, flags, *rest, **named: opened(real, path, flags, *rest, **named)


def if_closed(function: Callable[..., None]) -> Callable[..., None]:
    """Windows renames and removes nothing that a process has open."""

    def checked(*paths: Any, **named: Any) -> None:
        for path in paths:
            if is_open(os.path.abspath(os.fspath(path))):
                raise PermissionError(13, "The process cannot access the file", os.fspath(path))
        function(*paths, **named)

    return checked


def is_open(path: Any) -> bool:
    for handle in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{handle}") == path:
                return True
        except OSError:
            continue
    return False


def opened(real: Callable[..., int], path: Any, flags: int, *rest: Any, **named: Any) -> int:
    """Windows opens no folder."""
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return real(path, flags, *rest, **named)


take_away()
