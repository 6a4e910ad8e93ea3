"""fastembed: its `embed` on a plain ONNX export; it does not sort, so the adapter does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("fastembed", "onnxruntime", "tokenizers")
ENV = "fastembed"
TASKS = ("feature-extraction",)
VARIANTS = {"fp32": [{"batch": 16}, {"batch": 32}]}


def skip(job: dict[str, Any]) -> str:
    exported = job.get("onnx") and Path(job["onnx"], "model.onnx").is_file()
    return "" if exported else "it cannot export a checkpoint, and the job has no ONNX file"


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import json

    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    shape = json.loads(Path(job["checkpoint"], "config.json").read_text(encoding="utf-8"))
    name = "benchmark/checkpoint"
    if all(model["model"] != name for model in TextEmbedding.list_supported_models()):
        TextEmbedding.add_custom_model(
            model=name, pooling=PoolingType.MEAN, normalization=True, dim=shape["hidden_size"],
            sources=ModelSource(hf=name), model_file="model.onnx",
        )  # fmt: skip
    model = TextEmbedding(name, specific_model_path=job["onnx"], threads=job["threads"])
    model.model.tokenizer.enable_truncation(job["max_length"])

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
        answers: list[Any] = [None] * len(texts)
        vectors = model.embed([texts[n] for n in order], batch_size=setting["batch"])
        for n, vector in zip(order, vectors, strict=True):
            answers[n] = vector.tolist()
        return answers

    return call
