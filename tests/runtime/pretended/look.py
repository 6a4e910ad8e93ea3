"""What ONNX Runtime's CUDA provider does with a bundle on a pretended GPU; JSON on the last line.

python look.py placed BUNDLE     nodes by graph and provider
python look.py fallen BUNDLE     what is said of nodes that the CPU would compute
python look.py encoded BUNDLE    one batch, counted behind some like it
python look.py stayed BUNDLE     windows of batches of many shapes, counted in two halves
python look.py repeated BUNDLE   the same rows five times, each counted
python look.py decoded BUNDLE    a few launches of the resident step, and some of another thread
python look.py refused           what is said where there is no GPU
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import format as bundle_format
from engine.bundle.format import SYNC_EVERY
from engine.core.device import Device
from engine.core.graphs import GraphRecord
from engine.demo import BUNDLE
from engine.errors import EngineError
from engine.generation.buffer_pool import BufferPool
from engine.generation.device_cache import POSITIONS, DeviceCache
from engine.pipeline import Bundle
from engine.runtime import cuda, device, doctor
from engine.runtime.backend import OrtBackend

KINDS = (
    "launches", "syncs", "to_gpu", "to_host", "allocations", "graphs", "products", "forbidden",
    "moves",
)  # fmt: skip
WIDTH, LENGTHS = 64, np.array([64, 64, 50, 7])
FEEDS = {"attention_mask": (np.arange(WIDTH) < LENGTHS[:, None]).astype(np.int64)}
FEEDS |= {"input_ids": 5 * FEEDS["attention_mask"], "token_type_ids": 0 * FEEDS["attention_mask"]}


class Gpu:
    """The pretended libraries' own counters."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcudart.so.13")
        self._library.pretended_counts.restype = ctypes.POINTER(ctypes.c_ulong)

    def counted(self, call: Callable[[], Any]) -> dict[str, int]:
        self._library.pretended_forget()
        call()
        counts = self._library.pretended_counts()
        return {name: counts[n] for n, name in enumerate(KINDS)}


def opened(folder: str) -> OrtBackend:
    found = bundle_format.load(folder)
    return OrtBackend(found.path, found.graphs_for(Device("cuda")), device=Device("cuda"))


def placed(folder: str) -> dict[str, Any]:
    return dict(opened(folder).ran)


def fallen(folder: str) -> dict[str, Any]:
    try:
        return placed(folder)
    except EngineError as error:
        return {"said": str(error)}


def encoded(folder: str) -> dict[str, Any]:
    gpu, backend = Gpu(), opened(folder)
    graph = backend.graph("model" if "model" in backend.roles else "encoder")
    feeds = {name: FEEDS[name] for name in graph.inputs if name in FEEDS}

    def run() -> None:
        values = graph.run(feeds, graph.outputs)
        assert len(backend.host(values[0])) == len(LENGTHS)

    # Memory and kernels are found in the first ones.
    for _ in range(3):
        run()
    return gpu.counted(run)


def stayed(folder: str) -> list[dict[str, int]]:
    gpu, backend = Gpu(), opened(folder)
    graph = backend.graph("model" if "model" in backend.roles else "encoder")
    drawn = np.random.default_rng(0)

    def window() -> None:
        lengths = np.sort(drawn.lognormal(drawn.uniform(1, 4), 0.6, 256).astype(np.int64))[::-1]
        lengths = np.clip(lengths, 2, WIDTH)
        while len(lengths):
            width = -(-int(lengths[0]) // 8) * 8
            count = max(1, int(drawn.integers(500, 2000)) // width)
            mask = (np.arange(width) < lengths[:count, None]).astype(np.int64)
            feeds = {"attention_mask": mask, "input_ids": 5 * mask, "token_type_ids": 0 * mask}
            given = {name: feeds[name] for name in graph.inputs if name in feeds}
            backend.host(graph.run(given, graph.outputs)[0])
            lengths = lengths[count:]

    return [gpu.counted(lambda: [window() for _ in range(100)]) for _ in range(2)]


def repeated(folder: str) -> list[dict[str, int]]:
    gpu, model = Gpu(), Bundle.load(folder, device="cuda")
    drawn = np.random.default_rng(0)
    words = ["one", "two", "a", "b", "c", "the", "house", "it", "is", "there"]
    # The last hundred rows of a second window leave most of 512 slots empty.
    texts = [" ".join(drawn.choice(words, int(n))) for n in drawn.lognormal(3, 0.8, 4_700)]
    given = {"max_new_tokens": 60} if model.model_config.decoder else {}
    return [gpu.counted(lambda: model(texts, max_length=64, **given)) for _ in range(5)]


def decoded(folder: str) -> dict[str, Any]:
    gpu, backend = Gpu(), opened(folder)
    settings = bundle_format.load(folder).description.model_config.decoder
    assert settings
    sizes: dict[str, Any] = {
        "width": 1,
        "positions": 2 * POSITIONS,
        "picks": 1,
        "pool": BufferPool(),
    }
    caches: list[DeviceCache] = []

    def make(count: int) -> None:
        feeds = {name: FEEDS[name][:count] for name in ("input_ids", "attention_mask")}
        cache = DeviceCache(backend, settings, feeds, **sizes)
        cache.start(np.arange(count), np.arange(count), np.zeros(count, np.int64), 2 * POSITIONS)
        caches[:] = [cache]

    def grow() -> None:
        caches[0].reserve(2 * POSITIONS)

    def launch() -> None:
        backend.serially(lambda: caches[0].launch(SYNC_EVERY))

    def elsewhere() -> None:
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()

    told = {}
    # The second, with fewer rows, is captured over parts of the first one's memory.
    for name, count in (("first", 4), ("fewer", 2), ("again", 4), ("fewer again", 2)):
        told[name] = gpu.counted(lambda count=count: backend.serially(lambda: make(count)))
        launch()
        told[f"{name}, here"] = gpu.counted(launch)
        told[f"{name}, elsewhere"] = gpu.counted(elsewhere)
        told[f"{name}, grown"] = gpu.counted(lambda: backend.serially(grow))
        launch()
        told[f"{name}, beyond"] = gpu.counted(launch)
    return told


def refused() -> dict[str, Any]:
    """Without a driver; as if there were one; and what doctor makes of it."""
    said = []
    try:
        device.resolve("cuda")
    except EngineError as error:
        said.append(str(error))
    cuda.look = lambda: cuda.Driver("1", (13, 0), (cuda.Gpu("pretended", 1, "9.0"),))
    try:
        OrtBackend(BUNDLE, [GraphRecord("encoder.onnx", "encoder")], device=Device("cuda"))
    except EngineError as error:
        said.append(str(error))
    found = doctor.diagnose(Path(BUNDLE) / "encoder.onnx")
    return {"said": said, "providers": found.providers, "hints": found.hints, "cuda": found.cuda}


if __name__ == "__main__":
    asked = {
        call.__name__: call
        for call in (placed, fallen, encoded, stayed, repeated, decoded, refused)
    }
    sys.stdout.write(json.dumps(asked[sys.argv[1]](*sys.argv[2:])) + "\n")
