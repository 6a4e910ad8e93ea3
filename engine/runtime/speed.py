"""What would make this machine faster, or why nothing would: each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_DOT_PRODUCTS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "asimddp": "SDOT",
}
"""CPU features that multiply int8 in one instruction, the fastest first, by their common names."""

_LIMITS = {
    "affinity": (
        "the process is bound to some of them",
        "start it with more: taskset, numactl, a cpuset or the batch system",
    ),
    "cgroup": (
        "the quota of its container or unit",
        "raise it: docker run --cpus, resources.limits.cpu, CPUQuota=",
    ),
    "SLURM_CPUS_PER_TASK": ("Slurm's share of a task", "ask for more with --cpus-per-task"),
    "OMP_NUM_THREADS": (
        "Ray's num_cpus or Spark's spark.task.cpus",
        "give the task or actor more of them",
    ),
}
"""Who limits the cores of a process, as `hardware.core_limits` names them, and what to do."""

_GPU = 'pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "corpus-engine[gpu]"'
_TUNE = "engine tune BUNDLE finds workers, threads and batch size for this machine"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the advice depends on.

    Attributes:
        features: Of the CPU, as `hardware.cpu` names them.
        cores: CPUs that the machine has.
        limits: CPUs that this process was given, by what gave them.
        gpus: Names of NVIDIA's GPUs that the driver lists.
        gpu_problem: Why none of them can be used, "" where one can.
        exports: Whether the extra `export` is installed, which makes bundles of other recipes.
        telemetry: Why libraries report to their makers, "" where they do not.
    """

    features: Sequence[str]
    cores: int
    limits: Mapping[str, int] = field(default_factory=dict)
    gpus: Sequence[str] = ()
    gpu_problem: str = ""
    exports: bool = True
    telemetry: str = ""


@dataclass(frozen=True)
class Advice:
    """One fact of the machine that matters for speed.

    Attributes:
        about: recipe, cores, gpu, bf16, extra or telemetry.
        found: What was found.
        do: What to do about it, "" for nothing.
    """

    about: str
    found: str
    do: str = ""


def advice(machine: Machine) -> tuple[Advice, ...]:
    """What matters for the speed of a machine, the most important first."""
    return (*_gpu(machine), _recipe(machine), *_cores(machine), *_bf16(machine), *_rest(machine))


def _gpu(machine: Machine) -> Iterator[Advice]:
    if machine.gpus and machine.gpu_problem:
        found = f"{', '.join(machine.gpus)} is idle: {machine.gpu_problem}"
        built = "no CUDA provider" in machine.gpu_problem
        yield Advice("gpu", found, _GPU if built else "engine doctor's hints say what to install")


def _recipe(machine: Machine) -> Advice:
    if machine.gpus and not machine.gpu_problem:
        return Advice("recipe", f"{', '.join(machine.gpus)} works", f"--recipe fp16; {_TUNE}")
    names = [name for feature, name in _DOT_PRODUCTS.items() if feature in machine.features]
    if names:
        measured = " (measured: 2.0 to 2.3 times as fast as fp32)" if "VNNI" in names[0] else ""
        return Advice(
            "recipe",
            f"{names[0]} was found: int8 is fast on this CPU{measured}",
            f"--recipe int8, and for encoders also try int8-static; {_TUNE}",
        )
    return Advice(
        "recipe",
        "no VNNI was found, no int8 dot product: int8 gains less here, 1.3 times in an encoder",
        f"compare with engine quantize --recipe int8, which measures it; {_TUNE}",
    )


def _cores(machine: Machine) -> Iterator[Advice]:
    given = min(machine.limits.values(), default=machine.cores)
    if given >= machine.cores:
        yield Advice("cores", f"all {machine.cores} CPUs are used")
        return
    by = next(name for name, count in machine.limits.items() if count == given)
    who, do = _LIMITS[by]
    yield Advice("cores", f"{given} of {machine.cores} CPUs are used: {who} ({by})", do)


def _bf16(machine: Machine) -> Iterator[Advice]:
    found = [name for name in ("amx_bf16", "avx512_bf16") if name in machine.features]
    if found:
        yield Advice(
            "bf16", f"{' and '.join(found)} found; onnxruntime's CPU kernels do not use it"
        )


def _rest(machine: Machine) -> Iterator[Advice]:
    if not machine.exports:
        yield Advice(
            "extra",
            "the extra export is missing: bundles of int8 cannot be made here",
            'pip install "corpus-engine[export]", or copy a bundle that was made elsewhere',
        )
    if machine.telemetry:
        yield Advice(
            "telemetry", f"libraries report to their makers ({machine.telemetry})",
            "unset the variable, and they do not",
        )  # fmt: skip
    else:
        yield Advice("telemetry", "reports of libraries to their makers are off")
