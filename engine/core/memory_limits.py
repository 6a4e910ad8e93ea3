"""How much memory this process may still take, and what is said where that is too little.

Libraries end the process, or print what nobody understands, where a limit on memory stops them as
they are loaded or start threads. So the limits are looked at before, and errors are told by what
they have in common.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.core.system_calls import limits

NEEDED = 900 << 20
"""Bytes of addresses that the libraries of a run take, before a model is loaded."""
NEEDED_RESIDENT = 200 << 20
"""Bytes of memory that they take."""
_FULL = re.compile(
    r"can't start new thread|bad_alloc|cannot allocate memory|failed to allocate|malloc of size|"
    r"out of memory|failed to map segment|failed to create thread|pthread_create",
    re.IGNORECASE,
)
HINT = (
    "raise the limit (ulimit -v, or that of the container), or take less: --workers 1, --threads 1 "
    "and a smaller --batch-tokens"
)


def address_space_left() -> int | None:
    """Bytes of addresses that RLIMIT_AS leaves; None where it sets no limit."""
    if not (resource := limits()):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        pages = 0
    return max(0, int(limit) - pages * int(resource.getpagesize()))


def cgroup_left(root: Path = Path("/")) -> int | None:
    """Bytes of memory that the cgroup, of version 2 or 1, leaves; None where it sets no limit.

    Pages of files that the kernel can drop at any time count as left.
    """
    groups = root / "sys/fs/cgroup"
    for limit, used, cached in (
        (groups / "memory.max", groups / "memory.current", groups / "memory.stat"),
        (
            groups / "memory/memory.limit_in_bytes",
            groups / "memory/memory.usage_in_bytes",
            groups / "memory/memory.stat",
        ),
    ):
        most = _number(limit)
        if most is not None and most < 1 << 60:
            return max(0, most - max(0, (_number(used) or 0) - _cached(cached)))
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached(path: Path) -> int:
    try:
        pairs = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(pairs.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


def find_shortage(root: Path = Path("/")) -> str:
    """What is wrong where less memory is left than the libraries take; else ""."""
    left = address_space_left()
    if left is not None and left < NEEDED:
        return _shortage("RLIMIT_AS (ulimit -v)", left, NEEDED)
    left = cgroup_left(root)
    if left is not None and left < NEEDED_RESIDENT:
        return _shortage("the cgroup's limit", left, NEEDED_RESIDENT)
    return ""


def _shortage(what: str, left: int, needed: int) -> str:
    return (
        f"less memory than a run needs: {what} leaves {left >> 20} MiB, and the libraries alone "
        f"take about {needed >> 20} MiB"
    )


def is_shortage(error: BaseException | None) -> bool:
    """Whether an exception, or one behind it, says that memory or threads have run out."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or _FULL.search(str(error)[:2000]):
            return True
        error = error.__cause__ or error.__context__
    return False


def describe_shortage() -> str:
    """What is said of an exception of `is_shortage`."""
    rest = [
        f"{what} leaves {left >> 20} MiB"
        for what, left in (
            ("RLIMIT_AS (ulimit -v)", address_space_left()),
            ("the cgroup's limit", cgroup_left()),
        )
        if left is not None
    ]
    return f"less memory than this run needs{': ' + ', '.join(rest) if rest else ''}"
