"""The CUDA driver, GPUs and libraries of this machine, by their own C interfaces.

Only ctypes: it answers before an inference runtime is imported, and where none is installed.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Attributes of a device as the driver numbers them (cuda.h, CUdevice_attribute).
_MAJOR, _MINOR = 75, 76
# What the CUDA provider links to, by the first part of the file's name, and the pip package of
# each; CUDA's own carry its major version behind.
LIBRARIES = {
    "libcudart": "nvidia-cuda-runtime",
    "libcublasLt": "nvidia-cublas",
    "libcublas": "nvidia-cublas",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libcudnn": "nvidia-cudnn",
}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: its name, bytes of memory and compute capability such as "9.0"."""

    name: str
    memory: int
    capability: str


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver.

    Attributes:
        release: Of the driver, such as "580.65.06"; "" where it does not tell.
        cuda: The newest CUDA that it serves, such as (13, 0); (0, 0) without a driver.
        gpus: In the driver's order, which is that of cuda:0, cuda:1, ...
        problem: Why no GPU can be used, or "".
    """

    release: str = ""
    cuda: tuple[int, int] = (0, 0)
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


def look() -> Driver:
    """Ask the driver; never raises."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Driver(problem="no NVIDIA driver is loaded (libcuda.so.1 is not found)")
    if code := driver.cuInit(0):
        # 100 is CUDA_ERROR_NO_DEVICE.
        why = "has no GPU to offer" if code == 100 else f"does not start (CUDA error {code})"
        return Driver(_release(), _served(driver), problem=f"the NVIDIA driver {why}")
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(driver, n) for n in range(count.value))
    problem = "" if gpus else "the NVIDIA driver has no GPU to offer"
    return Driver(_release(), _served(driver), gpus, problem)


def _served(driver: Any) -> tuple[int, int]:
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def _gpu(driver: Any, number: int) -> Gpu:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    return Gpu(name.value.decode(errors="replace"), size.value, ".".join(parts))


def _release() -> str:
    """The driver's own number, from NVML."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ""
    version = ctypes.create_string_buffer(96)
    if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(version, len(version)):
        return ""
    return version.value.decode(errors="replace")


def missing(major: int) -> tuple[str, ...]:
    """Those of `LIBRARIES`, of a CUDA major version, that cannot be loaded; files' names."""
    # cuFFT counts one behind CUDA since CUDA 12, cuRAND has kept its 10.
    versions = {"libcufft": major - 1, "libcurand": 10, "libcudnn": 9}
    files = (f"{name}.so.{versions.get(name, major)}" for name in LIBRARIES)
    return tuple(file for file in files if _library(file) is None)


def versions(major: int) -> dict[str, str]:
    """Versions of the CUDA runtime and of cuDNN where they are loaded; "" where one is not."""
    loaded = {"cuda": "", "cudnn": ""}
    runtime, cudnn = _library(f"libcudart.so.{major}"), _library("libcudnn.so.9")
    number = ctypes.c_int()
    if runtime and not runtime.cudaRuntimeGetVersion(ctypes.byref(number)):
        loaded["cuda"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if cudnn:
        cudnn.cudnnGetVersion.restype = ctypes.c_size_t
        number = cudnn.cudnnGetVersion()
        loaded["cudnn"] = f"{number // 10000}.{number % 10000 // 100}.{number % 100}"
    return loaded


def page_locked(size: int, major: int) -> NDArray[np.uint8]:
    """Host memory that the GPU copies from directly, bytes (size,); ordinary memory where the CUDA
    runtime is not loaded or refuses. It is unlocked when the array is freed."""
    array = np.zeros(max(1, size), np.uint8)
    runtime = _library(f"libcudart.so.{major}")
    if runtime is None:
        return array
    address = ctypes.c_void_p(array.ctypes.data)
    if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)) == 0:
        weakref.finalize(array, runtime.cudaHostUnregister, address)
    return array


def _library(file: str) -> Any | None:
    """A library that is loaded already, or that the system finds; None without one."""
    try:
        return ctypes.CDLL(file)
    except OSError:
        return None
