"""Smoothing: the model answers as before, and its activations' outliers are in the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import checkpoints

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from engine.bundle import format as bundle_format  # noqa: E402  (these need the packages above)
from engine.export import export  # noqa: E402
from engine.export.recipes import smoothquant  # noqa: E402

TEXTS = ("The house is wonderful.", "A dog runs over the green meadow.", "We met in the spring.")


@pytest.fixture(params=["t5", "mt5"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """A model of whose normed activations one channel in four is thirty times what it was, and its
    weights a thirtieth."""
    folder = getattr(checkpoints, request.param)(tmp_path / request.param)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).double().eval()
    with torch.no_grad():
        for channel in smoothquant.FAMILIES[request.param](model):
            if channel.makers[0].ndim == 1:
                channel.makers[0][::4] *= 30
                for reader in channel.readers:
                    reader.weight[:, ::4] /= 30
    return model, tokenizer


def logits(model: Any, tokenizer: Any) -> Any:
    given = tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    forced = torch.arange(5, 15)[None].repeat(len(TEXTS), 1)
    with torch.inference_mode():
        return model(**given, decoder_input_ids=forced).logits


def test_a_smoothed_model_answers_as_before(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = logits(model, tokenizer)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    assert smoothquant.smooth(model, tokenizer, TEXTS)
    changed = [n for n, w in model.named_parameters() if not torch.equal(w, weights[n])]
    assert any(name.endswith(".o.weight") for name in changed)
    assert any(name.endswith("EncDecAttention.k.weight") for name in changed)
    assert not any("shared" in n or "lm_head" in n or "decoder.final" in n for n in changed)
    torch.testing.assert_close(logits(model, tokenizer), before, rtol=1e-6, atol=1e-6)


def test_outliers_cost_int8_less(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    model.float().save_pretrained(tmp_path / "outliers")
    tokenizer.save_pretrained(tmp_path / "outliers")
    found = []
    for name, families in (("rough", {}), ("smoothed", smoothquant.FAMILIES)):
        monkeypatch.setattr(smoothquant, "FAMILIES", families)
        export(
            str(tmp_path / "outliers"), tmp_path / name, task="translation", recipe="int8",
            force=True,
        )  # fmt: skip
        description = bundle_format.load(tmp_path / name).description
        assert description.smoothed == (name == "smoothed")
        found.append(description.gate["figures"]["same top token"]["value"])
    rough, smoothed = found
    assert smoothed > rough


def test_other_families_stay_as_they_are(tmp_path: Path) -> None:
    folder = checkpoints.gpt2(tmp_path / "gpt2")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    assert not smoothquant.smooth(model, None, TEXTS)
    assert all(torch.equal(w, weights[n]) for n, w in model.named_parameters())
