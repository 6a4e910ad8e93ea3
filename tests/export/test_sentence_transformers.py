"""Checkpoints of sentence-transformers, versions 2 to 6: their modules, and what they do to texts.

The reference is written out below from the library's own code; where an environment with the
library is named by ENGINE_TEST_SENTENCE_TRANSFORMERS (the path of its Python), it answers, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checkpoints
from support.bundles import checkpoint_of

import engine
from engine.bundle import format as bundle_format
from engine.bundle.cleaning import WHITE_SPACE, clean
from engine.errors import ExportError, SettingsError

pytest.importorskip("optimum.exporters.onnx")

from engine.export import export
from engine.export.cache import bundle_for
from engine.export.checkpoint import embedding_modules, hub

TEXTS = [
    "A dog runs.", "  A dog runs.\n", "\u00a0Ein Hund läuft über die Wiese,\u3000", "\x1fx\x1c",
    "\u200bzero width\u200b", "A\u0000b", "The MASK: [MASK] [mask] <mask> <MASK> <s> </S> [SEP]",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ", "İstanbul STRASSE ẞ", "", "   ", "\u2028line\u2029", "tabs\tand  spaces",
    "今日は天気がいいですね。 ", "🎉 Great news!!! " * 8, "No\x85",
]  # fmt: skip
_OLD, _NEW = "sentence_transformers.models.", "sentence_transformers."
_NEW_TYPES = {
    "Transformer": "base.modules.transformer.Transformer",
    "Pooling": "sentence_transformer.modules.pooling.Pooling",
    "Dense": "base.modules.dense.Dense",
    "Normalize": "base.modules.normalize.Normalize",
    "LayerNorm": "sentence_transformer.modules.layer_norm.LayerNorm",
    "Router": "base.modules.router.Router",
    "Dropout": "sentence_transformer.modules.dropout.Dropout",
}
_FLAGS = (
    "cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
    "lasttoken",
)  # fmt: skip


def _type(kind: str, version: int) -> str:
    return _NEW + _NEW_TYPES[kind] if version == 6 else _OLD + kind


def embedder(
    folder: Path, tokenizer: str = "bert", version: int = 2, transformer: str = "", **pooling: Any
) -> Path:
    """A tiny encoder in the layout of a version; the transformer is in a folder of its own."""
    checkpoints.encoder(folder / transformer, tokenizer, "feature-extraction")
    paths = {"Transformer": transformer, "Pooling": "1_Pooling"}
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": _type(kind, version)}
        for n, (kind, path) in enumerate(paths.items())
    ]
    checkpoints.write_json(folder / "modules.json", listed)
    settings = {
        2: {"max_seq_length": 40, "do_lower_case": False},
        6: {
            "transformer_task": "feature-extraction",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            "module_output_name": "token_embeddings",
            "max_seq_length": 40,
        },
    }
    checkpoints.write_json(folder / transformer / "sentence_bert_config.json", settings[version])
    defaults = {
        2: {"word_embedding_dimension": 32, "include_prompt": True}
        | {f"pooling_mode_{flag}": flag == "mean_tokens" for flag in _FLAGS},
        6: {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True},
    }
    checkpoints.write_json(folder / "1_Pooling/config.json", {**defaults[version], **pooling})
    return folder


def _flags(*on: str) -> dict[str, bool]:
    return {f"pooling_mode_{flag}": flag in on for flag in _FLAGS}


def _refused(model: Path, tmp_path: Path, match: str, **settings: Any) -> ExportError:
    """A refusal that leaves nothing, and says how to go on."""
    with pytest.raises(ExportError, match=match) as caught:
        export(str(model), tmp_path / "out", task=settings.pop("task", None), **settings)
    assert not (tmp_path / "out").exists()
    assert caught.value.hint
    return caught.value


def _encoded(texts: list[str], folder: Path, strip: bool, lower: bool, prompt: str = "") -> Any:
    """As the library tokenizes: prompt, strip, lower, then the tokenizer of transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [prompt + text for text in texts]
    texts = [text.strip() for text in texts] if strip else texts
    texts = [text.lower() for text in texts] if lower else texts
    return tokenizer(
        texts, truncation="longest_first", padding=True, padding_side="right", max_length=40,
        return_tensors="pt",
    )  # fmt: skip


def _states(folder: Path, batch: Any) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**batch).last_hidden_state, batch["attention_mask"]


def _pool(name: str, states: Any, mask: Any, before: int = 0) -> Any:
    """sentence-transformers' Pooling.forward; the first tokens are left out."""
    import torch

    mask = mask.clone()
    mask[:, :before] = 0
    weights = mask.unsqueeze(-1).float()
    if name == "cls":
        return states[:, 0]
    if name == "max":
        return states.masked_fill(weights == 0, -1e9).max(1).values
    if name in ("mean", "mean_sqrt_len_tokens"):
        total, count = (states * weights).sum(1), weights.sum(1).clamp(min=1e-9)
        return total / (count if name == "mean" else count.sqrt())
    if name == "weightedmean":
        weights = weights * torch.arange(1, states.shape[1] + 1).view(1, -1, 1)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    last = (mask * torch.arange(mask.shape[1])).argmax(1)
    return states[torch.arange(len(states)), last]


def _embedded(bundle: Path, texts: list[str], **options: Any) -> np.ndarray:
    """Embeddings of texts together; each text alone gives the same."""
    model = engine.Bundle.load(bundle, device="cpu")
    together = np.array(model(texts, **options)["embedding"].to_pylist(), np.float32)
    for n in range(0, len(texts), 5):
        alone = np.array(model([texts[n]], **options)["embedding"].to_pylist(), np.float32)
        np.testing.assert_allclose(alone[0], together[n], atol=1e-6)
    return together


# --- what the library does to a text


def test_white_space_is_what_python_strips() -> None:
    spaces = [chr(n) for n in range(sys.maxunicode + 1) if chr(n).isspace()]
    assert sorted(WHITE_SPACE) == spaces


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4), st.booleans())
def test_texts_are_cleaned_as_python_does_it(texts: list[str], lower: bool) -> None:
    texts = [*texts, *TEXTS]
    stripped = [text.strip() for text in texts]
    wanted = [text.lower() for text in stripped] if lower else stripped
    assert clean(pa.array(texts), strip=True, lower_case=lower).to_pylist() == wanted


@pytest.mark.parametrize(
    ("tokenizer", "version", "lower"),
    [
        ("bert", 2, True), ("roberta", 2, False), ("roberta", 2, True), ("roberta", 6, False),
        ("roberta", 6, True), ("xlm-roberta", 2, True),
    ],
)  # fmt: skip
def test_texts_are_cleaned_as_the_version_does_it(
    tmp_path: Path, tokenizer: str, version: int, lower: bool
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(embedder, tokenizer, version), model)
    checkpoints.edit_json(
        model / "sentence_bert_config.json", max_seq_length=40, do_lower_case=lower
    )
    export(str(model), tmp_path / "out", task=None)
    batch = _encoded(TEXTS, model, strip=version == 2, lower=lower and version == 2)
    if lower and version == 6:
        batch = _lowered_by_the_normalizer(model)
    wanted = _pool("mean", *_states(model, batch)).numpy()
    np.testing.assert_allclose(_embedded(tmp_path / "out", TEXTS), wanted, atol=1e-5)
    config = bundle_format.load(tmp_path / "out").description.model_config
    assert (config.strip, config.lower_case) == (version == 2, lower and version == 2)


def _lowered_by_the_normalizer(model: Path) -> Any:
    """From 5.4 on a normalizer lower-cases, which special tokens do not pass."""
    from tokenizers.normalizers import Lowercase, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    backend = tokenizer.backend_tokenizer
    present = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([Lowercase(), *present])
    return tokenizer(TEXTS, truncation=True, padding=True, max_length=40, return_tensors="pt")


def test_white_space_is_kept_where_a_person_wants_it(tmp_path: Path) -> None:
    model = checkpoint_of(embedder, "roberta", 2)
    export(str(model), tmp_path / "out", task=None)
    batch = _encoded(TEXTS, model, strip=False, lower=False)
    wanted = _pool("mean", *_states(model, batch)).numpy()
    np.testing.assert_allclose(_embedded(tmp_path / "out", TEXTS, strip=False), wanted, atol=1e-5)


def test_a_prompt_is_put_before_the_text_is_stripped(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(embedder, "roberta", 2), model)
    prompts = {"query": " query: ", "bare": "\n"}
    checkpoints.write_json(model / "config_sentence_transformers.json", {"prompts": prompts})
    export(str(model), tmp_path / "out", task=None)
    for name, prompt in prompts.items():
        batch = _encoded(TEXTS, model, strip=True, lower=False, prompt=prompt)
        wanted = _pool("mean", *_states(model, batch)).numpy()
        made = _embedded(tmp_path / "out", TEXTS, prompt=name)
        np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_a_tokenizer_that_sees_white_space_is_noted(tmp_path: Path) -> None:
    report = export(str(checkpoint_of(embedder, "roberta", 2)), tmp_path / "a", task=None)
    (note,) = [n for n in report.notes if "white space around a text is removed" in n]
    assert "--no-strip" in note
    report = export(str(checkpoint_of(embedder, "bert", 2)), tmp_path / "b", task=None)
    assert not any("white space" in note for note in report.notes)


def test_without_modules_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    model = checkpoint_of(checkpoints.encoder, "roberta", "feature-extraction")
    export(str(model), tmp_path / "out", task="feature-extraction")
    config = bundle_format.load(tmp_path / "out").description.model_config
    assert (config.strip, config.lower_case, config.include_prompt) == (False, False, True)


# --- the modules


@pytest.mark.parametrize(
    ("version", "written", "pooling"),
    [
        (2, _flags("cls_token"), "cls"),
        (2, _flags("max_tokens"), "max"),
        (2, _flags("mean_sqrt_len_tokens"), "mean_sqrt_len_tokens"),
        (2, _flags("weightedmean_tokens"), "weightedmean"),
        (2, _flags("lasttoken"), "last"),
        (2, _flags("mean_tokens", "cls_token", "max_tokens"), "cls+max+mean"),
        (2, {"pooling_mode": "max"}, "max"),
        (6, {"pooling_mode": "mean"}, "mean"),
        (6, {"pooling_mode": "lasttoken"}, "last"),
        (6, {"pooling_mode": ["max", "cls"]}, "max+cls"),
        (6, {"pooling_mode": ["weightedmean"]}, "weightedmean"),
        (6, _flags("cls_token") | {"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len_tokens"),
    ],
)
def test_poolings_of_every_version(
    tmp_path: Path, version: int, written: dict[str, Any], pooling: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(embedder, "bert", version), model)
    checkpoints.edit_json(model / "1_Pooling/config.json", **written)
    assert _read(model).pooling == pooling


def test_poolings_are_the_librarys(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(embedder, "bert", 6), model)
    modes = ["max", "lasttoken", "weightedmean"]
    checkpoints.edit_json(model / "1_Pooling/config.json", pooling_mode=modes)
    checkpoints.edit_json(model / "sentence_bert_config.json", max_seq_length=40)
    export(str(model), tmp_path / "out", task=None)
    config = bundle_format.load(tmp_path / "out").description.model_config
    assert (config.pooling, config.dimensions, config.hidden) == ("max+last+weightedmean", 96, 32)
    states, mask = _states(model, _encoded(TEXTS, model, strip=False, lower=False))
    wanted = np.concatenate([_pool(name, states, mask) for name in modes], axis=1)
    np.testing.assert_allclose(_embedded(tmp_path / "out", TEXTS), wanted, atol=1e-5)
    for name in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "last"):
        made = _embedded(tmp_path / "out", TEXTS, pooling=name)
        np.testing.assert_allclose(made, _pool(name, states, mask), atol=1e-5, err_msg=name)
    assert _embedded(tmp_path / "out", TEXTS, pooling="cls+mean", dimensions=40).shape[1] == 40
    with pytest.raises(SettingsError, match="pooling is 'median'"):
        _embedded(tmp_path / "out", TEXTS, pooling="cls+median")


def _read(model: Path) -> embedding_modules.Embedder:
    return embedding_modules.read(hub.resolve(str(model), None, lambda line: None))


@pytest.mark.parametrize("version", [2, 6])
def test_tokens_of_a_prompt_are_left_out_of_the_pooling(tmp_path: Path, version: int) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(embedder, "bert", version), model)
    checkpoints.edit_json(model / "1_Pooling/config.json", include_prompt=False)
    prompts = {"query": "a dog: ", "none": ""}
    checkpoints.write_json(model / "config_sentence_transformers.json", {"prompts": prompts})
    checkpoints.edit_json(model / "sentence_bert_config.json", max_seq_length=40)
    export(str(model), tmp_path / "out", task=None)
    for pooling in ("mean", "max", "weightedmean", "last", "mean_sqrt_len_tokens"):
        for name, prompt in prompts.items():
            batch = _encoded(TEXTS, model, strip=version == 2, lower=False, prompt=prompt)
            before = _encoded([prompt], model, strip=version == 2, lower=False)["input_ids"]
            skipped = before.shape[1] - 1 if prompt else 0
            wanted = _pool(pooling, *_states(model, batch), before=skipped).numpy()
            made = _embedded(tmp_path / "out", TEXTS, prompt=name, pooling=pooling)
            np.testing.assert_allclose(made, wanted, atol=1e-5)


@pytest.mark.parametrize("path", ["0_Transformer", "encoder/weights"])
@pytest.mark.parametrize("version", [2, 6])
def test_a_transformer_in_a_folder_of_its_own(tmp_path: Path, path: str, version: int) -> None:
    inner = embedder(tmp_path / "inner", version=version, transformer=path)
    plain = embedder(tmp_path / "plain", version=version)
    for name in ("inner", "plain"):
        export(str(tmp_path / name), tmp_path / f"{name}-out", task=None)
    assert (
        _embedded(tmp_path / "inner-out", TEXTS) == _embedded(tmp_path / "plain-out", TEXTS)
    ).all()
    names = {file.relative_to(inner).as_posix() for file in hub.files(inner)}
    assert {f"{path}/config.json", f"{path}/model.safetensors", "1_Pooling/config.json"} <= names
    source = [
        bundle_format.load(tmp_path / f"{name}-out").description.source["weights_sha256"]
        for name in ("inner", "plain")
    ]
    assert source[0] == source[1]
    (plain / "config.json").unlink()
    _refused(plain, tmp_path, "config.json is missing|Transformer")


def test_the_cache_takes_a_transformer_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "cache"))
    model = embedder(tmp_path / "model", transformer="0_Transformer")
    one = bundle_for(str(model))
    checkpoints.edit_json(model / "0_Transformer/sentence_bert_config.json", max_seq_length=20)
    assert bundle_for(str(model)) != one


def _with_modules(folder: Path, kinds: list[str], version: int = 2) -> Path:
    shutil.copytree(checkpoint_of(embedder, "bert", version), folder)
    paths = ["", "1_Pooling", *(f"{n}_{kind}" for n, kind in enumerate(kinds, 2))]
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": _type(kind, version)}
        for n, (kind, path) in enumerate(
            zip(["Transformer", "Pooling", *kinds], paths, strict=True)
        )
    ]
    checkpoints.write_json(folder / "modules.json", listed)
    return folder


def _layer_norm(folder: Path, width: int) -> None:
    import torch
    from safetensors.torch import save_file

    checkpoints.write_json(folder / "config.json", {"dimension": width})
    torch.manual_seed(width)
    state = {"norm.weight": torch.randn(width), "norm.bias": torch.randn(width)}
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("version", [2, 6])
def test_layer_norm_normalize_dropout_and_residuals(tmp_path: Path, version: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    kinds = ["Normalize", "LayerNorm", "Dropout", "Dense", "Dense", "Normalize", "Normalize"]
    model = _with_modules(tmp_path / "model", kinds, version)
    _layer_norm(model / "3_LayerNorm", 32)
    checkpoints.write_json(model / "4_Dropout/config.json", {"dropout": 0.5})
    for name, wide, out in (("5_Dense", 32, 32), ("6_Dense", 32, 8)):
        checkpoints.dense(model / name, wide, out, "torch.nn.modules.activation.Tanh")
        checkpoints.edit_json(model / name / "config.json", use_residual=True)
    state = load_file(model / "6_Dense/model.safetensors")
    state["residual.weight"] = torch.randn(8, 32)
    save_file(state, model / "6_Dense/model.safetensors")
    export(str(model), tmp_path / "out", task=None)
    value = _pool("mean", *_states(model, _encoded(TEXTS, model, version == 2, False)))
    value = torch.nn.functional.normalize(value)
    norm = load_file(model / "3_LayerNorm/model.safetensors")
    value = torch.nn.functional.layer_norm(value, (32,), norm["norm.weight"], norm["norm.bias"])
    for name in ("5_Dense", "6_Dense"):
        weights = load_file(model / name / "model.safetensors")
        linear = value @ weights["linear.weight"].T + weights["linear.bias"]
        residual = weights.get("residual.weight")
        value = torch.tanh(linear) + (value if residual is None else value @ residual.T)
    wanted = torch.nn.functional.normalize(value).numpy()
    np.testing.assert_allclose(_embedded(tmp_path / "out", TEXTS), wanted, atol=1e-5)
    with pytest.raises(SettingsError, match="the layers behind it"):
        _embedded(tmp_path / "out", TEXTS, pooling="cls+max")
    assert _embedded(tmp_path / "out", TEXTS, pooling="cls", dimensions=5).shape == (len(TEXTS), 5)


def _router(folder: Path, routes: dict[str, list[str]], version: int = 6) -> Path:
    """A router over modules in folders of their own."""
    shutil.copytree(checkpoint_of(embedder, "bert", version), folder / "a_0_Transformer")
    shutil.move(folder / "a_0_Transformer/1_Pooling", folder / "a_1_Pooling")
    (folder / "a_0_Transformer/modules.json").unlink()
    listed = [{"idx": 0, "name": "0", "path": "", "type": _type("Router", version)}]
    checkpoints.write_json(folder / "modules.json", listed)
    types = {name: _type(name.rsplit("_", 1)[-1], version) for r in routes.values() for name in r}
    content = {"types": types, "structure": routes, "parameters": {"default_route": None}}
    checkpoints.write_json(folder / "router_config.json", content)
    return folder


def test_a_router_with_one_route_is_followed(tmp_path: Path) -> None:
    shared_route = ["a_0_Transformer", "a_1_Pooling"]
    _router(tmp_path / "one", {"text": shared_route})
    _router(tmp_path / "two", {"query": shared_route, "document": shared_route})
    export(str(checkpoint_of(embedder, "bert", 6)), tmp_path / "plain-out", task=None)
    wanted = _embedded(tmp_path / "plain-out", TEXTS)
    for name in ("one", "two"):
        export(str(tmp_path / name), tmp_path / f"{name}-out", task=None)
        assert (_embedded(tmp_path / f"{name}-out", TEXTS) == wanted).all()


def test_a_router_with_several_routes_is_refused(tmp_path: Path) -> None:
    transformer = "a_0_Transformer"
    routes = {"query": [transformer, "a_1_Pooling"], "document": [transformer, "b_1_Pooling"]}
    model = _router(tmp_path / "model", routes)
    error = _refused(model, tmp_path, "a Router with the routes query, document")
    assert "sub_modules[ROUTE]" in error.hint
    (model / "router_config.json").unlink()
    _refused(model, tmp_path, "the routes of Router cannot be read from router_config.json")


# --- refusals


def _set(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        checkpoints.write_json(file, {**content, **changes})

    return change


_POOLING, _SETTINGS = "1_Pooling/config.json", "sentence_bert_config.json"
_CONFIG = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("version", "change", "message"),
    [
        (2, _set(_POOLING, **_flags()), "asks for no pooling: all of its modes are off"),
        (2, _set(_POOLING, pooling_mode_first_last=True), "has pooling_mode_first_last"),
        (6, _set(_POOLING, pooling_mode="median"), "asks for 'median'; supported are cls, max"),
        (6, _set(_POOLING, pooling_mode=["mean", "median"]), "asks for 'median'"),
        (6, _set(_POOLING, pooling_mode=None), "asks for None"),
        (6, _set(_POOLING, pooling_mode=[]), "asks for no pooling"),
        (6, _set(_POOLING, pooling_mode="cls", include_prompt=False), "cls with include_prompt"),
        (6, _set(_SETTINGS, transformer_task="fill-mask"), "transformer_task 'fill-mask'"),
        (6, _set(_SETTINGS, module_output_name="sentence_embedding"), "module_output_name"),
        (6, _set(_SETTINGS, processing_kwargs={"text": {"max_length": 8}}), "processing_kwargs"),
        (6, _set(_SETTINGS, query_length=32), "query_length 32"),
        (6, _set(_SETTINGS, query_expansion={"length": 32}), "query_expansion"),
        (6, _set(_SETTINGS, modality_config={"message": {}}), "modality_config"),
        (6, _set(_SETTINGS, model_kwargs={"is_causal": False}), "model_kwargs has is_causal"),
        (
            2,
            _set(_SETTINGS, tokenizer_args={"model_max_length": 8}),
            "tokenizer_args has model_max",
        ),
        (2, _set(_SETTINGS, squeeze=True), "sentence_bert_config.json has squeeze"),
        (2, _set(_SETTINGS, max_seq_length="40"), "max_seq_length '40'"),
        (2, _set(_SETTINGS, max_seq_length=0), "max_seq_length 0"),
        (2, _set(_SETTINGS, do_lower_case="no"), "do_lower_case 'no'"),
        (2, _set(_POOLING, pooling_mode_cls_token="false"), "pooling_mode_cls_token 'false'"),
        (6, _set(_POOLING, include_prompt=None), "include_prompt None"),
        (6, _set(_CONFIG, truncate_dim=16), "truncate_dim 16"),
        (6, _set(_CONFIG, default_prompt_name="query"), "the default prompt 'query'"),
        (6, _set("2_Normalize/config.json", module_input_name="token_embeddings"), "2_Normalize"),
    ],
)
def test_what_would_change_an_embedding_is_refused_by_name(
    tmp_path: Path, version: int, change: Callable[[Path], None], message: str
) -> None:
    model = _with_modules(tmp_path / "model", ["Normalize"], version)
    change(model)
    _refused(model, tmp_path, re.escape(message))


@pytest.mark.parametrize(
    ("version", "change"),
    [
        (6, _set(_SETTINGS, unpad_inputs=False, processing_kwargs={}, query_length=None)),
        (6, _set(_SETTINGS, model_kwargs={"dtype": "bfloat16", "attn_implementation": "sdpa"})),
        (2, _set(_SETTINGS, model_args={"torch_dtype": "float16", "add_pooling_layer": False})),
        (2, _set(_SETTINGS, tokenizer_args={"padding_side": "left"})),
        (6, _set(_CONFIG, prompts={"query": None}, similarity_fn_name="dot")),
        (6, _set(_POOLING, include_prompt=True)),
    ],
)
def test_what_changes_no_embedding_is_ignored(
    tmp_path: Path, version: int, change: Callable[[Path], None]
) -> None:
    model = _with_modules(tmp_path / "model", ["Normalize"], version)
    before = _read(model)
    change(model)
    checkpoint = hub.resolve(str(model), None, lambda line: None)
    assert embedding_modules.read(checkpoint) == before
    assert set(embedding_modules.read_prompts(checkpoint)[0].values()) <= {""}


def test_a_missing_mean_flag_is_refused_and_the_hint_helps(tmp_path: Path) -> None:
    model = _with_modules(tmp_path / "model", [])
    checkpoints.write_json(model / _POOLING, {"pooling_mode_cls_token": True})
    error = _refused(model, tmp_path, "does not say pooling_mode_mean_tokens")
    assert "true or false" in error.hint
    checkpoints.edit_json(model / _POOLING, pooling_mode_mean_tokens=False)
    export(str(model), tmp_path / "out", task=None)
    assert bundle_format.load(tmp_path / "out").description.model_config.pooling == "cls"


@pytest.mark.parametrize("kind", ["StaticEmbedding", "BoW", "CLIPModel", "WordEmbeddings"])
def test_checkpoints_without_a_transformer_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    model = tmp_path / "model"
    listed = [{"idx": 0, "name": "0", "path": "0_It", "type": _OLD + kind}]
    checkpoints.write_json(model / "modules.json", listed)
    _refused(model, tmp_path, f"modules.json has the layers {kind}; ")


def test_an_empty_list_of_modules_is_not_no_list(tmp_path: Path) -> None:
    model = _with_modules(tmp_path / "model", [])
    checkpoints.write_json(model / "modules.json", [])
    _refused(model, tmp_path, "modules.json lists no module")


@pytest.mark.parametrize("kind", ["custom_st.Transformer", "pylate.models.Dense.Dense"])
def test_modules_of_foreign_code_are_refused(tmp_path: Path, kind: str) -> None:
    model = _with_modules(tmp_path / "model", [])
    checkpoints.write_json(model / "modules.json", [{"type": kind, "path": ""}])
    error = _refused(model, tmp_path, f"asks for {re.escape(kind)}")
    assert "does not execute code" in error.hint


@pytest.mark.parametrize("path", ["../other", "/etc", "a\\b", "c:"])
def test_modules_outside_the_checkpoint_are_refused(tmp_path: Path, path: str) -> None:
    model = _with_modules(tmp_path / "model", [])
    listed = json.loads((model / "modules.json").read_text())
    listed[1]["path"] = path
    checkpoints.write_json(model / "modules.json", listed)
    _refused(model, tmp_path, "is not the folder of a layer")


def test_another_kind_of_model_is_not_taken_for_an_embedder(tmp_path: Path) -> None:
    model = _with_modules(tmp_path / "model", [], 6)
    checkpoints.write_json(model / _CONFIG, {"model_type": "SparseEncoder"})
    checkpoint = hub.resolve(str(model), None, lambda line: None)
    assert not embedding_modules.embeds(checkpoint)
    _refused(model, tmp_path, "'SparseEncoder'", task="feature-extraction")


def test_the_files_of_the_newest_version_are_read(shared: Path) -> None:
    """Metadata that sentence-transformers 6.2 itself wrote."""
    folder = shared / "data/faults/formats/st6"
    made = hub.Checkpoint(folder, "st6", "", "", {}, False)
    read = embedding_modules.read(made)
    assert (read.pooling, read.normalize, read.strip) == ("mean", True, False)
    assert embedding_modules.read_prompts(made) == ({"document": "", "query": ""}, "")
    assert embedding_modules.embeds(made)


# --- the library itself

_PYTHONS = os.environ.get("ENGINE_TEST_SENTENCE_TRANSFORMERS", "").split(os.pathsep)
_VERSIONS = (
    "from importlib.metadata import version as v;"
    "print(v('sentence-transformers'), v('transformers'))"
)
_ANSWER = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
folder, texts, out, *prompts = sys.argv[1], json.load(open(sys.argv[2])), *sys.argv[3:]
model = SentenceTransformer(folder, device="cpu")
np.save(out, [model.encode(texts, prompt_name=p or None, batch_size=4) for p in prompts])
"""


@dataclass(frozen=True)
class Library:
    """A Python with the library, the version whose layout it writes, and its transformers'."""

    python: str
    version: int
    transformers: int

    def encode(self, folder: Path, work: Path, prompts: list[str]) -> np.ndarray:
        """Embeddings with each prompt: (prompts, texts, width)."""
        (work / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
        self._run(_ANSWER, folder, work / "texts.json", work / "out.npy", *prompts)
        return np.asarray(np.load(work / "out.npy"))

    def _run(self, code: str, *arguments: object) -> str:
        command = [self.python, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr[-2000:]
        return done.stdout


@pytest.fixture(params=_PYTHONS)
def library(request: pytest.FixtureRequest) -> Library:
    if not request.param:
        pytest.skip("ENGINE_TEST_SENTENCE_TRANSFORMERS names no Python with the library")
    own, transformers = Library(request.param, 0, 0)._run(_VERSIONS).split()
    major, minor = map(int, own.split(".")[:2])
    layout = 2 if (major, minor) < (5, 4) else 6
    return Library(request.param, layout, int(transformers.split(".")[0]))


@pytest.mark.parametrize("tokenizer", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("settings", [{}, {"do_lower_case": True}, {"include_prompt": False}])
def test_embeddings_are_the_librarys(
    tmp_path: Path, library: Library, tokenizer: str, settings: dict[str, Any]
) -> None:
    if library.transformers == 5 and tokenizer == "xlm-roberta":
        pytest.skip("transformers 5 gives XLM-R other white space than tokenizer.json does")
    model = embedder(tmp_path / "model", tokenizer, library.version)
    lower = settings.get("do_lower_case", False)
    checkpoints.edit_json(model / _SETTINGS, max_seq_length=40, do_lower_case=lower)
    checkpoints.edit_json(model / _POOLING, include_prompt=settings.get("include_prompt", True))
    prompts = {"query": " A Query: ", "other": "x"}
    checkpoints.write_json(model / _CONFIG, {"prompts": prompts, "default_prompt_name": None})
    export(str(model), tmp_path / "out", task=None)
    named = ["", *prompts]
    for prompt, wanted in zip(named, library.encode(model, tmp_path, named), strict=True):
        made = _embedded(tmp_path / "out", TEXTS, prompt=prompt)
        np.testing.assert_allclose(made, wanted, atol=1e-5)
