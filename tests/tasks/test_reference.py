"""Trained weights on real text: the engine's answers are those of transformers on PyTorch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import bundle_of

import engine

pytest.importorskip("optimum.exporters.onnx")


@pytest.fixture(scope="module")
def exported(trained: Path) -> dict[str, engine.Bundle]:
    tasks = {
        "all-MiniLM-L6-v2": "feature-extraction",
        "minilm-sst2": "text-classification",
        "minilm-sick-nli": "text-classification",
        "flan-t5-small": "translation",
    }
    return {
        name: engine.Bundle.load(bundle_of(trained / name, task)) for name, task in tasks.items()
    }


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """Phrases, news items and paragraphs of 1 to some 250 tokens, shuffled."""
    draw = random.Random(0)
    phrases = [line.split("\t")[0] for line in lines(shared / "data/sst2/dev.tsv")[1:]]
    news = [line.split("\t")[0] for line in lines(shared / "data/agnews/dev.tsv")[1:]]
    prose = [line for line in lines(shared / "data/wikitext2/valid.raw") if len(line) > 60]
    found = draw.sample(phrases, 120) + draw.sample(news, 60) + draw.sample(prose, 30)
    draw.shuffle(found)
    return found


def embeddings(bundle: engine.Bundle, texts: list[str]) -> np.ndarray:
    return np.stack(bundle(texts)["embedding"].to_numpy(zero_copy_only=False))


def test_embeddings_equal_the_checkpoints(
    exported: dict[str, engine.Bundle], trained: Path, texts: list[str]
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = trained / "all-MiniLM-L6-v2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    wanted = []
    with torch.inference_mode():
        for text in texts:
            feeds = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            state = model(**feeds).last_hidden_state[0].mean(dim=0)
            wanted.append(torch.nn.functional.normalize(state, dim=0).numpy())
    found = embeddings(exported["all-MiniLM-L6-v2"], texts)
    assert np.abs(found - np.stack(wanted)).max() < 1e-4


def test_embeddings_do_not_depend_on_their_neighbours(
    exported: dict[str, engine.Bundle], texts: list[str]
) -> None:
    embed = exported["all-MiniLM-L6-v2"]
    batched = embeddings(embed, texts)
    single = np.concatenate([embeddings(embed, [text]) for text in texts])
    order = random.Random(1).sample(range(len(texts)), len(texts))
    shuffled = embeddings(embed, [texts[i] for i in order])
    assert np.abs(batched - single).max() < 1e-5
    assert np.abs(batched[order] - shuffled).max() < 1e-5


def test_labels_equal_the_pipelines(
    exported: dict[str, engine.Bundle], trained: Path, texts: list[str]
) -> None:
    from transformers import pipeline

    pipe = pipeline(
        "text-classification", model=str(trained / "minilm-sst2"), dtype="float32", device="cpu"
    )
    wanted = pipe(texts, truncation=True, top_k=None)
    found = exported["minilm-sst2"](texts, top_k=0).to_pylist()
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["labels"] == [t["label"] for t in theirs]
        assert mine["scores"] == pytest.approx([t["score"] for t in theirs], abs=1e-4)


def test_pairs_equal_the_pipelines(
    exported: dict[str, engine.Bundle], trained: Path, shared: Path
) -> None:
    from transformers import pipeline

    rows = [line.split("\t") for line in lines(shared / "data/sick/train_trial.tsv")]
    first, second = rows[0].index("sentence_A"), rows[0].index("sentence_B")
    pairs = [(row[first], row[second]) for row in rows[1:201]]
    pipe = pipeline(
        "text-classification", model=str(trained / "minilm-sick-nli"), dtype="float32", device="cpu"
    )
    wanted = pipe([{"text": a, "text_pair": b} for a, b in pairs])
    found = exported["minilm-sick-nli"](pairs).to_pylist()
    assert [f["label"] for f in found] == [w["label"] for w in wanted]
    assert [f["score"] for f in found] == pytest.approx([w["score"] for w in wanted], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("feature-extraction", {}),
        ("text-classification", {"num_labels": 4}),
        (
            "text-classification",
            {"num_labels": 3, "problem_type": "multi_label_classification"},
        ),
        ("text-classification", {"num_labels": 1, "problem_type": "regression"}),
    ],
    ids=["embedding", "labels", "multi-label", "regression"],
)
def test_another_family_equals_the_pipelines(
    shared: Path, tmp_path: Path, texts: list[str], task: str, settings: dict[str, object]
) -> None:
    from transformers import pipeline

    folder = roberta(tmp_path / "model", shared, task, **settings)
    bundle = engine.Bundle.load(bundle_of(folder, task))
    pipe = pipeline(task, model=str(folder), dtype="float32", device="cpu")
    if task == "feature-extraction":
        same_states(bundle, pipe, texts, 128)
        return
    wanted = pipe(texts, truncation=True, top_k=None)
    for mine, theirs in zip(bundle(texts, top_k=0).to_pylist(), wanted, strict=True):
        assert mine["labels"] == [t["label"] for t in theirs]
        assert mine["scores"] == pytest.approx([t["score"] for t in theirs], abs=1e-4)


def roberta(folder: Path, shared: Path, task: str, **settings: object) -> Path:
    """A small random RoBERTa with the real tokenizer."""
    import torch
    import transformers
    from transformers import RobertaConfig, RobertaTokenizerFast

    torch.manual_seed(0)
    source = shared / "models/tokenizers/roberta-base"
    RobertaTokenizerFast.from_pretrained(source, model_max_length=128).save_pretrained(folder)
    shape = RobertaConfig(
        vocab_size=50265, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=130, initializer_range=0.2, **settings,
    )  # fmt: skip
    heads = {"feature-extraction": "Model", "text-classification": "ForSequenceClassification"}
    getattr(transformers, f"Roberta{heads[task]}")(shape).save_pretrained(folder)
    return folder


def same_states(bundle: engine.Bundle, pipe: Any, texts: list[str], length: int) -> None:
    """Every token's state is the pipeline's."""
    cut = {"truncation": True, "max_length": length}
    states = pipe(texts, tokenize_kwargs=cut, return_tensors=True)
    found = bundle(texts, pooling="none")["embedding"].to_pylist()
    for mine, theirs in zip(found, states, strict=True):
        assert np.abs(np.array(mine, np.float32) - theirs[0].numpy()).max() < 1e-4


def test_states_of_tokens_equal_the_pipelines(
    exported: dict[str, engine.Bundle], trained: Path, texts: list[str]
) -> None:
    from transformers import pipeline

    folder = str(trained / "all-MiniLM-L6-v2")
    pipe = pipeline("feature-extraction", model=folder, dtype="float32", device="cpu")
    same_states(exported["all-MiniLM-L6-v2"], pipe, texts, 256)


@pytest.fixture(scope="module")
def prompts(shared: Path) -> list[str]:
    import gzip

    with gzip.open(shared / "data/multi30k/val.en.gz", "rt", encoding="utf-8") as stream:
        return [f"translate English to German: {line.strip()}" for line in stream][:200]


def test_greedy_tokens_equal_those_of_generate(
    exported: dict[str, engine.Bundle], trained: Path, prompts: list[str]
) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained / "flan-t5-small")
    model = AutoModelForSeq2SeqLM.from_pretrained(trained / "flan-t5-small", dtype=torch.float32)
    wanted: list[list[int]] = []
    for start in range(0, len(prompts), 25):
        feeds = tokenizer(prompts[start : start + 25], padding=True, return_tensors="pt")
        generated = model.eval().generate(**feeds, max_new_tokens=32, do_sample=False, num_beams=1)
        wanted += [[n for n in row[1:].tolist() if n] for row in generated]
    found = exported["flan-t5-small"](prompts, max_new_tokens=32, num_beams=1)
    texts = tokenizer.batch_decode(wanted, skip_special_tokens=True)
    assert found["translation_text"].to_pylist() == texts
    assert found["output_tokens"].to_pylist() == [len(row) for row in wanted]


def test_beams_are_those_of_the_pipeline(
    exported: dict[str, engine.Bundle], trained: Path, prompts: list[str]
) -> None:
    from transformers import pipeline

    folder = str(trained / "flan-t5-small")
    pipe = pipeline("translation", model=folder, dtype="float32", device="cpu")
    wanted = [pipe(prompt, max_new_tokens=24)[0]["translation_text"] for prompt in prompts[:40]]
    found = exported["flan-t5-small"](prompts[:40], max_new_tokens=24)
    assert found["translation_text"].to_pylist() == wanted


def test_the_real_t5_tokenizer_gives_its_known_tokens(shared: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from transformers import AutoTokenizer

    from engine.bundle.tokenizer import Tokenizer
    from engine.export.checkpoint import tokenizers

    tokenizers.save(AutoTokenizer.from_pretrained(shared / "models/tokenizers/t5-small"), tmp_path)
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 512)
    ids = tokenizer.ids(pa.array(["Using a Transformer network is simple"])).values.tolist()
    assert ids == [3, 3626, 3, 9, 31220, 1229, 19, 650]
    assert tokenizer.tokens_of(ids) == [
        "▁", "Using", "▁", "a", "▁Transformer", "▁network", "▁is", "▁simple",
    ]  # fmt: skip
