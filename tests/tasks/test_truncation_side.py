"""Long rows are cut where the checkpoint's tokenizer cuts them, as in the pipeline of each task."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.errors import SettingsError
from engine.pipeline import Bundle

transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

LONG = "A dog runs over the green meadow, and nobody calls it back. " * 9 + "Then it rains."
TEXTS = [LONG, "Nobody calls it back.", f"Rain, {LONG} and wind"]
QUESTION = "Who runs over the meadow?"


def _left(folder: Path, family: str, task: str) -> Path:
    if task == "translation":
        source = checkpoint_of(checkpoints.marian)
    else:
        source = checkpoint_of(checkpoints.encoder, family, task)
    shutil.copytree(source, folder)
    checkpoints.edit_json(folder / "tokenizer_config.json", truncation_side="left")
    return folder


def _pipeline(model: Path, task: str) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert tokenizer.truncation_side == "left"
    return transformers.pipeline(task, model=str(model), tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_classes(tmp_path: Path, family: str) -> None:
    model = _left(tmp_path / "model", family, "text-classification")
    bundle = Bundle.load(bundle_of(model, "text-classification"))
    pipe = _pipeline(model, "text-classification")
    wanted = [pipe(text, truncation=True)[0]["score"] for text in TEXTS]
    np.testing.assert_allclose(bundle(TEXTS)["score"].to_pylist(), wanted, atol=1e-5)
    # The other side, where the person says so.
    pipe.tokenizer.truncation_side = "right"
    wanted = [pipe(text, truncation=True)[0]["score"] for text in TEXTS]
    answers = bundle(TEXTS, truncation_side="right")["score"].to_pylist()
    np.testing.assert_allclose(answers, wanted, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_answers_to_questions(tmp_path: Path, family: str) -> None:
    """The first window of a context is its end."""
    model = _left(tmp_path / "model", family, "question-answering")
    bundle = Bundle.load(bundle_of(model, "question-answering"))
    sizes = {"max_seq_len": 48, "doc_stride": 9}
    answers = bundle([(QUESTION, text) for text in TEXTS], **sizes).to_pylist()
    pipe = _pipeline(model, "question-answering")
    for text, answer in zip(TEXTS, answers, strict=True):
        wanted = pipe(question=QUESTION, context=text, **sizes)
        assert answer["answer"] == wanted["answer"]
        assert answer["score"] == pytest.approx(wanted["score"], abs=1e-5)
        assert (answer["start"], answer["end"]) == (wanted["start"], wanted["end"])


@pytest.mark.parametrize("stride", [-1, 7])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_tokens(tmp_path: Path, family: str, stride: int) -> None:
    model = _left(tmp_path / "model", family, "token-classification")
    bundle = Bundle.load(bundle_of(model, "token-classification"))
    options: dict[str, Any] = {"aggregation_strategy": "simple"}
    answers = bundle(TEXTS, stride=stride, **options)["entities"].to_pylist()
    pipe = _pipeline(model, "token-classification")
    options |= {"stride": stride} if stride >= 0 else {}
    for text, entities in zip(TEXTS, answers, strict=True):
        wanted = pipe(text, **options)
        spans = [(e["start"], e["end"], e["entity_group"], e["word"]) for e in wanted]
        found = [(e["start"], e["end"], e["entity_group"], e["word"]) for e in entities]
        assert found == spans


def test_a_translation(tmp_path: Path) -> None:
    model = _left(tmp_path / "model", "marian", "translation")
    bundle = Bundle.load(bundle_of(model, "translation"))
    pipe = _pipeline(model, "translation")
    limits: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 1}
    wanted = [pipe(text, truncation=True, **limits)[0]["translation_text"] for text in TEXTS]
    assert bundle(TEXTS, **limits)["translation_text"].to_pylist() == wanted


def test_a_run_cuts_where_it_is_told_to(tmp_path: Path) -> None:
    """With the tokenizer in the run and in processes of its own."""
    bundle = bundle_of(checkpoint_of(checkpoints.gpt2), "text-generation")
    lines = "".join(f'{{"text": "{text}"}}\n' for text in TEXTS)
    (tmp_path / "rows.jsonl").write_text(lines)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "max_length": 24}
    alone = Bundle.load(bundle)
    for side, tokenizers in (("left", 0), ("right", 0), ("right", 1)):
        out = tmp_path / f"{side}-{tokenizers}"
        report = engine.run(
            bundle, [tmp_path / "rows.jsonl"], out, truncation_side=side,
            tokenizers=tokenizers, format="parquet", **options,
        )  # fmt: skip
        answers = pq.read_table(out / report.files[0])["generated_text"].to_pylist()
        wanted = alone(TEXTS, truncation_side=side, **options)["generated_text"].to_pylist()
        assert answers == wanted
        assert report.truncated == 2
    # A prompt is cut at its beginning unless the person says otherwise.
    usual = alone(TEXTS, **options)["generated_text"].to_pylist()
    assert usual == alone(TEXTS, truncation_side="left", **options)["generated_text"].to_pylist()


def test_another_side_is_refused_by_name() -> None:
    bundle = Bundle.load(bundle_of(checkpoint_of(checkpoints.gpt2), "text-generation"))
    with pytest.raises(SettingsError, match="truncation_side is 'middle'"):
        bundle(["a"], truncation_side="middle")
