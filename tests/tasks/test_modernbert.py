"""ModernBERT across its window of local attention, against the pipelines and in int8."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.bundle import format as bundle_format
from engine.export.sentences import SENTENCES

pytest.importorskip("optimum.exporters.onnx")

# A window of 128 tokens, and rows of up to 512.
LONG = {"local_attention": 128, "max_position_embeddings": 512}
TEXTS = [
    *SENTENCES,
    *(" ".join(pair) for pair in permutations((*SENTENCES, *checkpoints.SENTENCES), 2)),
][:200]
TEXTS += [" ".join(SENTENCES) * n for n in (1, 2)]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classes_of_long_texts_are_the_pipeline_s(pooling: str) -> None:
    from transformers import pipeline

    settings = {**LONG, "classifier_pooling": pooling}
    model = checkpoint_of(checkpoints.encoder, "modernbert", "text-classification", **settings)
    bundle = engine.Bundle.load(bundle_of(model, "text-classification"))
    rows = bundle(TEXTS, top_k=0, max_length=512).to_pylist()
    pipe = pipeline("text-classification", model=str(model), dtype="float32", device="cpu")
    cut = {"truncation": True, "max_length": 512}
    for row, expected in zip(rows, pipe(TEXTS, top_k=None, **cut), strict=True):
        assert row["labels"] == [e["label"] for e in expected]
        assert row["scores"] == pytest.approx([e["score"] for e in expected], abs=1e-5)
    alone = [bundle([text], top_k=0, max_length=512).to_pylist()[0] for text in TEXTS[-20:]]
    for row, other in zip(rows[-20:], alone, strict=True):
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_int8_of_a_row_does_not_depend_on_its_batch() -> None:
    model = checkpoint_of(checkpoints.encoder, "modernbert", "feature-extraction", **LONG)
    bundle = bundle_of(model, "feature-extraction", "int8", force=True)
    figures = bundle_format.load(bundle).description.gate["figures"]
    assert figures["largest difference to the row alone"]["holds"]
    plain = bundle_of(model, "feature-extraction")
    int8, fp32 = engine.Bundle.load(bundle), engine.Bundle.load(plain)
    rows = [np.stack(b(TEXTS[-20:], max_length=512)["embedding"].to_numpy()) for b in (int8, fp32)]
    cosine = (rows[0] * rows[1]).sum(1) / np.prod([np.linalg.norm(r, axis=1) for r in rows], axis=0)
    assert cosine.min() > 0.9


def test_int8_passes_its_gate_on_calm_weights() -> None:
    calm = {**LONG, "initializer_range": 0.05, "hidden_size": 64, "intermediate_size": 96}
    model = checkpoint_of(checkpoints.encoder, "modernbert", "feature-extraction", **calm)
    gate = bundle_format.load(bundle_of(model, "feature-extraction", "int8")).description.gate
    assert (gate["passed"], gate["forced"]) == (True, False)


def test_a_reranker_of_its_kind_scores_as_its_formula() -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    one = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    model = checkpoint_of(checkpoints.encoder, "modernbert", "text-classification", **one)
    bundle = engine.Bundle.load(bundle_of(model, "rerank"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    query, documents = SENTENCES[1], list(SENTENCES[2:])
    (row,) = bundle([(query, documents)]).to_pylist()
    pairs = ([query] * len(documents), documents)
    with torch.no_grad():
        batch = tokenizer(*pairs, padding=True, truncation=True, return_tensors="pt")
        expected = torch.sigmoid(network(**batch).logits[:, 0]).numpy()
    assert row["scores"] == pytest.approx(expected[row["order"]].tolist(), abs=1e-5)
    assert row["scores"] == sorted(row["scores"], reverse=True)
