"""Embeddings from decoders: the last token's state, however rows are padded.

The reference is transformers with rows padded on the left and the last position taken, as the
authors of such checkpoints do it.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine

pytest.importorskip("optimum.exporters.onnx")

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen3": {},
    "Qwen2": {},
    "Llama": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "Mistral": {"sliding_window": 8},
    "Gemma": {},
    "Gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "Gemma3Text": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "Phi3": {"sliding_window": 8},
    "SmolLM3": {},
}
PROMPT = "Instruct: Given a search query, find what answers it\nQuery: "


def embedding_decoder(folder: Path, family: str, pooling: str = "lasttoken", **config: Any) -> Path:
    """A decoder whose tokenizer puts an end token behind each text and pads on the left."""
    from tokenizers import Tokenizer, processors

    checkpoints.rotary(folder, family, **config)
    _save_base(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    changes = {"padding_side": "left", "model_max_length": 200}
    checkpoints.edit_json(folder / "tokenizer_config.json", **changes)
    package = "sentence_transformers.models."
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": package + kind}
        for n, (kind, path) in enumerate(
            [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
        )
    ]
    checkpoints.write_json(folder / "modules.json", listed)
    flags = {f"pooling_mode_{name}": name == pooling for name in ("mean_tokens", "lasttoken")}
    checkpoints.write_json(
        folder / "1_Pooling/config.json", {"word_embedding_dimension": 32, **flags}
    )
    settings = {"prompts": {"query": PROMPT, "document": ""}, "default_prompt_name": None}
    checkpoints.write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def _save_base(weights: Path) -> None:
    """The model's weights alone, without a head, as embedders are saved."""
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    base = {name.removeprefix("model."): w for name, w in state.items() if "lm_head" not in name}
    save_file(base, weights, {"format": "pt"})


def rotary_alone(folder: Path, family: str) -> Path:
    """Without sentence-transformers' files."""
    return checkpoints.rotary(folder, family)


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """200 captions, some of them several times in one row."""
    with gzip.open(shared / "data/multi30k/val.en.gz", "rt", encoding="utf-8") as stream:
        lines = [line.strip() for line in stream][:200]
    return [" ".join([line] * (1 + n % 3)) for n, line in enumerate(lines)]


def _reference(folder: Path, texts: list[str], prompt: str = "", **padding: str) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, **padding)
    assert tokenizer.padding_side == padding.get("padding_side", "left")
    # Gemma 2 bounds its attention's scores, which other implementations ignore.
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    rows = []
    for start in range(0, len(texts), 25):
        some = [prompt + text for text in texts[start : start + 25]]
        batch = tokenizer(some, padding=True, truncation=True, max_length=200, return_tensors="pt")
        with torch.no_grad():
            states = model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        mask = batch["attention_mask"].numpy()
        last = np.where(mask[:, -1] == 1, mask.shape[1] - 1, mask.sum(1) - 1)
        rows.append(states.numpy()[np.arange(len(last)), last])
    vectors = np.concatenate(rows)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _embedded(bundle: Path, texts: list[str], **options: Any) -> np.ndarray:
    loaded = engine.Bundle.load(bundle, device="cpu")
    return np.array(loaded(texts, **options)["embedding"].to_pylist(), np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_token_s_state_is_transformers(family: str, texts: list[str]) -> None:
    folder = checkpoint_of(embedding_decoder, family, **FAMILIES[family])
    bundle = bundle_of(folder, None)
    rows = texts if family in ("Qwen3", "Mistral") else texts[:50]
    made = _embedded(bundle, rows)
    np.testing.assert_allclose(made, _reference(folder, rows), atol=2e-5)
    np.testing.assert_allclose(_embedded(bundle, rows[7:8])[0], made[7], atol=1e-6)
    right = _reference(folder, rows[:25], padding_side="right")
    np.testing.assert_allclose(made[:25], right, atol=2e-5)


def test_instructions_are_prompts(texts: list[str]) -> None:
    folder = checkpoint_of(embedding_decoder, "Qwen3")
    made = _embedded(bundle_of(folder, None), texts[:40], prompt="query")
    np.testing.assert_allclose(made, _reference(folder, texts[:40], PROMPT), atol=2e-5)


def test_the_end_token_stays_where_a_text_is_cut(texts: list[str]) -> None:
    folder = checkpoint_of(embedding_decoder, "Qwen3")
    long = " ".join(texts[:20])
    assert len(long) > 1000
    made = _embedded(bundle_of(folder, None), [long])
    np.testing.assert_allclose(made, _reference(folder, [long]), atol=2e-5)


def test_attention_to_both_sides_does_not_see_padding(texts: list[str]) -> None:
    """As EmbeddingGemma has it: Gemma 3 without a causal mask, and mean pooling."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    settings = {**FAMILIES["Gemma3Text"], "use_bidirectional_attention": True}
    folder = checkpoint_of(embedding_decoder, "Gemma3Text", "mean_tokens", **settings)
    made = _embedded(bundle_of(folder, None), texts[:30])
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    for n in range(0, 30, 3):
        ids = tokenizer(texts[n], truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            mean = model.eval()(ids)[0][0].mean(0).numpy()
        np.testing.assert_allclose(made[n], mean / np.linalg.norm(mean), atol=2e-5)


def test_a_causal_model_without_modules_embeds_with_its_last_token() -> None:
    bundle = bundle_of(checkpoint_of(rotary_alone, "Llama"), "feature-extraction")
    described = json.loads((bundle / "bundle.json").read_text())
    assert described["model_config"]["pooling"] == "last"
    assert any("no pooling: the last token, not norm" in note for note in described["notes"])


def test_int8_embeddings_do_not_depend_on_the_batch(texts: list[str]) -> None:
    folder = checkpoint_of(embedding_decoder, "Qwen3")
    bundle = bundle_of(folder, None, "int8", force=True)
    made = _embedded(bundle, texts[:60])
    alone = np.concatenate([_embedded(bundle, [text]) for text in texts[:60:12]])
    assert (made[::12] == alone).all()
    similar = (made * _embedded(bundle_of(folder, None), texts[:60])).sum(axis=1)
    assert similar.min() > 0.9


def test_chunks_of_a_decoder_end_with_its_end_token(texts: list[str]) -> None:
    folder = checkpoint_of(embedding_decoder, "Qwen3")
    bundle = engine.Bundle.load(bundle_of(folder, None), device="cpu")
    long = " ".join(texts[:9])
    options: dict[str, Any] = {"chunk": "tokens", "chunk_size": 50}
    made = bundle([long], **options)
    starts, ends = made["start"][0].as_py(), made["end"][0].as_py()
    assert len(starts) > 3
    pieces = [long[start:end] for start, end in zip(starts, ends, strict=True)]
    assert "".join(pieces) == long
    found = np.array(made["embedding"][0].as_py(), np.float32)
    np.testing.assert_allclose(found[0], _reference(folder, pieces[:1])[0], atol=2e-5)
    late = bundle([long], chunk="late", chunk_size=50)
    assert len(late["embedding"][0]) == len(starts)
