"""What would make a machine faster: hardware that is not there, and what is."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from support.commands import call

from engine.core import hardware
from engine.runtime.speed import Advice, Machine, advice

VNNI = Machine(features=("avx2", "avx512f", "avx512_vnni"), cores=16, limits={"affinity": 16})


def about(machine: Machine) -> dict[str, Advice]:
    found = advice(machine)
    assert len({one.about for one in found}) == len(found)
    return {one.about: one for one in found}


@pytest.mark.parametrize(
    ("features", "found", "do"),
    [
        (("avx2", "avx512_vnni"), "AVX-512 VNNI was found", "--recipe int8"),
        (("avx2", "avx_vnni"), "AVX VNNI was found", "--recipe int8"),
        (("amx_int8", "avx512_vnni"), "AMX was found", "--recipe int8"),
        (("asimddp",), "SDOT was found", "--recipe int8"),
        (("avx2",), "no VNNI was found", "engine quantize --recipe int8"),
        ((), "no VNNI was found", "engine tune BUNDLE"),
    ],
)
def test_the_recipe_follows_the_cpu(features: tuple[str, ...], found: str, do: str) -> None:
    one = about(replace(VNNI, features=features))["recipe"]
    assert found in one.found
    assert do in one.do


@pytest.mark.parametrize(
    ("limits", "found", "do"),
    [
        ({"affinity": 16}, "all 16 CPUs are used", ""),
        ({"affinity": 4}, "4 of 16 CPUs are used: the process is bound", "taskset"),
        ({"affinity": 16, "cgroup": 2}, "2 of 16 CPUs are used: the quota", "docker run --cpus"),
        ({"affinity": 16, "SLURM_CPUS_PER_TASK": 8}, "8 of 16", "--cpus-per-task"),
        ({"affinity": 16, "OMP_NUM_THREADS": 1}, "1 of 16 CPUs are used: Ray's", "actor"),
        ({}, "all 16 CPUs are used", ""),
    ],
)
def test_cores_seen_beside_cores_given(limits: dict[str, int], found: str, do: str) -> None:
    one = about(replace(VNNI, limits=limits))["cores"]
    assert found in one.found
    assert do in one.do
    assert bool(do) == bool(one.do)


def test_an_idle_gpu_comes_first() -> None:
    idle = replace(
        VNNI, gpus=("H200",), gpu_problem="the installed onnxruntime has no CUDA provider"
    )
    first = advice(idle)[0]
    assert (first.about, "corpus-engine[gpu]" in first.do) == ("gpu", True)
    assert "H200 is idle" in first.found
    assert "--recipe int8" in about(idle)["recipe"].do
    works = about(replace(VNNI, gpus=("H200",)))
    assert "gpu" not in works
    assert "--recipe fp16" in works["recipe"].do


def test_what_else_matters_is_named() -> None:
    assert "bf16" not in about(VNNI)
    assert (
        "do not use it" in about(replace(VNNI, features=("amx_bf16", "avx512_bf16")))["bf16"].found
    )
    assert "extra" not in about(VNNI)
    assert "corpus-engine[export]" in about(replace(VNNI, exports=False))["extra"].do
    assert "off" in about(VNNI)["telemetry"].found
    told = about(replace(VNNI, telemetry="CORPUS_ENGINE_TELEMETRY=1"))["telemetry"]
    assert "CORPUS_ENGINE_TELEMETRY=1" in told.found
    assert told.do


def test_limits_are_named_by_what_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setattr(hardware, "_cgroup_cores", lambda: 3)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    limits = hardware.core_limits()
    assert {n: limits[n] for n in ("affinity", "cgroup", "SLURM_CPUS_PER_TASK")} == {
        "affinity": 16, "cgroup": 3, "SLURM_CPUS_PER_TASK": 8,
    }  # fmt: skip
    assert hardware.cores() == 3


def test_doctor_shows_it() -> None:
    pytest.importorskip("onnxruntime")
    told = json.loads(call("doctor", "--json").stdout)["faster"]
    assert {"recipe", "cores", "telemetry"} <= {one["about"] for one in told}
    shown = call("doctor").stdout
    for one in told:
        assert f"faster: {one['about']}: {one['found']}" in shown
