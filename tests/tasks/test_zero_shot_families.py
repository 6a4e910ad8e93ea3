"""zero-shot-classification of families of their own tokenizers and pairs, on news."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine

pytest.importorskip("optimum.exporters.onnx")

TASK = "zero-shot-classification"
LABELS = ["world politics", "sports", "science and technology"]
ROWS = 200


@pytest.mark.parametrize("family", ["xlm-roberta", "deberta-v2", "deberta"])
def test_scores_of_news_are_the_pipelines(shared: Path, family: str) -> None:
    from transformers import pipeline

    lines = (shared / "data/agnews/dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[0] for line in lines][:ROWS]
    model = checkpoint_of(checkpoints.encoder, family, TASK)
    bundle = engine.Bundle.load(bundle_of(model, TASK), device="cpu")
    pipe = pipeline(TASK, model=str(model), dtype="float32", device="cpu")
    together = bundle(texts, candidate_labels=tuple(LABELS)).to_pylist()
    alone = [bundle([text], candidate_labels=tuple(LABELS)).to_pylist()[0] for text in texts]
    for theirs, *mine in zip(pipe(texts, LABELS), together, alone, strict=True):
        for row in mine:
            assert row["labels"] == theirs["labels"]
            assert row["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
