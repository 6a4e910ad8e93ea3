"""How many CPUs a process may use, by whatever gave them to it."""

from __future__ import annotations

import os

import pytest

from engine.core import hardware

VARIABLES = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "RAY_RAYLET_PID", "SPARK_PYTHON_RUNTIME",
             "SPARK_REUSE_WORKER")  # fmt: skip


@pytest.mark.parametrize(
    ("quota", "environment", "cores"),
    [
        (0, {}, 16),
        (3, {}, 3),
        (64, {}, 16),
        (0, {"OMP_NUM_THREADS": "1"}, 16),
        (0, {"OMP_NUM_THREADS": "4", "RAY_RAYLET_PID": "17"}, 4),
        (0, {"OMP_NUM_THREADS": "2", "SPARK_PYTHON_RUNTIME": "PYTHON_WORKER"}, 2),
        (0, {"OMP_NUM_THREADS": "2", "SPARK_REUSE_WORKER": "1"}, 2),
        (3, {"OMP_NUM_THREADS": "64", "RAY_RAYLET_PID": "17"}, 3),
        (0, {"OMP_NUM_THREADS": "", "RAY_RAYLET_PID": "17"}, 16),
        (0, {"OMP_NUM_THREADS": "0", "RAY_RAYLET_PID": "17"}, 16),
        (0, {"OMP_NUM_THREADS": "4,2", "RAY_RAYLET_PID": "17"}, 16),
        (0, {"RAY_RAYLET_PID": "17"}, 16),
        (0, {"SLURM_CPUS_PER_TASK": "8"}, 8),
        (0, {"SLURM_CPUS_PER_TASK": " 8 "}, 8),
        (0, {"SLURM_CPUS_PER_TASK": "many"}, 16),
        (0, {"SLURM_CPUS_PER_TASK": "-1"}, 16),
        (0, {"SLURM_CPUS_PER_TASK": "9" * 5000}, 16),
        (0, {"SLURM_CPUS_PER_TASK": "8", "OMP_NUM_THREADS": "2", "RAY_RAYLET_PID": "17"}, 2),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_least_of_what_was_given_counts(
    monkeypatch: pytest.MonkeyPatch, quota: int, environment: dict[str, str], cores: int
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setattr(hardware, "_cgroup_cores", lambda: quota)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert hardware.cores() == cores
