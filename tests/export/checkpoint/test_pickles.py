"""Pickled weights are read by torch's weights-only unpickler: a payload never runs."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of

from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from engine.export import export
from engine.export.checkpoint import hub


class Payload:
    """Unpickled by pickle.load it writes a file."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _payloads(ran: Path) -> dict[str, Any]:
    """What a file of weights can hold beside them, by kind; each would make the file `ran`."""
    import numpy as np
    import torch

    command = f"touch {ran}"
    array = np.array([Payload(os.system, command)], dtype=object)
    return {
        "system": Payload(os.system, command),
        "eval": Payload(eval, f"open({str(ran)!r}, 'w')"),
        "exec": Payload(exec, f"open({str(ran)!r}, 'w')"),
        "numpy": array,
        "partial": Payload(__import__("functools").partial, os.system, command),
        "rebuild": Payload(torch._utils._rebuild_tensor_v2, Payload(os.system, command)),
        "load": Payload(pickle.loads, pickle.dumps(Payload(os.system, command))),
    }


KINDS = ("system", "eval", "exec", "numpy", "partial", "rebuild", "load")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_of(checkpoints.embedder), tmp_path / "model"))


def _fails(model: Path, **settings: Any) -> ExportError:
    with pytest.raises(ExportError) as caught:
        export(str(model), model.parent / "out", task=None, **settings)
    assert not (model.parent / "out").exists()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_never_runs(
    model: Path, tmp_path: Path, kind: str, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the flag and without, in torch's format and its older one, whatever the environment."""
    import torch

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ran = tmp_path / "ran"
    _to_pickle(model, {"more": _payloads(ran)[kind]}, legacy)
    refused = _fails(model)
    assert "the only weights are pickled (pytorch_model.bin)" in str(refused)
    assert "torch's weights-only unpickler: no code runs" in refused.hint
    error = _fails(model, allow_pickle=True)
    assert "model: pytorch_model.bin is refused" in str(error)
    assert "save_pretrained, which writes model.safetensors" in error.hint
    assert not ran.exists()
    if kind == "system":
        torch.load(model / "pytorch_model.bin", weights_only=False)
        assert ran.exists(), "the payload is one"


def _to_pickle(model: Path, more: dict[str, Any], legacy: bool = False) -> None:
    import torch
    from safetensors.torch import load_file

    state = {**load_file(model / "model.safetensors"), **more}
    torch.save(state, model / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (model / "model.safetensors").unlink()


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_read(model: Path, tmp_path: Path, legacy: bool) -> None:
    """And by the same unpickler alone: transformers' own call says so."""
    import torch

    _to_pickle(model, {}, legacy)
    calls = []
    load = torch.load

    def recorded(*arguments: Any, **settings: Any) -> Any:
        calls.append(settings.get("weights_only"))
        return load(*arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", recorded)
        export(str(model), tmp_path / "out", task=None, allow_pickle=True)
    assert len(calls) >= 2
    assert set(calls) == {True}


def test_a_payload_in_a_shard(model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    ran = tmp_path / "ran"
    state = load_file(model / "model.safetensors")
    shards = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    names = {name: shards[n % 2] for n, name in enumerate(state)}
    for shard in shards:
        torch.save({n: state[n] for n, of in names.items() if of == shard}, model / shard)
    checkpoints.write_json(
        model / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": names}
    )
    (model / "model.safetensors").unlink()
    export(str(model), tmp_path / "whole", task=None, allow_pickle=True)
    content = torch.load(model / shards[1])
    torch.save({**content, "x": _payloads(ran)["system"]}, model / shards[1])
    error = _fails(model, allow_pickle=True)
    assert f"{shards[1]} is refused: it asks for posix.system" in str(error)
    elsewhere = dict.fromkeys(names, "../weights.bin")
    checkpoints.write_json(
        model / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": elsewhere}
    )
    torch.save(state, tmp_path / "weights.bin")
    assert "names '../weights.bin', which is not a file of" in str(_fails(model, allow_pickle=True))
    assert not ran.exists()


def test_a_payload_in_a_dense_layer(tmp_path: Path) -> None:
    import torch

    ran = tmp_path / "ran"
    modules = ("Transformer", "Pooling", "Dense", "Normalize")
    model = checkpoints.embedder(tmp_path / "model", modules=modules)
    checkpoints.dense(model / "2_Dense", 32, 24, "torch.nn.modules.activation.Tanh")
    checkpoints.to_pickle(model / "2_Dense")
    file = model / "2_Dense/pytorch_model.bin"
    torch.save({**torch.load(file), "x": _payloads(ran)["eval"]}, file)
    assert "pickled (2_Dense/pytorch_model.bin)" in str(_fails(model))
    assert "pytorch_model.bin is refused" in str(_fails(model, allow_pickle=True))
    assert not ran.exists()


def test_other_pickles_of_a_folder_are_never_opened(model: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "vocab.pkl", "x.bin"):
        (model / name).write_bytes(pickle.dumps(_payloads(ran)["system"]))
    for allow in (False, True):
        export(str(model), tmp_path / f"out-{allow}", task=None, allow_pickle=allow)
    # The weights.sha256 of a checkpoint does not know of them either.
    read = {file.name for file in hub.files(model)}
    assert not any(name.endswith((".pt", ".pth", ".pkl", "s.bin", "x.bin")) for name in read)
    assert not ran.exists()


def test_what_is_not_weights_is_refused(model: Path) -> None:
    import torch

    (model / "model.safetensors").unlink()
    file = model / "pytorch_model.bin"
    cases: dict[str, Any] = {
        "it asks for torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
        "not a mapping of names to tensors": {"state_dict": {"a": torch.zeros(2)}},
        "a mapping of names": [torch.zeros(2)],
    }
    for said, content in cases.items():
        torch.save(content, file)
        assert said in str(_fails(model, allow_pickle=True))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    assert "a TorchScript program" in str(_fails(model, allow_pickle=True))
    file.write_bytes(b"<html>")
    assert "may be damaged" in str(_fails(model, allow_pickle=True))


def test_torch_s_oldest_format(model: Path, tmp_path: Path) -> None:
    """An archive of the kind that torch wrote before 0.2: refused by name, nothing runs."""
    import tarfile

    ran = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("storages", "tensors", "pickle"):
        (parts / name).write_bytes(pickle.dumps(_payloads(ran)["system"]))
    with tarfile.open(model / "pytorch_model.bin", "w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.add(parts / name, name)
    assert "torch's oldest format (tar)" in str(_fails(model, allow_pickle=True))
    assert not ran.exists()
