"""The cores, memory and CPU features that this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from engine.core import system_calls

FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
)


def cores() -> int:
    """CPUs that this process may use, the least of what it was given:

    affinity              by taskset, a cpuset, Slurm with a task plugin
    quota                 of its cgroup, in whole CPUs: containers, Kubernetes
    SLURM_CPUS_PER_TASK   Slurm, also where it binds nothing
    OMP_NUM_THREADS       in a worker of Ray or Spark, which set it to num_cpus of the task or actor
                          and to spark.task.cpus; elsewhere it is for other libraries
    """
    return min(core_limits().values(), default=1)


def core_limits() -> dict[str, int]:
    """CPUs that this process was given, by what gave them, as `cores` lists it."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = {"affinity": allowed, "cgroup": _cgroup_cores()}
    names = ["SLURM_CPUS_PER_TASK"]
    if any(name in os.environ for name in _WORKERS):
        names.append("OMP_NUM_THREADS")
    given |= {name: _number(name) for name in names}
    return {name: count for name, count in given.items() if count}


_WORKERS = ("RAY_RAYLET_PID", "SPARK_PYTHON_RUNTIME", "SPARK_REUSE_WORKER")
"""Of the environment that Ray and Spark give the processes of Python that they start."""


def _number(variable: str) -> int:
    """A number of the environment, 0 where there is none."""
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _cgroup_cores() -> int:
    """Whole CPUs of the cgroup v2 quota, 0 where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else -(-int(quota) // int(period))


def memory() -> int:
    """Bytes of memory, or the cgroup's limit if that is lower; 0 if unknown."""
    size = system_calls.memory()
    try:
        return min(size, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return size


def cpu() -> tuple[str, tuple[str, ...]]:
    """The name of the CPU, and those of its features that matter for speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor(), ()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in pairs}
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return facts.get("model name", platform.processor()), tuple(f for f in FEATURES if f in flags)
