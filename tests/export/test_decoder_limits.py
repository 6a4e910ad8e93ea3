"""Causal models that have no step graph are refused by name, before a weight is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of

from engine.errors import ExportError

transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

from engine.export import export  # noqa: E402
from engine.export.checkpoint import decoder_limits  # noqa: E402


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """Without weights: nothing asks for them."""
    shutil.copytree(checkpoint_of(checkpoints.rotary, "Llama"), tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"")
    return tmp_path / "model"


def refused(model: Path, task: str | None = "text-generation") -> ExportError:
    with pytest.raises(ExportError) as caught:
        export(str(model), model.parent / "out", task=task)
    assert not (model.parent / "out").exists()
    return caught.value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"rope_type": "mrope"}}, "rotary positions of the type 'mrope'"),
        ({"rope_scaling": {"type": "xpos", "factor": 2.0}}, "rotary positions of the type 'xpos'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "proportional"}}},
            "rotary positions of the type 'proportional'",
        ),
        ({"layer_types": ["full_attention", "linear_attention"]}, "the type linear_attention"),
        ({"layer_types": ["chunked_attention"] * 2}, "the type chunked_attention"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"head_dim": 20}, "heads have 20 numbers"),
        ({"head_dim": None, "hidden_size": 80}, "heads have 20 numbers"),
        ({"model_type": "falcon", "alibi": True}, "alibi=True"),
        ({"model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv=8.0"),
        ({"model_type": "cohere", "use_qk_norm": True}, "use_qk_norm=True"),
        ({"model_type": "stablelm", "qk_layernorm": True}, "qk_layernorm=True"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
    ],
)
def test_what_the_step_graphs_do_not_compute(
    tmp_path: Path, llama: Path, changes: dict[str, Any], said: str
) -> None:
    checkpoints.edit_json(llama / "config.json", **changes)
    if "hidden_act" in changes:
        # The only one that is found in the loaded model.
        weights = checkpoint_of(checkpoints.rotary, "Llama") / "model.safetensors"
        shutil.copy(weights, llama)
    error = refused(llama)
    assert said in str(error)
    assert error.hint


@pytest.mark.parametrize("task", ["text-generation", None])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixtures of experts"),
        ({"model_type": "qwen2_moe", "num_experts": 60}, "mixtures of experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 64}, "mixtures of experts"),
        ({"model_type": "mistral3", "text_config": {}}, "reads more than text"),
        ({"model_type": "mamba"}, "this checkpoint is of type 'mamba'"),
    ],
)
def test_other_architectures(
    llama: Path, changes: dict[str, Any], said: str, task: str | None
) -> None:
    checkpoints.edit_json(llama / "config.json", **changes)
    error = refused(llama, task)
    assert said in str(error)
    assert changes["model_type"] in str(error)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_quantized_weights(llama: Path, method: str) -> None:
    checkpoints.edit_json(llama / "config.json", quantization_config={"quant_method": method})
    assert f"already quantized by {method}" in str(refused(llama))


def test_a_dense_checkpoint_has_no_experts() -> None:
    """A setting that is off is none."""
    assert decoder_limits.reason({"model_type": "x", "num_experts": 0}) == ("", "")


def test_gemma_3_with_images_says_how_to_take_its_text_model(tmp_path: Path) -> None:
    """The hint's command, run as it is, gives a checkpoint that is exported."""
    shutil.copytree(checkpoint_of(checkpoints.rotary, "Gemma3Text"), tmp_path / "text")
    text = transformers.AutoConfig.from_pretrained(tmp_path / "text")
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(text, vision, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "text").glob("*token*"):
        shutil.copy(file, tmp_path / "model")
    error = refused(tmp_path / "model", None)
    assert "'gemma3'" in str(error)
    code = error.hint.split('python -c "')[1].rstrip('"')
    code = code.replace("MODEL", str(tmp_path / "model")).replace("TEXT", str(tmp_path / "alone"))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert json.loads((tmp_path / "alone/config.json").read_text())["model_type"] == "gemma3_text"
    export(str(tmp_path / "alone"), tmp_path / "out", task=None)


@pytest.mark.parametrize("scaling", [None, {}, {"rope_type": "default"}, "dynamic", [2.0]])
def test_a_scaling_that_is_none_or_not_read_here(scaling: Any) -> None:
    decoder_limits.check("it", {"rope_scaling": scaling, "hidden_size": 64, "n_head": 4})
