"""The engine as a contestant: `engine.run`, from an Arrow file to an Arrow file.

Its time includes reading, hashing, the manifest and the synced write, which no peer does.
`job["bundle"]` is the bundle.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("onnxruntime",)
TASKS = (
    "feature-extraction", "text-classification", "token-classification",
    "zero-shot-classification", "translation", "summarization", "text2text-generation",
    "text-generation",
)  # fmt: skip
# Two workers or one, who share the threads; small and large batches.
SETTINGS = [
    {"workers": 2, "batch_tokens": 1024},
    {"workers": 2, "batch_tokens": 2048},
    {"workers": 1, "batch_tokens": 2048},
]
VARIANTS = {"fp32": SETTINGS, "int8": SETTINGS, "int8-static": SETTINGS}
ANSWERS: dict[str, Callable[[Any], list[Any]]] = {
    "feature-extraction": lambda table: list(
        table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    ),
    "text-classification": lambda table: table["label"].to_pylist(),
    "token-classification": lambda table: [
        " ".join(f"{e['start']}-{e['end']}-{e['entity_group']}" for e in entities)
        for entities in table["entities"].to_pylist()
    ],
    "zero-shot-classification": lambda table: [labels[0] for labels in table["labels"].to_pylist()],
    "translation": lambda table: table["translation_text"].to_pylist(),
    "summarization": lambda table: table["summary_text"].to_pylist(),
    "text2text-generation": lambda table: table["generated_text"].to_pylist(),
    "text-generation": lambda table: table["generated_text"].to_pylist(),
}


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    """Open the variant's bundle; the setting's workers divide the threads among them."""
    from engine.pipeline import Bundle
    from engine.runner import coordinator

    workers = setting["workers"]
    bundle = Bundle.load(
        job["bundle"], threads=max(1, job["threads"] // workers), check=False, device="cpu"
    )
    # Without `dedupe`: peers compute equal texts again.
    settings = {**setting, **job["options"], "text": job["columns"], "dedupe": False}
    if "max_length" in job:
        settings["max_length"] = job["max_length"]
    if job["task"] == "text-generation":
        settings = {"return_full_text": False, "do_sample": False, **settings}
    if job["task"] == "token-classification":
        settings["aggregation_strategy"] = "simple"

    def call(rows: dict[str, Any]) -> list[Any]:
        count = len(rows[job["columns"][0]])
        out = Path(tempfile.mkdtemp(dir=job["cache"]))
        report = coordinator.run(bundle, job["file"], out / "out", limit=count, **settings)
        answers = _answers(job["task"], [out / "out" / file for file in report.files])
        shutil.rmtree(out)
        return answers

    return call


def _answers(task: str, files: list[Path]) -> list[Any]:
    import pyarrow as pa

    tables = []
    for file in files:
        with pa.OSFile(str(file)) as stream:
            tables.append(pa.ipc.open_file(stream).read_all())
    return ANSWERS[task](pa.concat_tables(tables))
