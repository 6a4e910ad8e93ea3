"""Every family and task of encoders, exported, answers as the transformers pipeline does.

One cell of the README's table each, on small random checkpoints; the tasks' own tests have more
rows, options and trained weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.bundle import format as bundle_format

pytest.importorskip("optimum.exporters.onnx")

ENCODERS = (
    "bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet", "deberta-v2",
    "modernbert", "camembert", "deberta", "ernie",
)  # fmt: skip
# Of these two tasks are tested: their heads are those of BERT or RoBERTa.
OTHERS = (
    "roberta-prelayernorm", "xlm-roberta-xl", "data2vec-text", "ibert", "squeezebert", "rembert",
    "roformer", "megatron-bert",
)  # fmt: skip
TASKS = (
    "feature-extraction", "text-classification", "zero-shot-classification",
    "token-classification", "question-answering", "fill-mask",
)  # fmt: skip
CELLS = [(family, task) for family in ENCODERS for task in TASKS]
CELLS += [(family, task) for family in OTHERS for task in ("text-classification", "fill-mask")]
CELLS += [
    (family, task)
    for family in ("bart", "mbart")
    for task in ("text-classification", "zero-shot-classification", "question-answering")
]
TEXTS = [
    *checkpoints.SENTENCES,
    "x",
    "   ",
    "🎉 e\u0301 n\u0303 👩‍👩‍👧",
    "שלום עולם",
    "a\u200bb\tc\nd",
    "the garden " * 200,
]
LABELS = ["house", "dog", "moon"]


def features(model: engine.Bundle, pipe: Any) -> None:
    cut = {"truncation": True, "max_length": 64}
    found = model(TEXTS, pooling="none")["embedding"].to_pylist()
    for mine, text in zip(found, TEXTS, strict=True):
        (theirs,) = pipe(text, tokenize_kwargs=cut)
        assert np.abs(np.array(mine) - np.array(theirs)).max() < 1e-4


def classes(model: engine.Bundle, pipe: Any) -> None:
    rows = model(TEXTS, top_k=0).to_pylist()
    for mine, theirs in zip(rows, pipe(TEXTS, truncation=True, top_k=None), strict=True):
        assert mine["labels"] == [t["label"] for t in theirs]
        assert mine["scores"] == pytest.approx([t["score"] for t in theirs], abs=1e-4)


def zero_shot(model: engine.Bundle, pipe: Any) -> None:
    rows = model(TEXTS, candidate_labels=tuple(LABELS)).to_pylist()
    for mine, text in zip(rows, TEXTS, strict=True):
        theirs = pipe(text, LABELS)
        assert mine["labels"] == theirs["labels"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-4)


def entities(model: engine.Bundle, pipe: Any) -> None:
    rows = model(TEXTS, aggregation_strategy="simple")["entities"].to_pylist()
    for mine, text in zip(rows, TEXTS, strict=True):
        theirs = pipe(text, aggregation_strategy="simple")
        names = ("entity_group", "word", "start", "end")
        assert [[e[n] for n in names] for e in mine] == [[e[n] for n in names] for e in theirs]
        scores = [float(e["score"]) for e in theirs]
        assert [e["score"] for e in mine] == pytest.approx(scores, abs=1e-4)


def spans(model: engine.Bundle, pipe: Any) -> None:
    pairs = [("what is wonderful?", text) for text in TEXTS if text.strip()]
    rows = model(pairs).to_pylist()
    for mine, (question, context) in zip(rows, pairs, strict=True):
        theirs = pipe(question=question, context=context)
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-4)
        names = ("answer", "start", "end")
        assert [mine[n] for n in names] == [theirs[n] for n in names]


def masks(model: engine.Bundle, pipe: Any) -> None:
    mask = pipe.tokenizer.mask_token
    texts = [text.replace(" is ", f" {mask} ", 1) for text in TEXTS[:-1] if " is " in text]
    texts += [f"{mask} runs", f"🎉 {mask}"]
    rows = model(texts)["candidates"].to_pylist()
    for mine, text in zip(rows, texts, strict=True):
        theirs = pipe(text)
        names = ("token", "token_str", "sequence")
        assert [[c[n] for n in names] for c in mine] == [[c[n] for n in names] for c in theirs]
        scores = [c["score"] for c in theirs]
        assert [c["score"] for c in mine] == pytest.approx(scores, abs=1e-4)


CHECKS: Mapping[str, Callable[[engine.Bundle, Any], None]] = {
    "feature-extraction": features,
    "text-classification": classes,
    "zero-shot-classification": zero_shot,
    "token-classification": entities,
    "question-answering": spans,
    "fill-mask": masks,
}


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_a_family_answers_as_the_pipeline(family: str, task: str) -> None:
    from transformers import pipeline

    model = checkpoint_of(checkpoints.encoder, family, task)
    bundle = bundle_of(model, task)
    found = bundle_format.load(bundle).description
    assert found.proof["largest_difference"] <= found.proof["tolerance"]
    assert (found.task, found.architecture) == (task, family)
    assert found.model_config.labels == checkpoints.LABELS.get(task, ())
    pipe = pipeline(task, model=str(model), dtype="float32", device="cpu")
    if family == "distilbert":
        # The tokenizer of the small checkpoint is BERT's, and the pipeline feeds all it gives.
        pipe.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    CHECKS[task](engine.Bundle.load(bundle), pipe)
