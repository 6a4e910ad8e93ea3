"""Embedders that people have, by their layouts: GTE, BGE, E5 and Arctic, with random weights.

The reference is the formula of their model cards in transformers: the first state or the mean,
normalized.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.bundle import format as bundle_format
from engine.errors import ExportError, SettingsError

pytest.importorskip("optimum.exporters.onnx")

_SEARCH = "Represent this sentence for searching relevant passages: "
_FLAGS = (
    "cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
    "lasttoken",
)  # fmt: skip
ROWS = 200


@dataclass(frozen=True)
class Layout:
    """What a checkpoint's files say beside its weights."""

    family: str
    pooling: str
    normalize: bool = True
    query: str = ""
    passage: str = ""

    @property
    def prompts(self) -> dict[str, str]:
        named = {"query": self.query, "passage": self.passage}
        return {name: prompt for name, prompt in named.items() if prompt}


LAYOUTS = {
    "gte-base": Layout("bert", "mean"),
    "gte-modernbert-base": Layout("modernbert", "cls", normalize=False),
    "bge-base-en-v1.5, snowflake-arctic-embed-m": Layout("bert", "cls", query=_SEARCH),
    "e5-base-v2": Layout("bert", "mean", query="query: ", passage="passage: "),
    "multilingual-e5-base": Layout("xlm-roberta", "mean", query="query: ", passage="passage: "),
    "snowflake-arctic-embed-l-v2.0": Layout("xlm-roberta", "cls", query="query: "),
}


def embedder(folder: Path, layout: Layout) -> Path:
    """A small checkpoint with the files of a layout."""
    checkpoints.encoder(folder, layout.family, "feature-extraction")
    paths = ["", "1_Pooling", *(["2_Normalize"] if layout.normalize else [])]
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(zip(paths, kinds, strict=False))
    ]
    checkpoints.write_json(folder / "modules.json", modules)
    settings = {"max_seq_length": 60, "do_lower_case": False}
    checkpoints.write_json(folder / "sentence_bert_config.json", settings)
    flags = {f"pooling_mode_{flag}": flag.startswith(layout.pooling + "_t") for flag in _FLAGS}
    pooling = {"word_embedding_dimension": 32, **flags, "include_prompt": True}
    checkpoints.write_json(folder / "1_Pooling/config.json", pooling)
    prompts = {"prompts": layout.prompts, "default_prompt_name": None}
    checkpoints.write_json(folder / "config_sentence_transformers.json", prompts)
    return folder


def _by_formula(model: Path, layout: Layout, texts: list[str]) -> np.ndarray:
    """Each text alone, as the pipelines run it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            feeds = tokenizer(text.strip(), truncation=True, max_length=60, return_tensors="pt")
            states = network(**feeds).last_hidden_state[0]
            row = states[0] if layout.pooling == "cls" else states.mean(0)
            rows.append(row / row.norm() if layout.normalize else row)
    return torch.stack(rows).numpy()


def _embedded(bundle: engine.Bundle, texts: list[str], prompt: str) -> np.ndarray:
    return np.stack(bundle(texts, prompt=prompt)["embedding"].to_numpy(zero_copy_only=False))


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_embedder_gives_what_its_formula_gives(shared: Path, name: str) -> None:
    lines = (shared / "data/agnews/dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[0] for line in lines][:ROWS]
    assert len(texts) == ROWS
    layout = LAYOUTS[name]
    model = checkpoint_of(embedder, layout)
    bundle = bundle_of(model, None)
    config = bundle_format.load(bundle).description.model_config
    assert (config.pooling, config.normalize) == (layout.pooling, layout.normalize)
    assert config.prompts == layout.prompts
    loaded = engine.Bundle.load(bundle, device="cpu")
    for prompt, before in {"": "", **layout.prompts}.items():
        expected = _by_formula(model, layout, [before + text for text in texts])
        together = _embedded(loaded, texts, prompt)
        np.testing.assert_allclose(together, expected, atol=1e-5)
    # The last one's.
    alone = [_embedded(loaded, [text], prompt)[0] for text in texts]
    np.testing.assert_allclose(np.stack(alone), expected, atol=1e-5)


def test_a_prompt_that_an_embedder_lacks_is_refused_with_those_it_has() -> None:
    bundle = engine.Bundle.load(bundle_of(checkpoint_of(embedder, LAYOUTS["e5-base-v2"]), None))
    with pytest.raises(SettingsError, match="document") as caught:
        bundle(["a text"], prompt="document")
    assert all(name in f"{caught.value}" for name in ("query", "passage"))


@pytest.mark.parametrize(
    ("model_type", "code"),
    [
        ("nomic_bert", "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"),
        ("new", "Alibaba-NLP/new-impl--modeling.NewModel"),
        ("eurobert", "modeling_eurobert.EuroBertModel"),
    ],
)
def test_an_embedder_that_is_code_of_its_repository_is_refused(
    tmp_path: Path, model_type: str, code: str
) -> None:
    from engine.export import export

    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(embedder, LAYOUTS["gte-base"]), model)
    asked_for = {"model_type": model_type, "auto_map": {"AutoModel": code}}
    checkpoints.edit_json(model / "config.json", **asked_for)
    with pytest.raises(ExportError, match=r"asks for code of the repository \(") as caught:
        export(str(model), tmp_path / "out", task=None)
    assert code in caught.value.message
    assert "architecture is part of transformers" in caught.value.hint
    assert not (tmp_path / "out").exists()
