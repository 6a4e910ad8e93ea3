"""ONNX Runtime through Hugging Face's optimum: its export, its dynamic int8, sorted batches."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _conversions import cached
from _loop import HEADS, loop

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "tokenizers")
ENV = "optimum"
TASKS = tuple(HEADS)
VARIANTS = {kind: [{"batch": n} for n in (16, 64)] for kind in ("fp32", "int8")}


def export(kind: Any, job: dict[str, Any]) -> Path:
    """The folder of optimum's export, or of its quantized graphs."""
    plain: Path = cached(
        job, "fp32",
        lambda out: kind.from_pretrained(job["checkpoint"], export=True).save_pretrained(out),
    )  # fmt: skip
    if job["variant"] == "fp32":
        return plain
    int8: Path = cached(job, "int8", lambda out: quantize(plain, out))
    return int8


def quantize(plain: Path, folder: Path) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    shutil.copytree(plain, folder, dirs_exist_ok=True)
    config = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    for graph in plain.glob("*.onnx"):
        ORTQuantizer.from_pretrained(plain, graph.name).quantize(config, folder, file_suffix="")


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import onnxruntime
    from optimum import onnxruntime as peer

    head = HEADS[job["task"]] or "FeatureExtraction"
    kind = getattr(peer, f"ORTModelFor{head}")
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = job["threads"]
    model = kind.from_pretrained(export(kind, job), session_options=session)
    call: Callable[[dict[str, Any]], list[Any]] = loop(model, job, setting["batch"])
    return call
