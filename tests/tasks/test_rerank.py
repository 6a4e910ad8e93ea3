"""rerank: scores and order are those of sentence-transformers' CrossEncoder, by its formula."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.bundle import format as bundle_format
from engine.errors import ExportError, RowError, SettingsError
from engine.export import export
from engine.export.sentences import SENTENCES
from engine.tasks import rerank

pytest.importorskip("optimum.exporters.onnx")

QUERIES = [*SENTENCES, "the garden " * 60]
DOCUMENTS = [
    [d for d in (*checkpoints.SENTENCES, *SENTENCES, "dog " * 90) if d != q] for q in QUERIES
]
ROWS = list(zip(QUERIES, DOCUMENTS, strict=True))


def _checkpoint(family: str) -> Path:
    one = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return checkpoint_of(checkpoints.encoder, family, "text-classification", **one)


def _logits(model: Path, prefix: str = "") -> list[list[float]]:
    """The logits that CrossEncoder's activation gets: pairs, the longer text truncated first."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    rows = []
    for query, documents in ROWS:
        pairs = ([prefix + query] * len(documents), documents)
        batch = tokenizer(*pairs, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            rows.append(network(**batch).logits[:, 0].tolist())
    return rows


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_scores_and_order_are_the_cross_encoder_s(family: str) -> None:
    model = _checkpoint(family)
    bundle = engine.Bundle.load(bundle_of(model, "rerank"))
    batched = bundle(ROWS).to_pylist()
    assert sum(len(documents) for documents in DOCUMENTS) >= 200
    for row, logits in zip(batched, _logits(model), strict=True):
        expected = 1 / (1 + np.exp(-np.array(logits)))
        order = sorted(range(len(logits)), key=lambda n: expected[n], reverse=True)
        assert np.abs(np.array(row["scores"]) - expected[order]).max() < 1e-5
        assert np.abs(expected[row["order"]] - expected[order]).max() < 1e-5
        assert row["score"] == row["scores"][0]
    alone = [bundle([row]).to_pylist()[0] for row in ROWS]
    for one, other in zip(batched, alone, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_a_text_is_a_list_of_one_and_a_row_may_have_no_documents() -> None:
    bundle = engine.Bundle.load(bundle_of(_checkpoint("bert"), "rerank"))
    texts = bundle([("house", "a garden"), ("house", "a dog")]).to_pylist()
    lists = bundle([("house", ["a garden", "a dog"]), ("x", []), ("house", ["a dog"])]).to_pylist()
    assert sorted(lists[0]["scores"]) == pytest.approx(sorted(row["score"] for row in texts))
    assert texts[1] == lists[2]
    assert lists[1] == {"score": None, "scores": [], "order": []}
    assert bundle([("x", [])]).to_pylist() == [lists[1]]
    assert len(bundle([])) == 0


def test_top_k_and_logits() -> None:
    model = _checkpoint("bert")
    bundle = engine.Bundle.load(bundle_of(model, "rerank"))
    whole = bundle(ROWS, function_to_apply="none").to_pylist()
    best = bundle(ROWS, top_k=3, function_to_apply="none").to_pylist()
    for row, first, logits in zip(whole, best, _logits(model), strict=True):
        assert row["scores"] == pytest.approx(sorted(logits, reverse=True), abs=1e-5)
        assert first["scores"] == row["scores"][:3]
        assert first["order"] == row["order"][:3]
    with pytest.raises(SettingsError, match="sigmoid, none"):
        bundle(ROWS, function_to_apply="softmax")


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=5), max_size=6),
    st.integers(0, 4),
)
def test_documents_are_sorted_as_python_sorts(rows: list[list[float]], top_k: int) -> None:
    lengths = np.array([len(row) for row in rows], np.int64)
    owners = np.repeat(np.arange(len(rows)), lengths)
    scores = np.array([score for row in rows for score in row], np.float32)
    order, sorted_scores, kept = rerank._best(scores, owners, np.cumsum(lengths) - lengths, top_k)
    ends = np.cumsum(kept)
    for row, start, stop in zip(rows, ends - kept, ends, strict=True):
        expected = sorted(range(len(row)), key=lambda n: row[n], reverse=True)
        expected = expected[:top_k] if top_k else expected
        assert order[start:stop].tolist() == expected
        assert sorted_scores[start:stop].tolist() == [row[n] for n in expected]


def test_a_run_reads_a_column_of_lists_and_one_of_texts(tmp_path: Path) -> None:
    bundle = bundle_of(_checkpoint("bert"), "rerank")
    rows = [{"query": q, "documents": d} for q, d in ROWS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine.run(bundle, [tmp_path / "rows.jsonl"], tmp_path / "out")
    (part,) = (tmp_path / "out").glob("part-*.arrow")
    with pa.ipc.open_file(part) as file:
        table = file.read_all()
    assert table.to_pylist() == engine.Bundle.load(bundle)(ROWS).to_pylist()
    pairs = [{"query": q, "documents": d[0]} for q, d in ROWS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    engine.run(bundle, [tmp_path / "pairs.jsonl"], tmp_path / "other")
    columns = ["documents", "query"]
    with pytest.raises(RowError, match="other than the task takes"):
        engine.run(bundle, [tmp_path / "rows.jsonl"], tmp_path / "turned", text=columns)


# --- what sentence-transformers wrote beside the weights

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
SAVED: list[tuple[dict[str, Any], dict[str, Any], str, bool]] = [
    ({}, {"activation_fn": IDENTITY, "model_type": "CrossEncoder"}, "none", False),
    ({}, {"activation_fn": SIGMOID, "model_type": "CrossEncoder"}, "sigmoid", False),
    ({"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}}, {}, "none", True),
    ({"sentence_transformers": {"version": "4.1.0"}}, {}, "sigmoid", True),
    ({"sbert_ce_default_activation_function": IDENTITY}, {}, "none", True),
    ({"sbert_ce_default_activation_function": "torch.nn.Sigmoid"}, {}, "sigmoid", True),
    (
        {"sbert_ce_default_activation_function": SIGMOID},
        {"activation_fn": IDENTITY, "model_type": "CrossEncoder"},
        "none",
        False,
    ),
]


def _saved(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> Path:
    """A reranker in the layout of a version: with modules.json from 5.4 on."""
    shutil.copytree(_checkpoint("bert"), folder)
    checkpoints.edit_json(folder / "config.json", **config)
    if settings:
        kind = "sentence_transformers.base.modules.transformer.Transformer"
        modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
        checkpoints.write_json(folder / "modules.json", modules)
        checkpoints.write_json(folder / "config_sentence_transformers.json", settings)
        task = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
        checkpoints.write_json(folder / "sentence_bert_config.json", task)
    return folder


@pytest.mark.parametrize(("config", "settings", "activation", "strips"), SAVED)
def test_the_activation_and_the_task_are_found_where_each_version_writes_them(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], activation: str, strips: bool
) -> None:
    model = _saved(tmp_path / "model", config, settings)
    export(str(model), tmp_path / "out", task=None)
    description = bundle_format.load(tmp_path / "out").description
    assert (description.task, description.model_config.activation) == ("rerank", activation)
    assert description.model_config.strip == strips


def test_the_default_prompt_goes_before_each_query(tmp_path: Path) -> None:
    prompts = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    settings = {"activation_fn": IDENTITY, "model_type": "CrossEncoder", **prompts}
    model = _saved(tmp_path / "model", {}, settings)
    export(str(model), tmp_path / "out", task="rerank")
    rows = engine.Bundle.load(tmp_path / "out")(ROWS).to_pylist()
    for row, logits in zip(rows, _logits(model, "query: "), strict=True):
        assert row["scores"] == pytest.approx(sorted(logits, reverse=True), abs=1e-5)


def test_what_is_no_reranker_is_refused_before_its_weights(tmp_path: Path) -> None:
    model = _saved(tmp_path / "model", {}, {"activation_fn": "torch.nn.modules.activation.Tanh"})
    (model / "model.safetensors").unlink()
    for said, change in (
        ("names the activation torch.nn.modules.activation.Tanh; supported are Sigmoid", {}),
        ("default prompt 'x', which is not among its prompts: none", {"default_prompt_name": "x"}),
    ):
        settings = {"activation_fn": SIGMOID, **change} if change else None
        if settings:
            checkpoints.write_json(model / "config_sentence_transformers.json", settings)
        with pytest.raises(ExportError, match=said):
            export(str(model), tmp_path / "out", task="rerank")
    modules = json.loads((model / "modules.json").read_text())
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.models.Dense"}
    checkpoints.write_json(model / "modules.json", [*modules, dense])
    with pytest.raises(ExportError, match="layers Transformer, Dense"):
        export(str(model), tmp_path / "out", task="rerank")
    two = checkpoint_of(checkpoints.classifier)
    with pytest.raises(ExportError, match=r"one logit; config\.json names 2: bad, good") as caught:
        export(str(two), tmp_path / "out", task="rerank")
    assert "--task text-classification" in caught.value.hint
    export(str(two), tmp_path / "out", task="text-classification")


def test_code_of_others_is_not_run(tmp_path: Path) -> None:
    settings = {"activation_fn": "os.getcwd", "model_type": "CrossEncoder"}
    report = export(str(_saved(tmp_path / "model", {}, settings)), tmp_path / "out", task=None)
    assert any("os.getcwd" in note and "sigmoid" in note for note in report.notes)


def test_int8_is_compared_by_the_order_of_documents(tmp_path: Path) -> None:
    description = bundle_format.load(
        bundle_of(_checkpoint("bert"), "rerank", "int8", force=True)
    ).description
    assert "same document" in description.gate["figures"]
