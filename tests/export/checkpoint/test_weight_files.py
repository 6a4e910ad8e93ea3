"""Where a checkpoint's weights are: one file, shards, a subfolder, another precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import bundles, checkpoints

from engine.errors import ExportError, SettingsError

pytest.importorskip("optimum.exporters.onnx")
torch = pytest.importorskip("torch")

from engine.bundle import format as bundle_format  # noqa: E402
from engine.export import export  # noqa: E402
from engine.export.checkpoint import conversion, hub  # noqa: E402
from engine.export.checkpoint.task_inference import TASKS  # noqa: E402

INDEX = "model.safetensors.index.json"


def silent(_: str) -> None:
    """No progress."""


def copied(tmp_path: Path, build: Any = checkpoints.classifier, **config: Any) -> Path:
    model = tmp_path / "model"
    shutil.copytree(bundles.checkpoint_of(build, **config), model)
    return model


def sharded(model: Path, names: tuple[str, ...] = (), pickled: bool = False) -> Path:
    """The same weights in shards, by turns, with their index."""
    from safetensors.torch import load_file, save_file

    ending, first = (".bin", "pytorch_model") if pickled else (".safetensors", "model")
    names = names or tuple(f"{first}-{i:05d}-of-00002{ending}" for i in (1, 2))
    weights = load_file(model / "model.safetensors")
    of = {key: names[i % len(names)] for i, key in enumerate(sorted(weights))}
    for name in names:
        part = {key: weights[key] for key in weights if of[key] == name}
        if pickled:
            torch.save(part, model / name)
        else:
            save_file(part, model / name, metadata={"format": "pt"})
    checkpoints.write_json(
        model / f"{first}{ending}.index.json", {"metadata": {}, "weight_map": of}
    )
    (model / "model.safetensors").unlink()
    return model


def loaded(model: Path, task: str, allow_pickle: bool = False) -> dict[str, Any]:
    checkpoint = hub.with_weights(hub.resolve(str(model), None, silent), allow_pickle, silent)
    state: dict[str, Any] = conversion.load(checkpoint, TASKS[task]).state_dict()
    return state


@pytest.mark.parametrize("names", [(), ("head.safetensors", "body.safetensors")])
def test_shards_give_the_bundle_of_the_whole_file(names: tuple[str, ...], tmp_path: Path) -> None:
    model = sharded(copied(tmp_path), names)
    export(str(model), tmp_path / "out", task="text-classification")
    whole = bundles.bundle_of(bundles.checkpoint_of(checkpoints.classifier), "text-classification")
    for name in ("weights.bin", "model.onnx"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()
    source = bundle_format.load(tmp_path / "out").description.source
    assert (
        source["weights_sha256"] != bundle_format.load(whole).description.source["weights_sha256"]
    )


def test_pickled_shards(tmp_path: Path) -> None:
    model = sharded(copied(tmp_path), pickled=True)
    with pytest.raises(ExportError, match="pickled"):
        loaded(model, "text-classification")
    whole = loaded(bundles.checkpoint_of(checkpoints.classifier), "text-classification")
    shards = loaded(model, "text-classification", allow_pickle=True)
    assert all(torch.equal(whole[key], shards[key]) for key in whole)
    (model / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ExportError, match=r"names pytorch_model-00002-of-00002\.bin, missing in"):
        loaded(model, "text-classification", allow_pickle=True)


def test_a_missing_shard_is_named_and_the_hint_helps(tmp_path: Path) -> None:
    model = sharded(copied(tmp_path))
    shard = model / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match=f"{INDEX} names {shard.name}, missing in") as caught:
        loaded(model, "text-classification")
    assert "fetch the missing files" in str(caught.value.hint)
    (tmp_path / "elsewhere").rename(shard)
    loaded(model, "text-classification")
    (model / INDEX).unlink()
    with pytest.raises(ExportError, match=f"{INDEX} is missing in .* has the shard model-00001"):
        loaded(model, "text-classification")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not an index of weights: JSONDecodeError"),
        ("[]", "not an index of weights: TypeError"),
        ('{"weight_map": {"a": 3}}', "names '3', which is not a file of weights beside it"),
        ('{"weight_map": {"a": "../x.safetensors"}}', r"names '\.\./x\.safetensors'"),
        ('{"weight_map": {"a": "x.bin"}}', r"names 'x\.bin'"),
    ],
)
def test_a_damaged_index(content: str, message: str, tmp_path: Path) -> None:
    model = sharded(copied(tmp_path))
    (model / INDEX).write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=message):
        loaded(model, "text-classification")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_half_precision_is_loaded_as_float32(dtype: str, key: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = copied(tmp_path)
    weights = load_file(model / "model.safetensors")
    halves = {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}
    save_file(halves, model / "model.safetensors", metadata={"format": "pt"})
    checkpoints.edit_json(model / "config.json", **{"dtype": None, key: dtype})
    state = loaded(sharded(model), "text-classification")
    assert {weight.dtype for weight in state.values() if weight.is_floating_point()} == {
        torch.float32
    }
    assert all(torch.equal(state[name], halves[name].float()) for name in halves)


# Which of the weights that are one matrix a file may hold alone.
TIED = [
    (checkpoints.t5, "translation", "shared.weight"),
    (checkpoints.t5, "translation", "encoder.embed_tokens.weight"),
    (checkpoints.t5, "translation", "lm_head.weight"),
    (checkpoints.bart, "summarization", "model.shared.weight"),
    (checkpoints.bart, "summarization", "lm_head.weight"),
    (checkpoints.gpt2, "text-generation", "transformer.wte.weight"),
    (checkpoints.gpt2, "text-generation", "lm_head.weight"),
]


@pytest.mark.parametrize(("build", "task", "alone"), TIED)
def test_a_tied_weight_may_be_stored_under_any_of_its_names(
    build: Any, task: str, alone: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = copied(tmp_path, build)
    whole = loaded(model, task)
    names = ("shared", "embed_tokens", "wte", "lm_head")
    weights = load_file(model / "model.safetensors")
    rest = {k: v for k, v in weights.items() if not any(f"{name}.weight" in k for name in names)}
    assert len(rest) < len(weights)
    save_file({**rest, alone: whole[alone]}, model / "model.safetensors", metadata={"format": "pt"})
    again = loaded(model, task)
    assert all(torch.equal(whole[key], again[key]) for key in whole)


# --- subfolders


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A folder with checkpoints in folders below it."""
    top = tmp_path / "top"
    for name in ("small", "other/large"):
        shutil.copytree(bundles.checkpoint_of(checkpoints.classifier), top / name)
    return top


def test_a_subfolder_is_exported(nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(nested), out, task=None, subfolder="other/large/")
    description = bundle_format.load(out).description
    assert (description.source["model"], description.source["subfolder"]) == ("top", "other/large")
    whole = bundles.bundle_of(bundles.checkpoint_of(checkpoints.classifier), "text-classification")
    assert (out / "weights.bin").read_bytes() == (whole / "weights.bin").read_bytes()


def test_a_missing_subfolder_names_those_that_there_are(nested: Path) -> None:
    with pytest.raises(ExportError) as caught:
        hub.resolve(str(nested), None, silent, "tiny")
    assert (
        "the subfolder 'tiny' holds no config.json; those that hold one: other/large, small"
    ) in str(caught.value)
    assert caught.value.hint == "name the folder, such as --subfolder other/large"
    assert hub.resolve(str(nested), None, silent, "other/large").config["model_type"] == "bert"
    with pytest.raises(ExportError, match="the top folder holds no config"):
        hub.resolve(str(nested), None, silent)


def test_a_subfolder_of_a_checkpoint_at_the_top(tmp_path: Path) -> None:
    model = copied(tmp_path)
    with pytest.raises(ExportError, match="those that hold one: the top folder") as caught:
        hub.resolve(str(model), None, silent, "onnx")
    assert caught.value.hint == "leave --subfolder out"
    hub.resolve(str(model), None, silent)


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../b", "~/x", "a\\b", "c:/x"])
def test_a_subfolder_is_below_the_folder(path: str, nested: Path) -> None:
    with pytest.raises(SettingsError, match="not a path below"):
        hub.resolve(str(nested), None, silent, path)


def test_a_subfolder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="subfolder 'x' is given, but no model"):
        export(None, tmp_path / "out", task="ner", subfolder="x")


def test_the_command_that_made_a_bundle_has_its_subfolder(nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(nested), out, task=None, subfolder="small")
    file = out / "bundle.json"
    checkpoints.write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "format": 2})
    with pytest.raises(Exception, match="bundle format 2") as caught:
        bundle_format.load(out)
    assert "--subfolder small" in str(caught.value)


def test_a_pointer_of_git_lfs_is_no_file_of_weights(tmp_path: Path) -> None:
    model = copied(tmp_path)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    (model / "model.safetensors").write_bytes(pointer)
    with pytest.raises(ExportError, match=r"model\.safetensors is a pointer of Git LFS") as caught:
        export(str(model), tmp_path / "bundle", task=None)
    assert "git lfs pull" in caught.value.hint


def test_weights_under_the_names_of_another_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = copied(tmp_path)
    file = model / "model.safetensors"
    weights = {f"module.{name}": weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="lacks weights that text-classification") as caught:
        export(str(model), tmp_path / "bundle", task=None)
    assert "it has module.bert." in caught.value.hint


def test_weights_that_are_nan_are_blamed_and_not_the_engine(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = copied(tmp_path)
    file = model / "model.safetensors"
    weights = load_file(file)
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="by up to nan") as caught:
        export(str(model), tmp_path / "bundle", task=None)
    assert "nan or infinite" in caught.value.hint
    assert "report" not in caught.value.hint
    assert not (tmp_path / "bundle").exists()
