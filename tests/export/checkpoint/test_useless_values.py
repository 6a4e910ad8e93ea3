"""Values in metadata that mean nothing are refused by name, or left out where nothing depends on
them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import bundles, checkpoints

from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from engine.export import export
from engine.export.checkpoint import hub, normalization, tokenizers
from engine.export.checkpoint.normalized_config import normalized_config, normalized_generation


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


@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json", "config.json"])
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, file: str) -> None:
    model = Path(shutil.copytree(bundles.checkpoint_of(checkpoints.t5), tmp_path / "model"))
    (model / file).write_text("[1]", encoding="utf-8")
    with pytest.raises(ExportError, match=rf"{file}: a list, not an object of settings"):
        loaded(model, tmp_path / "copy")


@pytest.mark.parametrize("length", ["512", 0, -1, True, 12.5, float("inf"), [8]])
def test_a_length_that_is_no_number_of_tokens_is_refused(tmp_path: Path, length: Any) -> None:
    model = changed(
        bundles.checkpoint_of(checkpoints.bart), tmp_path / "model", model_max_length=length
    )
    with pytest.raises(ExportError, match=r"model_max_length=.*not a number of tokens") as caught:
        loaded(model, tmp_path / "copy")
    assert caught.value.hint == "correct model_max_length there"
    checkpoints.edit_json(model / "tokenizer_config.json", model_max_length=12)
    assert loaded(model, tmp_path / "mended").model_max_length == 12


def test_a_length_may_be_written_as_a_float(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.bart)
    for length, folder in ((12.0, "short"), (1e30, "long")):
        model = changed(source, tmp_path / folder, model_max_length=length)
        tokenizer = loaded(model, tmp_path / f"copy-{folder}")
        assert len(tokenizer("a b c d e f g h i j k l m n", truncation=True)["input_ids"])
        assert isinstance(tokenizer.model_max_length, int)


def test_an_unknown_class_with_code_beside_it_is_named_without_a_temporary_path(
    tmp_path: Path,
) -> None:
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    model = changed(bundles.checkpoint_of(checkpoints.bart), tmp_path / "model", **own)
    with pytest.raises(ExportError, match="names the class 'OwnTokenizer'") as caught:
        loaded(model, tmp_path / "copy")
    assert str(tmp_path) not in str(caught.value)
    # The hint is followed.
    file = model / "tokenizer_config.json"
    checkpoints.edit_json(file, tokenizer_class="PreTrainedTokenizerFast")
    assert loaded(model, tmp_path / "mended").is_fast


@pytest.mark.parametrize("dtype", ["auto", "bf16", "torch.half", 16, {"": "float32"}])
def test_a_dtype_that_torch_does_not_know_is_left_out(dtype: Any) -> None:
    config = normalized_config("m", {"model_type": "bert", "dtype": dtype, "torch_dtype": dtype})
    assert config == {"model_type": "bert"}
    plain = {"model_type": "bert", "torch_dtype": "bfloat16"}
    assert normalized_config("m", plain) == plain


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_beams", "4"), ("max_new_tokens", 12.5), ("top_k", True), ("temperature", "0.7")],
)
def test_a_generation_setting_of_another_type_is_refused(key: str, value: Any) -> None:
    wanted = rf"m: generation_config.json has {key}=.*, which is not a"
    with pytest.raises(ExportError, match=wanted) as caught:
        normalized_generation("m", {key: value})
    assert caught.value.hint == f"correct {key} there"
    assert normalized_generation("m", {key: 1}) == {key: 1}


def test_special_tokens_that_are_split_are_refused(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.bart)
    model = changed(source, tmp_path / "model", split_special_tokens=True)
    with pytest.raises(ExportError, match="has split_special_tokens, which reads") as caught:
        loaded(model, tmp_path / "copy")
    assert '"split_special_tokens": false' in caught.value.hint
    checkpoints.edit_json(model / "tokenizer_config.json", split_special_tokens=False)
    assert loaded(model, tmp_path / "mended").is_fast


def test_a_padding_token_of_minus_one_is_none(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.gpt2)
    model = Path(shutil.copytree(source, tmp_path / "model"))
    checkpoints.edit_json(model / "config.json", pad_token_id=-1)
    (model / "generation_config.json").unlink()
    export(str(model), tmp_path / "bundle", task=None)
    config = json.loads((tmp_path / "bundle/bundle.json").read_text(encoding="utf-8"))
    assert '"pad_id": -1' not in json.dumps(config)


def test_prompts_that_are_a_list_are_refused(tmp_path: Path) -> None:
    model = Path(shutil.copytree(bundles.checkpoint_of(checkpoints.embedder), tmp_path / "model"))
    file = model / "config_sentence_transformers.json"
    checkpoints.write_json(file, {"prompts": ["query: "]})
    with pytest.raises(ExportError, match="has prompts that are no object"):
        export(str(model), tmp_path / "bundle", task=None)


def test_an_empty_pooling_is_not_called_missing(tmp_path: Path) -> None:
    model = Path(shutil.copytree(bundles.checkpoint_of(checkpoints.embedder), tmp_path / "model"))
    checkpoints.write_json(model / "1_Pooling/config.json", {})
    with pytest.raises(ExportError, match=r"1_Pooling/config.json, which is empty"):
        export(str(model), tmp_path / "bundle", task=None)


def test_a_model_that_fails_on_a_text_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.classifier)
    model = Path(shutil.copytree(source, tmp_path / "model"))
    checkpoints.edit_json(model / "config.json", layer_norm_eps=None)
    with pytest.raises(ExportError, match="own model fails on a text: TypeError"):
        export(str(model), tmp_path / "bundle", task=None)


def test_a_decoder_that_fails_on_a_text_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.rotary, "Llama")
    model = Path(shutil.copytree(source, tmp_path / "model"))
    rope = {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5}
    checkpoints.edit_json(model / "config.json", rope_theta=None, rope_parameters=rope)
    with pytest.raises(ExportError, match="own model fails on a text: RuntimeError"):
        export(str(model), tmp_path / "bundle", task="text-generation")


def test_other_shapes_inside_the_model_are_not_blamed_on_labels(tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.classifier)
    model = Path(shutil.copytree(source, tmp_path / "model"))
    checkpoints.edit_json(model / "config.json", vocab_size=5000)
    with pytest.raises(ExportError, match="other shapes") as caught:
        export(str(model), tmp_path / "bundle", task=None)
    assert "id2label" not in str(caught.value)
