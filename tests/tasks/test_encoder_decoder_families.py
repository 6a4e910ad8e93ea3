"""Relatives of T5 and BART: UMT5, whose layers have biases by distance of their own, LongT5, which
reads in blocks, Blenderbot, MVP and PLBART."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import bundle_of, checkpoint_of
from support.checkpoints import encoder_decoders, sentencepieces

import engine

pytest.importorskip("optimum.exporters.onnx")

# Blocks longer and shorter than the texts, and texts that fill their last one.
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "umt5": (encoder_decoders.umt5, {}),
    "local": (encoder_decoders.longt5, {"local_radius": 7}),
    "global": (encoder_decoders.longt5, {"attention": "transient-global"}),
    "real blocks": (
        encoder_decoders.longt5,
        {"attention": "transient-global", "local_radius": 127, "global_block_size": 16},
    ),
    "no global block": (
        encoder_decoders.longt5,
        {"attention": "transient-global", "local_radius": 3, "global_block_size": 32},
    ),
}
RELATIVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "blenderbot": (encoder_decoders.bart_like, {"name": "Blenderbot"}),
    "mvp": (encoder_decoders.bart_like, {"name": "Mvp"}),
}
TASK = "text2text-generation"
MORE = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    files = (shared / f"data/multi30k/val.{language}.gz" for language in ("en", "de"))
    lines = [line for f in files for line in gzip.decompress(f.read_bytes()).decode().splitlines()]
    return [*lines[:110], *lines[-100:], "a", "x y", "garden", " ".join(["the garden"] * 60)]


@pytest.mark.parametrize("kind", [*KINDS, *RELATIVES])
def test_it_answers_as_the_pipeline_batched_and_alone(kind: str, texts: list[str]) -> None:
    from transformers import pipeline

    build, settings = {**KINDS, **RELATIVES}[kind]
    model = checkpoint_of(build, **settings)
    bundle = engine.Bundle.load(bundle_of(model, TASK))
    mine = bundle(texts, **MORE)["generated_text"].to_pylist()
    assert len(set(mine)) > 15
    pipe = pipeline(TASK, model=str(model), dtype="float32", device="cpu", batch_size=36)
    assert mine == [row["generated_text"] for row in pipe(texts, truncation=True, **MORE)]
    some = [*range(0, len(texts), 12), *range(len(texts) - 4, len(texts))]
    assert [bundle([texts[n]], **MORE)["generated_text"][0].as_py() for n in some] == [
        mine[n] for n in some
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_state(kind: str) -> None:
    """Neither in the graph, whose outputs are keys and values of the source, nor in transformers:
    the reference is a row alone."""
    import onnxruntime
    import torch
    from transformers import AutoModelForSeq2SeqLM

    build, settings = KINDS[kind]
    model = checkpoint_of(build, **settings)
    encoder = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32).get_encoder()
    session = onnxruntime.InferenceSession(str(bundle_of(model, TASK) / "encoder.onnx"))
    draw = np.random.default_rng(0)
    for length in (1, 3, 4, 5, 8, 15, 16, 17, 33, 130):
        ids = draw.integers(3, 150, (1, length))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        alone, states = session.run(None, feeds), _states(encoder, feeds)
        for more in (1, 2, 11, 40):
            padded = {name: np.pad(part, ((0, 0), (0, more))) for name, part in feeds.items()}
            theirs = _states(encoder, padded)[:, :length]
            assert np.abs(theirs - states).max() < 1e-5
            for mine, one in zip(session.run(None, padded), alone, strict=True):
                assert np.abs(mine[:, :, :length] - one).max() < 1e-5


def _states(encoder: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        states = encoder(**{name: torch.from_numpy(part) for name, part in feeds.items()})[0]
    return np.asarray(states)


def test_plbart_translates_between_languages(texts: list[str]) -> None:
    from transformers import pipeline

    pytest.importorskip("sentencepiece")
    model = checkpoint_of(sentencepieces.plbart)
    bundle = engine.Bundle.load(bundle_of(model, "translation"))
    pipe = pipeline("translation", model=str(model), dtype="float32", device="cpu", batch_size=36)
    languages = {"src_lang": "python", "tgt_lang": "en_XX", **MORE}
    wanted = [row["translation_text"] for row in pipe(texts, truncation=True, **languages)]
    assert bundle(texts, **languages)["translation_text"].to_pylist() == wanted


def test_a_umt5_of_trained_weights_in_int8(trained: Path, tmp_path: Path, texts: list[str]) -> None:
    """flan-t5-small with its bias given to every layer is the same function: the gate lets its
    int8 through, and its answers are FLAN-T5's."""
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration, UMT5Config
    from transformers import UMT5ForConditionalGeneration as Umt5

    source = trained / "flan-t5-small"
    t5 = T5ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    settings = {**t5.config.to_dict(), "model_type": "umt5", "architectures": None}
    umt5 = Umt5(UMT5Config(**settings))
    state = t5.state_dict()
    for name in umt5.state_dict():
        if name not in state:
            first = name.split(".")
            first[2] = "0"
            state[name] = state[".".join(first)]
    umt5.load_state_dict(state)
    umt5.generation_config = t5.generation_config
    model = tmp_path / "model"
    umt5.save_pretrained(model)
    AutoTokenizer.from_pretrained(source).save_pretrained(model)
    plain = engine.Bundle.load(bundle_of(model, "translation"))
    t5_bundle = engine.Bundle.load(bundle_of(source, "translation"))
    some = [f"translate English to German: {text}" for text in texts[:24]]
    answers = plain(some, **MORE)["translation_text"]
    assert answers == t5_bundle(some, **MORE)["translation_text"]
    int8 = engine.Bundle.load(bundle_of(model, "translation", "int8"))
    assert int8(some, **MORE).num_rows == len(some)
