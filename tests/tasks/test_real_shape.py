"""Checkpoints as large as the real ones against the pipelines, with the real tokenizers.

Weights are random. This takes half an hour and 12 GB, so it only runs when asked for:
``ENGINE_TEST_REAL_SHAPE=1 pytest tests/test_real_shape.py``. Marian, Pegasus and mT5 borrow the
tokenizer of t5-small, OPT that of GPT-2: their own are not beside the checkout.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine

pytest.importorskip("optimum.exporters.onnx")
pytestmark = [
    pytest.mark.skipif(
        os.environ.get("ENGINE_TEST_REAL_SHAPE") != "1", reason="ENGINE_TEST_REAL_SHAPE is not 1"
    ),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ROWS = 200
LIMIT: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
BART = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
T5 = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
MARIAN: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
    "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048, "max_position_embeddings": 512, "activation_function": "swish",
    "scale_embedding": True, "static_position_embeddings": True, "init_std": 0.04, **T5,
}  # fmt: skip
PEGASUS: dict[str, Any] = {
    "vocab_size": 96103, "d_model": 1024, "encoder_layers": 16, "decoder_layers": 16,
    "encoder_attention_heads": 16, "decoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096, "max_position_embeddings": 512, "scale_embedding": True,
    "init_std": 0.03, **T5,
}  # fmt: skip
# pipeline, model class, tokenizer, what differs from the configuration's own defaults
SHAPES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "bert-base": ("fill-mask", "BertForMaskedLM", "bert-base-uncased", {"initializer_range": 0.08}),
    "roberta-base": (
        "fill-mask", "RobertaForMaskedLM", "roberta-base",
        {"vocab_size": 50265, "max_position_embeddings": 514, "initializer_range": 0.08},
    ),
    "roberta-base-qa": (
        "question-answering", "RobertaForQuestionAnswering", "roberta-base",
        {"vocab_size": 50265, "max_position_embeddings": 514},
    ),
    "bert-base-qa": (
        "question-answering", "BertForQuestionAnswering", "bert-base-cased",
        {"vocab_size": 28996},
    ),
    "roberta-base-ner": (
        "token-classification", "RobertaForTokenClassification", "roberta-base",
        {"vocab_size": 50265, "max_position_embeddings": 514, "initializer_range": 0.08,
         "num_labels": 9},
    ),
    "t5-small": (
        "translation", "T5ForConditionalGeneration", "t5-small", T5
    ),
    "mt5-small": (
        "text2text-generation", "MT5ForConditionalGeneration", "t5-small",
        {"vocab_size": 250112, **T5},
    ),
    "marian-base": ("translation", "MarianMTModel", "t5-small", MARIAN),
    "bart-base": (
        "summarization", "BartForConditionalGeneration", "roberta-base",
        {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072,
         "decoder_ffn_dim": 3072, "encoder_attention_heads": 12, "decoder_attention_heads": 12,
         "init_std": 0.04, **BART},
    ),
    "pegasus-large": ("summarization", "PegasusForConditionalGeneration", "t5-small", PEGASUS),
    "gpt2": ("text-generation", "GPT2LMHeadModel", "gpt2", {"initializer_range": 0.04}),
    "opt-125m": (
        "text-generation", "OPTForCausalLM", "gpt2",
        {"init_std": 0.04, "eos_token_id": 50256, "bos_token_id": 50256, "pad_token_id": 50256},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_answers_are_the_pipelines(shared: Path, tmp_path: Path, name: str) -> None:
    from transformers import pipeline

    from engine.export import export

    task, _, _, _ = SHAPES[name]
    folder = checkpoint(tmp_path / name, shared, name)
    export(str(folder), tmp_path / "bundle", task=task)
    bundle = engine.Bundle.load(tmp_path / "bundle")
    pipe = pipeline(task, model=str(folder), tokenizer=str(folder), dtype="float32", device="cpu")
    differing, seen = COMPARE[task](bundle, pipe, shared)
    shutil.rmtree(tmp_path)
    assert not differing, f"{len(differing)} rows differ, such as {differing[:3]}"
    assert seen > 1, "the model says the same of everything"


def checkpoint(folder: Path, shared: Path, name: str) -> Path:
    """The shape's random weights, saved with its tokenizer."""
    import torch
    import transformers
    from support.checkpoints import save_lively

    _, kind, tokenizer, settings = SHAPES[name]
    source = shared / "models/tokenizers" / tokenizer
    load = {"t5": "T5", "roberta": "Roberta", "gpt2": "GPT2", "bert": "Bert"}
    reader = getattr(transformers, f"{load[tokenizer.split('-')[0]]}TokenizerFast")
    given: dict[str, Any] = (
        {"do_lower_case": "uncased" in tokenizer} if "bert-" in source.name else {}
    )
    reader.from_pretrained(source, model_max_length=512, **given).save_pretrained(folder)
    model = getattr(transformers, kind)
    torch.manual_seed(0)
    # Deep random layers of more than the usual size magnify a rounding error a thousandfold; a
    # head of the usual size gives spans that are near-ties.
    save_lively(model, model.config_class(**settings), folder)
    if "QuestionAnswering" in kind:
        made = model.from_pretrained(folder)
        with torch.no_grad():
            made.qa_outputs.weight.normal_(0, 0.6)
        made.save_pretrained(folder)
    return folder


Compared = tuple[list[Any], int]


def generated(bundle: engine.Bundle, pipe: Any, texts: list[str]) -> Compared:
    """Rows whose text differs, and how many texts there are."""
    column = bundle(texts[:1], **LIMIT).column_names[0]
    found = bundle(texts, **LIMIT)[column].to_pylist()
    given = {} if pipe.task == "text-generation" else {"truncation": True}
    wanted = [pipe(text, **LIMIT, **given)[0][column] for text in texts]
    pairs = zip(range(len(texts)), found, wanted, strict=True)
    return [(i, f, w) for i, f, w in pairs if f != w], len(set(wanted))


def captions(bundle: engine.Bundle, pipe: Any, shared: Path) -> Compared:
    with gzip.open(shared / "data/multi30k/val.en.gz", "rt", encoding="utf-8") as stream:
        return generated(bundle, pipe, [line.strip() for line in stream][:ROWS])


def abstracts(bundle: engine.Bundle, pipe: Any, shared: Path) -> Compared:
    rows = (shared / "data/scitldr/dev.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [" ".join(json.loads(row)["source"]).split() for row in rows[:ROWS]]
    return generated(bundle, pipe, [" ".join(t[: 10 + i % 40]) for i, t in enumerate(texts)])


def masks(bundle: engine.Bundle, pipe: Any, shared: Path) -> Compared:
    prose = (shared / "data/wikitext2/valid.raw").read_text(encoding="utf-8").splitlines()
    words = [line.split()[:60] for line in prose if len(line.split()) > 20][:ROWS]
    mask = pipe.tokenizer.mask_token
    texts = [" ".join([*w[: 3 + i % 9], mask, *w[4 + i % 9 :]]) for i, w in enumerate(words)]
    found = bundle(texts, top_k=5).to_pylist()
    wanted = [pipe(text, top_k=5) for text in texts]
    differing = []
    for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        filled = mine["candidates"]
        same = [c["token"] for c in filled] == [t["token"] for t in theirs]
        scores = [c["score"] for c in filled]
        if not same or scores != pytest.approx([t["score"] for t in theirs], abs=1e-4):
            differing.append((i, filled, theirs))
    return differing, len({theirs[0]["token_str"] for theirs in wanted})


def spans(bundle: engine.Bundle, pipe: Any, shared: Path) -> Compared:
    content = json.loads((shared / "data/xquad/xquad.es.json").read_text("utf-8"))
    paragraphs = [p for article in content["data"] for p in article["paragraphs"]]
    rows = [(p["qas"][0]["question"], p["context"]) for p in paragraphs][:ROWS]
    found = bundle(rows).to_pylist()
    wanted = [pipe(question=question, context=context) for question, context in rows]
    differing = []
    for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        same = all(mine[key] == theirs[key] for key in ("answer", "start", "end"))
        if not same or abs(mine["score"] - theirs["score"]) > 1e-4:
            differing.append((i, mine, theirs))
    return differing, len({(theirs["start"], theirs["end"]) for theirs in wanted})


def entities(bundle: engine.Bundle, pipe: Any, shared: Path) -> Compared:
    blocks = (shared / "data/wnut17/dev.conll").read_text("utf-8").split("\n\n")
    sentences = [[line.split("\t")[0] for line in b.split("\n") if line] for b in blocks]
    texts = [" ".join(words) for words in sentences if words][:ROWS]
    found = bundle(texts, aggregation_strategy="simple")["entities"].to_pylist()
    wanted = pipe(texts, aggregation_strategy="simple")
    differing = []
    for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        keys = ("entity_group", "start", "end")
        same = [[e[k] for k in keys] for e in mine] == [[e[k] for k in keys] for e in theirs]
        scores = [e["score"] for e in mine]
        if not same or scores != pytest.approx([e["score"] for e in theirs], abs=1e-4):
            differing.append((i, mine, theirs))
    return differing, sum(len(theirs) for theirs in wanted)


COMPARE: dict[str, Callable[[engine.Bundle, Any, Path], Compared]] = {
    "fill-mask": masks,
    "question-answering": spans,
    "token-classification": entities,
    "translation": captions,
    "text2text-generation": captions,
    "summarization": abstracts,
    "text-generation": captions,
}
