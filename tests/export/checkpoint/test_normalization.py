"""Metadata of every known version becomes what transformers 4.57 reads, or is refused by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import bundles, checkpoints

from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from engine.export import export
from engine.export.checkpoint import conversion, hub, normalization, tokenizers
from engine.export.checkpoint.normalized_config import normalized_config, normalized_generation
from engine.export.checkpoint.task_inference import TASKS

FIVE = {"transformers_version": "5.24.0"}
TEXTS = (
    "The house is  wonderful.",
    " Ein Hund läuft <mask> über die grüne Wiese.</s>",
    "",
    "日本 a\tb\n",
)


def changed(source: Path, folder: Path, **settings: Any) -> Path:
    """A copy of a checkpoint with other settings in tokenizer_config.json; None drops one."""
    shutil.copytree(source, folder)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    content = {**json.loads(file.read_text(encoding="utf-8")), **settings}
    content.pop("added_tokens_decoder", None)
    checkpoints.write_json(file, {k: v for k, v in content.items() if v is not None})
    return folder


def loaded(model: Path, folder: Path) -> Any:
    checkpoint = hub.resolve(str(model), None, lambda _: None)
    return tokenizers.load(normalization.normalize(checkpoint, folder))


# --- the tokenizer


def test_the_original_is_left_alone(tmp_path: Path) -> None:
    model = bundles.checkpoint_of(checkpoints.bart)
    before = bundles.content(model)
    checkpoint = hub.resolve(str(model), None, lambda _: None)
    copy = normalization.normalize(checkpoint, tmp_path / "copy")
    assert bundles.content(model) == before
    assert (copy.folder / "model.safetensors").is_symlink()
    assert not (copy.folder / "config.json").is_symlink()
    assert copy.config == json.loads((copy.folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", ["t5", "bart", "pegasus", "gpt2", "opt"])
def test_a_tokenizers_backend_is_its_tokenizer_json(family: str, tmp_path: Path) -> None:
    source = bundles.checkpoint_of(getattr(checkpoints, family))
    model = changed(
        source,
        tmp_path / "five",
        tokenizer_class="TokenizersBackend",
        backend="tokenizers",
        is_local=True,
        local_files_only=False,
    )
    five, four = loaded(model, tmp_path / "copy"), loaded(source, tmp_path / "old")
    assert type(five) is type(four)
    assert five.special_tokens_map == four.special_tokens_map
    assert five(list(TEXTS)).input_ids == four(list(TEXTS)).input_ids
    assert five.backend_tokenizer.to_str() == four.backend_tokenizer.to_str()


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("nllb", "NllbTokenizerFast"),
        ("mbart", "MBartTokenizerFast"),
        ("mbart50", "MBart50TokenizerFast"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_language_codes_need_their_own_class(
    family: str, expected: str, named: bool, tmp_path: Path
) -> None:
    source = bundles.checkpoint_of(getattr(checkpoints, family))
    four = loaded(source, tmp_path / "old")
    model = changed(
        source,
        tmp_path / "five",
        tokenizer_class=expected.removesuffix("Fast") if named else "TokenizersBackend",
        backend="tokenizers",
        extra_special_tokens=four.additional_special_tokens,
        additional_special_tokens=None,
    )
    five = loaded(model, tmp_path / "copy")
    assert type(five).__name__ == expected
    assert five.additional_special_tokens == four.additional_special_tokens
    assert five(list(TEXTS)).input_ids == four(list(TEXTS)).input_ids


def test_a_prefix_space_of_tokenizer_json_stays(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.encoder, "roberta", "fill-mask")
    model = changed(
        source,
        tmp_path / "five",
        tokenizer_class="RobertaTokenizer",
        backend="tokenizers",
        add_prefix_space=None,
        trim_offsets=None,
    )
    five, four = loaded(model, tmp_path / "copy"), loaded(source, tmp_path / "old")
    assert five(list(TEXTS)).input_ids == four(list(TEXTS)).input_ids
    assert five.backend_tokenizer.to_str() == four.backend_tokenizer.to_str()
    assert five.model_input_names == four.model_input_names


def test_tokens_that_no_file_names_are_the_family_s(tmp_path: Path) -> None:
    """As transformers 5 saves a folder that held a tokenizer.json alone."""
    source = bundles.checkpoint_of(checkpoints.encoder, "roberta", "fill-mask")
    model = changed(source, tmp_path / "five")
    content = {"backend": "tokenizers", "tokenizer_class": "TokenizersBackend"}
    checkpoints.write_json(model / "tokenizer_config.json", content)
    five = loaded(model, tmp_path / "copy")
    assert (five.pad_token, five.mask_token, five.cls_token) == ("<pad>", "<mask>", "<s>")


def test_further_tokens_in_either_spelling(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.bert)
    plain, token = "house", {"content": "garden", "lstrip": False, "normalized": False}
    model = changed(
        source,
        tmp_path / "five",
        additional_special_tokens=[plain],
        extra_special_tokens=[plain, token],
    )
    five = loaded(model, tmp_path / "copy")
    assert five.additional_special_tokens == ["house", "garden"]
    model = changed(source, tmp_path / "four", extra_special_tokens={"image_token": "house"})
    assert loaded(model, tmp_path / "other").image_token == "house"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_special_tokens": "house"}, 'extra_special_tokens="house", which is not a list'),
        ({"extra_special_tokens": [3]}, "extra_special_tokens=3, which is not a string"),
        ({"pad_token": ["[PAD]"]}, "pad_token=.*which is not a string, or an object"),
        ({"padding_side": "both"}, 'padding_side="both", which is not left or right'),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"backend": "rwkv"}, 'backend="rwkv", which is not one of tokenizers'),
        ({"tokenizer_class": ["A", "B"]}, "tokenizer_class=.*which is not the name of a class"),
    ],
)
def test_unknown_values_are_refused_by_name(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = changed(bundles.checkpoint_of(checkpoints.bert), tmp_path / "odd", **settings)
    with pytest.raises(ExportError, match=message) as caught:
        loaded(model, tmp_path / "copy")
    assert caught.value.hint == f"correct {next(iter(settings))} there"


def test_an_unknown_class_is_refused_and_the_hint_helps(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.bert)
    model = changed(source, tmp_path / "odd", tokenizer_class="ZuluTokenizer")
    with pytest.raises(ExportError, match="names the class 'ZuluTokenizer'") as caught:
        loaded(model, tmp_path / "copy")
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in str(caught.value.hint)
    checkpoints.edit_json(
        model / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast"
    )
    assert loaded(model, tmp_path / "other")("house").input_ids


# --- config.json


@pytest.mark.parametrize("model_type", ["t5", "umt5", "longt5"])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_scale_of_a_t5_s_head(model_type: str, scaled: bool) -> None:
    saved = {
        **FIVE,
        "model_type": model_type,
        "scale_decoder_outputs": scaled,
        "tie_word_embeddings": True,
    }
    config = normalized_config("m", saved)
    assert config["tie_word_embeddings"] is scaled
    assert "scale_decoder_outputs" not in config
    assert saved["scale_decoder_outputs"] is scaled


def test_an_mt5_never_scales_in_version_5() -> None:
    saved = {"model_type": "mt5", "tie_word_embeddings": True}
    assert normalized_config("m", {**saved, **FIVE})["tie_word_embeddings"] is False
    assert normalized_config("m", {**saved, "transformers_version": "4.57.6"}) == {
        **saved,
        "transformers_version": "4.57.6",
    }


def test_a_head_without_scale_may_be_the_embedding(tmp_path: Path) -> None:
    """transformers 5 ties FLAN-T5's head; 4.57 has no such setting, and the weights no head."""
    from safetensors.torch import load_file, save_file

    source = bundles.checkpoint_of(checkpoints.t5, tie_word_embeddings=False)
    model = tmp_path / "flan"
    shutil.copytree(source, model)
    weights = load_file(model / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    settings = {"scale_decoder_outputs": False, "tie_word_embeddings": True, **FIVE}
    checkpoints.edit_json(model / "config.json", **settings)
    checkpoint = hub.resolve(str(model), None, lambda _: None)
    copy = normalization.normalize(checkpoint, tmp_path / "copy")
    flan = conversion.load(copy, TASKS["translation"])
    assert flan.config.tie_word_embeddings is False
    assert flan.lm_head.weight is flan.shared.weight
    with pytest.raises(ExportError, match="lacks weights that translation needs: lm_head"):
        conversion.load(dataclasses.replace(copy, shares_head=False), TASKS["translation"])


ROPES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "llama",
        {"rope_theta": 5e5, "rope_type": "default"},
        {"rope_theta": 5e5, "rope_scaling": None},
    ),
    (
        "llama",
        {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        {
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        },
    ),
    (
        "qwen2",
        {"rope_theta": 1e6, "type": "linear", "factor": 2.0},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    (
        "phi3",
        {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "rope_scaling": None},
    ),
    (
        "phi3",
        {
            "rope_theta": 1e4,
            "type": "longrope",
            "rope_type": "longrope",
            "short_factor": [1.0],
            "long_factor": [2.0],
            "original_max_position_embeddings": 64,
        },
        {
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        },
    ),
    (
        "gpt_neox",
        {"rope_theta": 2e4, "rope_type": "default", "partial_rotary_factor": 0.25},
        {"rotary_emb_base": 2e4, "rotary_pct": 0.25, "rope_scaling": None},
    ),
    (
        "gemma3_text",
        {
            "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        {
            "rope_theta": 1e6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 1e4,
        },
    ),
    (
        "modernbert",
        {
            "full_attention": {"rope_theta": 1.5e5, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        {"global_rope_theta": 1.5e5, "local_rope_theta": 1e4},
    ),
]


@pytest.mark.parametrize(("model_type", "saved", "read"), ROPES)
def test_rotary_positions(model_type: str, saved: dict[str, Any], read: dict[str, Any]) -> None:
    config = normalized_config("m", {"model_type": model_type, "rope_parameters": saved})
    assert config == {"model_type": model_type, **read}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llama", "rope_parameters": {"rope_type": "spiral"}}, "rope_type='spiral'"),
        ({"model_type": "llama", "rope_parameters": 3}, "rope_parameters=3"),
        (
            {"model_type": "llama", "rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
            "rope_parameters for full_attention",
        ),
        (
            {
                "model_type": "modernbert",
                "rope_parameters": {"sliding_attention": {"rope_type": "yarn", "factor": 2.0}},
            },
            "rope_type='yarn' for sliding_attention",
        ),
        (
            {
                "model_type": "modernbert",
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "layer_types=",
        ),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "use_bidirectional"),
    ],
)
def test_what_4_57_does_not_have_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        normalized_config("m", settings)
    assert "transformers 4.57" in str(caught.value)


@pytest.mark.parametrize("every", [1, 3, 5])
def test_modernbert_s_kinds_of_layers(every: int) -> None:
    layers = ["sliding_attention" if i % every else "full_attention" for i in range(5)]
    config = normalized_config("m", {"model_type": "modernbert", "layer_types": layers})
    assert config == {"model_type": "modernbert", "global_attn_every_n_layers": every}


def test_xlm_s_ids_have_their_old_names() -> None:
    config = normalized_config("m", {"model_type": "xlm", "pad_token_id": 7, "bos_token_id": None})
    assert config == {"model_type": "xlm", "pad_token_id": 7, "bos_token_id": None, "pad_index": 7}


def test_null_sets_nothing_in_version_5() -> None:
    saved = {"max_length": None, "top_k": None, "num_beams": 4}
    assert normalized_generation("m", {**saved, **FIVE}) == {"num_beams": 4, **FIVE}
    # 4.57 itself takes null for top_k as no limit at all.
    assert normalized_generation("m", saved) == saved


def test_a_search_that_4_57_does_not_have_is_refused_and_the_hint_helps() -> None:
    saved = {"do_sample": True, "top_h": 0.4, **FIVE}
    with pytest.raises(ExportError, match=r"generation_config\.json has top_h=0\.4") as caught:
        normalized_generation("m", saved)
    assert caught.value.hint == "remove top_h there to generate without it"
    del saved["top_h"]
    assert normalized_generation("m", saved) == saved


def test_a_checkpoint_of_version_5_becomes_a_bundle(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.bart)
    model = changed(
        source,
        tmp_path / "bart",
        tokenizer_class="TokenizersBackend",
        backend="tokenizers",
        extra_special_tokens=["<mask>"],
    )
    checkpoints.edit_json(model / "config.json", tokenizer_class="TokenizersBackend", **FIVE)
    out = tmp_path / "out"
    export(str(model), out, task="summarization")
    expected = bundles.bundle_of(source, "summarization")
    five, four = (json.loads((f / "bundle.json").read_text("utf-8")) for f in (out, expected))
    assert five["model_config"] == four["model_config"]
    assert (out / "weights.bin").read_bytes() == (expected / "weights.bin").read_bytes()
