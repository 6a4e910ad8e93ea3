"""sentence-transformers: `encode`, which sorts by itself; PyTorch fp32 and its own ONNX int8."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _conversions import kept

PACKAGES = ("sentence-transformers", "torch", "transformers", "onnxruntime")
ENV = "sentence-transformers"
TASKS = ("feature-extraction",)
VARIANTS = {kind: [{"batch": n} for n in (16, 32)] for kind in ("fp32", "int8")}


def modules(job: dict[str, Any], folder: Path) -> None:
    """The checkpoint with the modules that make one vector of it."""
    from sentence_transformers import SentenceTransformer, models

    states = models.Transformer(job["checkpoint"])
    mean = models.Pooling(states.get_word_embedding_dimension(), "mean")
    whole = SentenceTransformer(modules=[states, mean, models.Normalize()], device="cpu")
    whole.save(str(folder))


def quantized(plain: Path, folder: Path) -> None:
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
    folder = kept(job, "fp32", lambda made: modules(job, made))
    if job["variant"] == "int8":
        plain = folder
        folder = kept(job, "int8", lambda made: quantized(plain, made))
        file = next((folder / "onnx").glob("*int8*.onnx"))
        given = {"file_name": f"onnx/{file.name}", "session_options": session}
        model = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=given)
    else:
        model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = job["max_length"]
    size, column = setting["batch"], job["columns"][0]
    return lambda rows: list(model.encode(rows[column], batch_size=size).tolist())
