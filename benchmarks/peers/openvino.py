"""OpenVINO on optimum-intel's export, with parallel workers; int8 by nncf, with the job's rows as
the calibration sample, of decoders only the weights.

Decoders run in one worker with all threads: two in a process sometimes hang.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from _loop import HEADS, loop, skip
from _openvino_export import export

PACKAGES = ("openvino", "optimum-intel", "nncf", "transformers", "tokenizers")
ENV = "openvino"
TASKS = tuple(HEADS)
BATCHES = (8, 32)
SETTINGS = [{"workers": 2, "batch": batch} for batch in BATCHES]
VARIANTS = {"fp32": SETTINGS, "bf16": SETTINGS, "int8": SETTINGS}
__all__ = ["ENV", "PACKAGES", "TASKS", "VARIANTS", "load", "settings", "skip"]


def settings(job: dict[str, Any], variant: str) -> list[dict[str, Any]]:
    decodes = HEADS[job["task"]].endswith("LM")
    return [{"workers": 1, "batch": batch} for batch in BATCHES] if decodes else VARIANTS[variant]


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    # optimum-intel installs torchvision, which fails beside a CPU-only PyTorch; text needs none.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from optimum import intel

    kind = getattr(intel, f"OVModelFor{HEADS[job['task']] or 'FeatureExtraction'}")
    folder = export(kind, job, "int8" if job["variant"] == "int8" else "fp32")
    count = setting["workers"]
    hints = {
        "INFERENCE_NUM_THREADS": max(1, job["threads"] // count), "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if job["variant"] == "bf16" else "f32",
        # Pinned workers would share a core.
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    models = [kind.from_pretrained(folder, ov_config=hints) for _ in range(count)]
    loops = [loop(model, job, setting["batch"]) for model in models]

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
        shares = [{job["columns"][0]: [texts[n] for n in order[k::count]]} for k in range(count)]
        by_row: dict[int, Any] = {}
        with ThreadPoolExecutor(count) as pool:
            for k, answers in enumerate(pool.map(lambda run, share: run(share), loops, shares)):
                by_row.update(zip(order[k::count], answers, strict=True))
        return [by_row[n] for n in range(len(texts))]

    return call
