"""engine tune: what is found is kept beside the bundle and taken by runs on that machine alone."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import engine
from engine.bench import tune as room
from engine.bench.tune import tune
from engine.bundle import tuned
from engine.cli import app
from engine.core.config import RunConfig
from engine.core.device import CPU
from engine.core.hardware import cores, cpu
from engine.demo import BUNDLE
from engine.errors import (
    BundleError,
    ColumnError,
    DeviceError,
    InputError,
    OutputError,
    SettingsError,
)

pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"dos mil {n}"}) for n in range(40)))
    return file


def found(**changes: object) -> tuned.Tuned:
    settings = tuned.Tuned(512, 1, 1, cpu()[0], cores(), "rows", 1.5)
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]  # checked by use


def settings_of(out: Path) -> dict[str, object]:
    settings = json.loads((out / "_manifest/run.json").read_text())["settings"]
    return dict(settings)


@pytest.mark.parametrize("given", [False, True])
def test_the_fastest_settings_are_kept(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    monkeypatch.setattr(room, "BUDGETS", (256, 512))
    arguments = ["tune", str(folder), *([str(corpus)] if given else []), "--seconds", "1", "--json"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    kept = tuned.load(folder)
    assert kept is not None
    assert kept.here("")
    assert kept.batch_tokens in (256, 512)
    assert 1 <= kept.workers <= max(4, cores())
    assert kept.threads == max(1, cores() // kept.workers)
    assert kept.sample == (str(corpus) if given else "bundled sentences")
    seconds = {
        (one["batch_tokens"], one["workers"]): one["seconds"]
        for one in json.loads(said.stdout)["sweep"]
    }
    assert seconds[kept.batch_tokens, kept.workers] == min(seconds.values())
    engine.Bundle.load(folder)
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert "tuned:" in shown.output


def test_a_run_takes_them(folder: Path, corpus: Path, tmp_path: Path) -> None:
    tuned.save(folder, found())
    engine.run(folder, corpus, tmp_path / "out")
    assert settings_of(tmp_path / "out")["batch_tokens"] == 512


def test_a_loaded_bundle_has_them(folder: Path, corpus: Path, tmp_path: Path) -> None:
    tuned.save(folder, found())
    bundle = engine.Bundle.load(folder)
    for loaded in (bundle, pickle.loads(pickle.dumps(bundle))):
        assert (loaded.batch_tokens, loaded.workers) == (512, 1)
    engine.run(bundle, corpus, tmp_path / "loaded")
    engine.run(folder, corpus, tmp_path / "out")
    assert settings_of(tmp_path / "loaded") == settings_of(tmp_path / "out")
    engine.run(bundle, corpus, tmp_path / "other", workers=2)
    assert settings_of(tmp_path / "other")["batch_tokens"] == 0
    for given in ({"threads": 1}, {"workers": 2}):
        assert engine.Bundle.load(folder, **given).batch_tokens == 0


def test_in_memory_batches_are_cut_as_in_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[int] = []
    stages = engine.Bundle.stages

    def watched(self: engine.Bundle, *given: Any, **more: Any) -> Any:
        bound = stages(self, *given, **more)
        budgets.append(bound.budget)
        return bound

    monkeypatch.setattr(engine.Bundle, "stages", watched)
    tuned.save(folder, found())
    bundle, table = engine.Bundle.load(folder), pa.table({"text": ["dos", "tres"]})
    bundle(["dos"])
    bundle.answer(table)
    list(bundle.stream([table]))
    bundle.answer(table, batch_tokens=300)
    assert budgets == [512, 512, 512, 300]


@pytest.mark.parametrize("settings", [{"batch_tokens": 300}, {"workers": 2}, {"threads": 1}])
def test_what_a_person_gives_goes_before_them(
    folder: Path, corpus: Path, tmp_path: Path, settings: dict[str, int]
) -> None:
    tuned.save(folder, found())
    engine.run(folder, corpus, tmp_path / "out", **settings)
    expected = settings.get("batch_tokens", 0)
    assert settings_of(tmp_path / "out")["batch_tokens"] == expected


def test_of_another_machine_or_device_they_are_not_taken(folder: Path) -> None:
    config = RunConfig()
    for other in (found(cpu="another"), found(cores=cores() + 1)):
        tuned.save(folder, other)
        assert tuned.applied(folder, config, "") == config
    tuned.save(folder, found())
    tuned.save(folder, found(gpu="H100", batch_tokens=32768))
    assert tuned.applied(folder, config, "").batch_tokens == 512
    assert tuned.applied(folder, config, "H100").batch_tokens == 32768
    assert tuned.applied(folder, config, "another").batch_tokens == 0
    shown = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).output)
    gpus = {kind: one.get("gpu") for kind, one in shown["tuned"].items()}
    assert gpus == {"cpu": None, "cuda": "H100"}


def test_on_a_gpu_larger_batches_are_tried_and_kept_apart(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU in its place, which answers under another name."""
    tried: list[dict[str, object]] = []
    sweep = room.sweep

    def watched(*given: object, **more: object) -> object:
        tried.append(more)
        return sweep(*given, **{**more, "device": "cpu"})  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(room, "gpu_name", lambda device: "H100")
    monkeypatch.setattr(room, "devices", lambda device: (CPU,))
    monkeypatch.setattr(room, "sweep", watched)
    monkeypatch.setattr(room, "GPU_BUDGETS", (4096, 16384))
    kept, _ = tune(folder, [corpus], seconds=1, device="cuda")
    assert tried[0]["budgets"] == (4096, 16384)
    # A decoder's rows come and go on one thread.
    assert tried[0]["workers"] == [1]
    assert kept.gpu == "H100"
    assert kept == tuned.load(folder, "cuda")
    assert tuned.load(folder) is None


def test_a_gpu_that_is_not_there_is_refused(folder: Path, corpus: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:77 was asked for"):
        tune(folder, [corpus], device="cuda:77")


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / tuned.FILES["cpu"]).write_text("{")
    with pytest.raises(BundleError, match=r"tuned\.json") as caught:
        tuned.load(folder)
    assert "engine tune" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        tuned.save(folder, found())


def test_what_cannot_be_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(SettingsError, match="no input"):
        tune(folder, text=("body",))
    with pytest.raises(SettingsError, match="seconds"):
        tune(folder, seconds=0)
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        tune(folder, ["nowhere.jsonl"], seconds=1)


def test_a_column_that_is_not_there_is_refused_before_anything_is_loaded(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_rows_per_second", lambda *given: pytest.fail("it was loaded"))
    with pytest.raises(ColumnError, match="body"):
        tune(folder, [corpus], text=("body",), seconds=1)
