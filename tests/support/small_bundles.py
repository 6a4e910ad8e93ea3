"""Bundles of a few kilobytes that ONNX Runtime really opens: a table of vectors, and what a task
makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from support import onnx_bytes as ox

from engine.bundle import format as bundle_format
from engine.bundle.description import Description, ModelConfig
from engine.core.graphs import GraphRecord
from engine.demo import BUNDLE

VOCABULARY, WIDTH, LABELS = 256, 8, ("bad", "fair", "good")
TABLE = np.random.default_rng(7).standard_normal((VOCABULARY, WIDTH)).astype("<f4").tobytes()
INPUTS = [ox.value(name, ["b", "s"], ox.INT64) for name in ("input_ids", "attention_mask")]
STATES = ox.value("last_hidden_state", ["b", "s", WIDTH])
LOOKUP = ox.node("Gather", ["table", "input_ids"], ["last_hidden_state"])
WEIGHTS = ox.tensor("table", [VOCABULARY, WIDTH], TABLE)


def embedder(folder: Path, graph: bytes = b"") -> Path:
    """A bundle of feature-extraction; `graph` is the content of its ONNX file."""
    plain = ox.model(ox.graph([LOOKUP], INPUTS, [STATES], [WEIGHTS]))
    config = ModelConfig(max_length=32, pooling="mean", dimensions=WIDTH, hidden=WIDTH)
    return _written(folder, graph or plain, "feature-extraction", config)


def classifier(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """A bundle of text-classification with three logits."""
    head = ox.tensor("head", [WIDTH, len(LABELS)], TABLE[: WIDTH * len(LABELS) * 4])
    mean = ox.node(
        "ReduceMean",
        ["last_hidden_state"],
        ["mean"],
        ox.field(5, ox.field(1, "axes") + ox.field(8, 1) + ox.field(20, 7))
        + ox.attribute("keepdims", 0),
    )
    nodes = [LOOKUP, mean, ox.node("MatMul", ["mean", "head"], ["logits"])]
    logits = ox.value("logits", ["b", len(LABELS)])
    content = ox.model(ox.graph(nodes, INPUTS, [logits], [WEIGHTS, head]))
    problem = "single_label_classification"
    config = ModelConfig(max_length=32, labels=labels, problem_type=problem)
    return _written(folder, content, "text-classification", config)


def demo(folder: Path) -> Path:
    """The embedded translator."""
    return Path(shutil.copytree(BUNDLE, folder))


def rehash(folder: Path) -> None:
    """Make the description that of the files which it lists, as a stranger would."""
    file = folder / bundle_format.DESCRIPTION
    content = json.loads(file.read_text())
    for name in content["files"]:
        if (folder / name).is_file():
            content["files"][name] = record(folder / name)
    file.write_text(json.dumps(content))


def record(file: Path) -> dict[str, Any]:
    """A file as a description lists it."""
    return {"sha256": bundle_format.sha256(file), "bytes": file.stat().st_size}


def _written(folder: Path, graph: bytes, task: str, config: ModelConfig) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(BUNDLE / bundle_format.TOKENIZER, folder)
    (folder / "model.onnx").write_bytes(graph)
    records = (GraphRecord("model.onnx", "model"),)
    bundle_format.save(folder, Description(task, "fake", "fp32", config, graphs=records))
    return folder
