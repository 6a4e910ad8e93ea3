"""Bundles from strangers are refused: the short form of `faults.hostile_bundles`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import hostile_bundles
from faults.hostile_cases import CASES, Case
from support import small_bundles as bundles

from engine.bundle import trial, tuned
from engine.core.confined_process import Step
from engine.errors import BundleError, EngineError
from engine.pipeline import Bundle

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def open_all(bundle: Path) -> None:
    Bundle.load(bundle, device="cpu").stages({})
    tuned.load(bundle)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_bundle_is_refused(case: Case, tmp_path: Path) -> None:
    outside, bundle = tmp_path / "outside", tmp_path / "bundle"
    outside.mkdir()
    (outside / "secret").write_text(hostile_bundles.SECRET)
    case.base(bundle)
    case.change(bundle)
    with pytest.raises(EngineError) as refused:
        open_all(bundle)
    assert case.said in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 1000
    assert refused.value.hint
    assert hostile_bundles.SECRET not in str(refused.value)


@pytest.mark.parametrize("base", [bundles.demo, bundles.embedder, bundles.classifier])
def test_a_good_bundle_is_opened(base: Callable[[Path], Path], tmp_path: Path) -> None:
    assert Bundle.load(base(tmp_path / "bundle"), device="cpu")(["uno", "dos"]).num_rows == 2


@pytest.mark.skipif(not hostile_bundles.can_trace(), reason="strace cannot trace here")
def test_a_command_opens_nothing_outside_of_a_bundle() -> None:
    points = hostile_bundles.run(["weights-above", "link-outside"])
    assert [point.name for point in points] == ["link-outside", "weights-above"]
    for point in points:
        assert point.refused, point
        assert point.opened == (), point


def test_a_file_outside_that_is_opened_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        f'1 openat(AT_FDCWD, "{tmp_path}/outside/secret", O_RDONLY) = 3\n'
        f'1 openat(AT_FDCWD, "{tmp_path}/outside/none", O_RDONLY) = -1 ENOENT (No such file)\n'
        f'1 openat(AT_FDCWD, "{tmp_path}/bundle/x", O_RDONLY) = 3\n'
        '1 open("/etc/hostname", O_RDONLY) = 4\n'
    )
    opened = hostile_bundles._outside(log, tmp_path, tmp_path / "bundle", tmp_path / "home")
    assert list(opened) == [f"{tmp_path}/outside/secret", "/etc/hostname"]


def test_a_bundle_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    tried: list[int] = []
    run = trial.run

    def counting(steps: list[Step]) -> None:
        tried.append(len(steps))
        run(steps)

    monkeypatch.setattr(trial, "run", counting)
    bundle = bundles.embedder(tmp_path / "bundle")
    Bundle.load(bundle, device="cpu")
    Bundle.load(bundle, device="cpu")
    Bundle.load(bundle, device="cpu", check=False)
    assert tried == [2]
    assert len(list((cache / "tried").iterdir())) == 1
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + bytes(2))
    bundles.rehash(bundle)
    with pytest.raises(BundleError):
        Bundle.load(bundle, device="cpu")
    with pytest.raises(BundleError):  # what was refused is tried again
        Bundle.load(bundle, device="cpu")
    assert tried == [2, 2, 2]


def test_what_was_exported_here_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles.embedder(tmp_path / "bundle")
    description = Bundle.load(bundle, device="cpu").folder.description
    monkeypatch.setattr(trial, "run", None)
    (bundle / "bundle.json").unlink()
    trial.save(bundle, description)
    Bundle.load(bundle, device="cpu")


def test_without_a_cache_a_bundle_is_tried_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "file/cache"))
    bundle = bundles.embedder(tmp_path / "bundle")
    for _ in range(2):
        Bundle.load(bundle, device="cpu")


def test_a_tokenizer_that_is_swapped_after_loading_is_noticed(tmp_path: Path) -> None:
    bundle = bundles.embedder(tmp_path / "bundle")
    model = Bundle.load(bundle, device="cpu")
    file = bundle / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3))
    with pytest.raises(BundleError, match="has been changed since the bundle was loaded"):
        model(["uno"])


VALUES: tuple[Any, ...] = (-1, 0, 1, 255, 300, 2**20, True, 0.5, "", "x", [], [300], None)


def test_a_changed_setting_is_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever the description's decoder settings are, nothing but the engine's errors is raised
    by a load and an answer."""
    bundle = bundles.demo(tmp_path / "bundle")
    file = bundle / "bundle.json"
    text = file.read_text()
    decoder = json.loads(text)["model_config"]["decoder"]
    places = [("decoder", name) for name in decoder if name != "search"]
    places += [("search", name) for name in decoder["search"]]
    answered = 0
    for number, (part, name) in enumerate(places):
        for value in VALUES[number % 3 :: 3]:
            content = json.loads(text)
            settings = content["model_config"]["decoder"]
            (settings if part == "decoder" else settings["search"])[name] = value
            file.write_text(json.dumps(content))
            with suppress(EngineError):
                Bundle.load(bundle, device="cpu", check=False)(["uno"])
                answered += 1
    assert 0 < answered < len(places) * len(VALUES) / 3
