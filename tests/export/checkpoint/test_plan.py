"""Before any weight is loaded an export says what it is going to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of
from typer.testing import CliRunner

from engine.cli import app
from engine.errors import ExportError
from engine.export import export

pytest.importorskip("optimum.exporters.onnx")


def _plan(model: Path, tmp_path: Path, **settings: Any) -> list[str]:
    """The lines before the export looks for the weights, which are not there."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    (copy / "model.safetensors").rename(tmp_path / "away")
    lines: list[str] = []
    with pytest.raises(ExportError, match=r"weights \(model.safetensors\) is missing"):
        export(str(copy), tmp_path / "out", progress=lines.append, **settings)
    return [line for line in lines if line.startswith("plan: ")]


def test_a_classifier(tmp_path: Path) -> None:
    lines = _plan(checkpoint_of(checkpoints.classifier), tmp_path, task=None, recipe="int8")
    assert lines == [
        "plan: text-classification, family bert, head BertForSequenceClassification, "
        "weights in float32, recipe int8",
        "plan: 2 labels: bad, good",
    ]


def test_an_embedder(tmp_path: Path) -> None:
    model = tmp_path / "embedder"
    shutil.copytree(checkpoint_of(checkpoints.embedder), model)
    prompts = {"prompts": {"query": "query: ", "none": ""}}
    checkpoints.write_json(model / "config_sentence_transformers.json", prompts)
    lines = _plan(model, tmp_path, task=None)
    assert lines[0].startswith("plan: feature-extraction, family bert, head BertModel, ")
    assert lines[1] == "plan: pooling mean, normalized, prompts query"


def test_a_translator_as_it_was_asked_for(tmp_path: Path) -> None:
    (line,) = _plan(checkpoint_of(checkpoints.t5), tmp_path, task="translation_en_to_de")
    assert line.startswith("plan: translation_en_to_de, family t5, head T5ForCond")


def test_many_labels_and_where_entailment_is(tmp_path: Path) -> None:
    names = [*(f"name {n}" for n in range(9)), "entailment"]
    maps = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    model = checkpoint_of(checkpoints.encoder, "bert", "zero-shot-classification", **maps)
    lines = _plan(model, tmp_path, task="zero-shot-classification")
    assert lines[1].startswith("plan: 10 labels: name 0, name 1,")
    assert lines[1].endswith(" and 4 more; entailment is logit 9")


def test_the_dtype_is_that_of_the_file_and_both_commands_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(checkpoints.classifier), model)
    weights = load_file(model / "model.safetensors")
    half = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(half, model / "model.safetensors", {"format": "pt"})
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a house"}\n')
    rows, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    for words in (
        ["export", str(model), "--task", "ner", "--force", "-o", str(tmp_path / "bundle")],
        ["run", str(model), rows, "-o", out],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.stderr
        plan = [line for line in result.stderr.splitlines() if line.startswith("plan: ")]
        assert "weights in bfloat16" in plan[0]
        assert "plan" not in result.stdout
    assert "head BertForSequenceClassification" in plan[0]
    note = "note: config.json says BertForSequenceClassification, which is not for token-class"
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "bundle")])
    assert note.removeprefix("note: ") in result.stdout
