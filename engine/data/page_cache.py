"""What was downloaded, kept in a temporary file so that a second pass does not download it again.

Planning reads the beginnings and ends of files, the columns of JSON lines are settled by a pass
over them, and lines are counted where a large file is cut. The file has no name, so that nothing is
left of it however the process ends; it is bounded, and where the disk is full nothing is kept.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import IO

from engine.core.system_calls import read_at, write_at

PAGE = 128 << 10
"""Bytes of a page; the last one of an object may be shorter."""


class PageCache:
    """Pages by object and number; of those that do not fit, the ones used longest ago go.

    Args:
        size: Bytes of the file at most.
    """

    def __init__(self, size: int) -> None:
        self._free = max(0, size // PAGE)
        self._slots: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()  # slot and length
        self._next = 0
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._slots

    def find(self, key: Hashable) -> bytes | None:
        """A page's bytes; None where it is not kept."""
        with self._lock:
            if key not in self._slots or self._file is None:
                return None
            self._slots.move_to_end(key)
            slot, length = self._slots[key]
            return read_at(self._file.fileno(), length, slot * PAGE)

    def keep(self, key: Hashable, content: memoryview) -> None:
        """Keep a page, unless there is no room for any."""
        with self._lock:
            if key in self._slots or not (self._free or self._slots):
                return
            slot = self._slot()
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
                write_at(self._file.fileno(), content, slot * PAGE)
            except OSError:
                self._free = 0  # the disk is full: what is kept stays, and nothing is added
                return
            self._slots[key] = slot, len(content)

    def _slot(self) -> int:
        if not self._free:
            return self._slots.popitem(last=False)[1][0]
        self._free -= 1
        self._next += 1
        return self._next - 1
