"""sentence-transformers: `encode`, which sorts by itself; PyTorch fp32 and its own ONNX int8."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _conversions import cached

PACKAGES = ("sentence-transformers", "torch", "transformers", "onnxruntime")
ENV = "sentence-transformers"
TASKS = ("feature-extraction",)
VARIANTS = {kind: [{"batch": n} for n in (16, 32)] for kind in ("fp32", "int8")}


def save_modules(job: dict[str, Any], folder: Path) -> None:
    """The checkpoint with mean pooling and normalization."""
    from sentence_transformers import SentenceTransformer, models

    states = models.Transformer(job["checkpoint"])
    mean = models.Pooling(states.get_word_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[states, mean, models.Normalize()], device="cpu")
    model.save(str(folder))


def quantize(plain: Path, folder: Path) -> None:
    import sentence_transformers as peer

    shutil.copytree(plain, folder, dirs_exist_ok=True)
    model = peer.SentenceTransformer(str(folder), backend="onnx", device="cpu")
    peer.export_dynamic_quantized_onnx_model(model, "avx2", str(folder))


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(job["threads"])
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = job["threads"]
    folder = cached(job, "fp32", lambda out: save_modules(job, out))
    if job["variant"] == "int8":
        plain = folder
        folder = cached(job, "int8", lambda out: quantize(plain, out))
        file = next((folder / "onnx").glob("*int8*.onnx"))
        options = {"file_name": f"onnx/{file.name}", "session_options": session}
        model = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=options)
    else:
        model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = job["max_length"]
    size, column = setting["batch"], job["columns"][0]
    return lambda rows: list(model.encode(rows[column], batch_size=size).tolist())
