"""What ONNX Runtime's CUDA provider does with a bundle on a pretended card; JSON on the last line.

python look.py placed BUNDLE     nodes by graph and provider
python look.py fallen BUNDLE     what is said of nodes that the CPU would compute
python look.py encoded BUNDLE    one batch, counted behind some like it
python look.py decoded BUNDLE    a few launches of the resident step, and some of another thread
python look.py refused           what is said where there is no card
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

from engine import bundle, cuda, device, doctor
from engine.backend import OrtBackend
from engine.bundle import LATE
from engine.demo import BUNDLE
from engine.errors import EngineError
from engine.generation.resident import Resident

KINDS = (
    "launches", "syncs", "to_card", "to_host", "allocations", "graphs", "products", "forbidden",
)  # fmt: skip
WIDTH, LENGTHS = 64, np.array([64, 64, 50, 7])
FEEDS = {"attention_mask": (np.arange(WIDTH) < LENGTHS[:, None]).astype(np.int64)}
FEEDS |= {"input_ids": 5 * FEEDS["attention_mask"], "token_type_ids": 0 * FEEDS["attention_mask"]}


class Card:
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
    found = bundle.load(folder)
    return OrtBackend(found.path, found.graphs_for("cuda:0"), device="cuda")


def placed(folder: str) -> dict[str, Any]:
    return dict(opened(folder).ran)


def fallen(folder: str) -> dict[str, Any]:
    try:
        return placed(folder)
    except EngineError as error:
        return {"said": str(error)}


def encoded(folder: str) -> dict[str, Any]:
    card, backend = Card(), opened(folder)
    graph = backend.graph("model" if "model" in backend.graphs else "encoder")
    feeds = {name: FEEDS[name] for name in graph.inputs if name in FEEDS}

    def run() -> None:
        values = graph.run(feeds, graph.outputs)
        assert len(backend.host(values[0])) == len(LENGTHS)

    # Memory and kernels are found in the first ones.
    for _ in range(3):
        run()
    return card.counted(run)


def decoded(folder: str) -> dict[str, Any]:
    card, backend = Card(), opened(folder)
    settings = bundle.load(folder).description.facts.generation
    assert settings
    sizes = {"width": 1, "most": 64, "picks": 1}
    cache: list[Resident] = []
    feeds = {name: FEEDS[name] for name in ("input_ids", "attention_mask")}
    rows = np.arange(len(LENGTHS))

    def make() -> None:
        cache.append(Resident(backend, settings, feeds, **sizes))

    def begin() -> None:
        cache[0].begin(rows, rows, np.zeros(len(rows), np.int64), 40)
        cache[0].reserve(2 * LATE)

    def launch() -> None:
        backend.alone(lambda: cache[0].launch(LATE))

    def elsewhere() -> None:
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()

    told = {"made": card.counted(lambda: backend.alone(make))}
    told["begun"] = card.counted(lambda: backend.alone(begin))
    launch()
    return {**told, "here": card.counted(launch), "elsewhere": card.counted(elsewhere)}


def refused() -> dict[str, Any]:
    """Without a driver; as if there were one; and what doctor makes of it."""
    said = []
    try:
        device.resolve("cuda")
    except EngineError as error:
        said.append(str(error))
    cuda.look = lambda: cuda.Driver("1", (13, 0), (cuda.Card("pretended", 1, "9.0"),))
    try:
        OrtBackend(BUNDLE, ["encoder.onnx"], device="cuda")
    except EngineError as error:
        said.append(str(error))
    found = doctor.diagnose(Path(BUNDLE) / "encoder.onnx")
    return {"said": said, "providers": found.providers, "hints": found.hints, "cuda": found.cuda}


if __name__ == "__main__":
    asked = {call.__name__: call for call in (placed, fallen, encoded, decoded, refused)}
    sys.stdout.write(json.dumps(asked[sys.argv[1]](*sys.argv[2:])) + "\n")
