"""Too little memory is told in one message, before libraries end the process on their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from engine.core.memory_limits import cgroup_left, find_shortage, is_shortage

MIB = 1 << 20


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_what_a_cgroup_leaves(tmp_path: Path) -> None:
    stat = f"anon 1\ninactive_file {20 * MIB}\n"
    two = {"memory.max": str(300 * MIB), "memory.current": str(200 * MIB), "memory.stat": stat}
    assert cgroup_left(cgroup(tmp_path / "two", two)) == 120 * MIB
    one = {"memory/memory.limit_in_bytes": str(300 * MIB), "memory/memory.usage_in_bytes": "0"}
    assert cgroup_left(cgroup(tmp_path / "one", one)) == 300 * MIB
    free = {"memory.max": "max\n", "memory/memory.limit_in_bytes": str(2**63 - 4096)}
    assert cgroup_left(cgroup(tmp_path / "free", free)) is None
    assert cgroup_left(tmp_path / "nothing") is None


def test_a_small_cgroup_is_a_shortage(tmp_path: Path) -> None:
    small = {"memory.max": str(100 * MIB), "memory.current": "0"}
    assert "less memory than a run needs: the cgroup's limit leaves 100 MiB" in find_shortage(
        cgroup(tmp_path, small)
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_memory_are_known(error: Exception) -> None:
    assert is_shortage(error)
    wrapped = ValueError("something else")
    wrapped.__cause__ = error
    assert is_shortage(wrapped)
    assert not is_shortage(ValueError("something else"))


@pytest.mark.parametrize("limit", [200, 400, 800])
def test_a_limit_on_addresses_ends_in_one_message(limit: int, tmp_path: Path) -> None:
    command = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit * MIB}, {limit * MIB}))\n"
        "from engine.cli import main\n"
        f"sys.argv = ['engine', 'run', 'none', 'none.jsonl', '-o', {str(tmp_path / 'out')!r}]\n"
        "main()\n"
    )
    run = [sys.executable, "-c", command]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: less memory than a run needs: RLIMIT_AS (ulimit -v)")
    assert "hint: raise the limit" in done.stderr
    assert "Traceback" not in done.stderr
