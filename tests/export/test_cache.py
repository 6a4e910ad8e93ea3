"""Bundles by the name of a checkpoint: exported once, found again, and what is said if not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints, fake_hub

from engine.bundle import format as bundle_format
from engine.demo import BUNDLE
from engine.errors import BundleError, ExportError, MissingDependency, OutputError, SettingsError
from engine.export import cache

ROOT = Path(__file__).resolve().parents[2]
OTHER = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, tiny_bundles: Path) -> list[dict[str, Any]]:
    """Exports that were asked for; each copies a bundle in place of making one."""
    import engine.export as room

    asked: list[dict[str, Any]] = []

    def export(model: str, out: Path, **settings: Any) -> None:
        asked.append({"model": model, **settings})
        shutil.copytree(tiny_bundles / "embedder", out)

    monkeypatch.setattr(room, "export", export)
    return asked


def test_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.delenv("CORPUS_ENGINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "corpus-engine"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache/corpus-engine"


def test_a_bundle_is_itself(tiny_bundles: Path, own_cache: Path) -> None:
    assert cache.bundle_for(str(tiny_bundles / "t5")) == tiny_bundles / "t5"
    assert not own_cache.exists()
    with pytest.raises(SettingsError, match="no revisions"):
        cache.bundle_for(str(tiny_bundles / "t5"), revision="main")


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        ({"recipe": "int8"}, "is a bundle of recipe fp32, not int8", "engine quantize "),
        ({"recipe": "int9"}, "'int9' is not a recipe", "use one of: fp32"),
        ({"allow_pickle": True}, "only checkpoints have .bin weights", "leave it out"),
        ({"task": "ner"}, "is a bundle for translation, not for ner", "leave the task out"),
    ],
    ids=str,
)
def test_what_only_a_checkpoint_has_is_refused_on_a_bundle(
    given: dict[str, Any], said: str, hint: str
) -> None:
    for ask in (cache.bundle_for, cache.locate):
        with pytest.raises(SettingsError, match=said) as caught:
            ask(str(BUNDLE), **given)
        assert hint in caught.value.hint


def test_what_a_bundle_is_may_be_said(own_cache: Path) -> None:
    lines: list[str] = []
    for task in ("translation", "translation_es_to_pt"):
        assert (
            cache.bundle_for(str(BUNDLE), task=task, recipe="fp32", progress=lines.append) == BUNDLE
        )
    (line,) = lines
    assert line.startswith("note: translation_es_to_pt changes nothing: ")


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/bundle", "a/b/c", "../x"])
def test_a_path_that_does_not_exist(model: str) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        cache.bundle_for(model)


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "run/_manifest").mkdir(parents=True)
    with pytest.raises(BundleError, match="not a bundle") as caught:
        cache.bundle_for(str(tmp_path / "run"))
    assert "a run's output folder" in caught.value.hint
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="not a bundle"):
        cache.bundle_for(str(tmp_path / "file"))


def test_a_checkpoint_is_exported_once(tiny: Path, own_cache: Path) -> None:
    said: list[str] = []
    made = cache.bundle_for(str(tiny / "classifier"), progress=said.append)
    assert made.parent == own_cache / "bundles"
    assert made.name.startswith("classifier-fp32-")
    assert bundle_format.load(made).description.task == "text-classification"
    assert said[0] == f"exporting classifier into {made}, once"
    again: list[str] = []
    assert cache.bundle_for(str(tiny / "classifier"), progress=again.append) == made
    assert again == []
    assert list(made.parent.iterdir()) == [made]


def test_a_cached_folder_needs_no_extra(
    tiny: Path, exports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.export import requirements

    made = cache.bundle_for(str(tiny / "embedder"))
    monkeypatch.setattr(requirements, "_is_installed", lambda module: False)
    assert cache.bundle_for(str(tiny / "embedder")) == made
    assert len(exports) == 1


def test_what_a_missing_extra_says(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.export import requirements

    monkeypatch.setattr(requirements, "_is_installed", lambda module: False)
    for model in (str(tiny / "embedder"), "google-t5/t5-small"):
        with pytest.raises(MissingDependency) as caught:
            cache.bundle_for(model)
        assert caught.value.hint == 'pip install "corpus-engine[export]"'


def test_a_cached_folder_is_found_without_torch(tiny: Path, tmp_path: Path) -> None:
    """In a process of its own: finding it loads none of the extra's packages."""
    made = cache.bundle_for(str(tiny / "embedder"))
    code = (
        "import sys; from engine.export.cache import bundle_for; print(bundle_for(sys.argv[1])); "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny / "embedder")],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(made), "[]"]


def test_what_makes_another_bundle(
    tiny: Path, tmp_path: Path, exports: list[dict[str, Any]]
) -> None:
    model = tmp_path / "embedder"
    shutil.copytree(tiny / "embedder", model)
    made = cache.bundle_for(str(model))
    # Neither the folder's place nor what an export does not read.
    moved = tmp_path / "elsewhere/embedder"
    shutil.copytree(model, moved)
    (moved / "README.md").write_text("x")
    assert cache.bundle_for(str(moved)) == made
    others = {
        cache.bundle_for(str(model), recipe="int8"),
        cache.bundle_for(str(model), task="feature-extraction"),
        cache.bundle_for(str(model), task="embedding"),
    }
    assert made not in others
    assert len(others) == 2
    checkpoints.edit_json(model / "sentence_bert_config.json", max_seq_length=32)
    assert cache.bundle_for(str(model)) not in {made, *others}
    assert len(exports) == 4


def test_a_language_pair_has_a_bundle_of_its_own(tiny: Path, exports: list[dict[str, Any]]) -> None:
    pairs = ("translation_en_to_de", "translation_en_to_fr", "translation")
    made = {cache.bundle_for(str(tiny / "t5"), task=task) for task in pairs}
    assert len(made) == 3
    assert [asked["task"] for asked in exports] == list(pairs)


def test_a_pinned_hub_id_is_found_without_the_hub(exports: list[dict[str, Any]]) -> None:
    made = cache.bundle_for("some/model", revision=fake_hub.COMMIT)
    assert made.name.startswith("some-model-fp32-")
    assert cache.bundle_for("some/model", revision=fake_hub.COMMIT) == made
    (asked,) = exports
    assert (asked["model"], asked["task"], asked["revision"]) == (
        "some/model",
        None,
        fake_hub.COMMIT,
    )
    assert cache.bundle_for("some/model", revision=OTHER) != made


def test_an_unknown_task_is_refused_first(tiny: Path) -> None:
    with pytest.raises(SettingsError, match="not a task"):
        cache.bundle_for("some/model", task="juggling")


def test_losing_a_race_takes_the_winner_s(
    tiny: Path, tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine.export as room

    def beaten(model: str, out: Path, **_: Any) -> None:
        shutil.copytree(tiny_bundles / "embedder", out)
        raise OutputError(f"{out}: is there already", "give a new folder")

    monkeypatch.setattr(room, "export", beaten)
    made = cache.bundle_for(str(tiny / "embedder"))
    assert bundle_format.load(made).description.task == "feature-extraction"


def test_two_processes_at_once(tiny: Path) -> None:
    code = "import sys; from engine.export.cache import bundle_for; print(bundle_for(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tiny / "embedder")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    one, two = (process.communicate()[0].strip() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert one == two
    bundle_format.load(one).check()
    assert list(Path(one).parent.iterdir()) == [Path(one)]


def test_an_error_of_the_export_leaves_nothing(tmp_path: Path, tiny: Path, own_cache: Path) -> None:
    model = tmp_path / "broken"
    shutil.copytree(tiny / "embedder", model)
    (model / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="is missing"):
        cache.bundle_for(str(model))
    assert list((own_cache / "bundles").iterdir()) == []


_CASES = """
import json, sys
from engine.export.cache import bundle_for
from engine.errors import EngineError

for case in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"made": str(bundle_for(case.pop("model"), **case))}))
    except EngineError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))
"""


def test_a_hub_id_online_then_offline(tiny: Path, tmp_path: Path) -> None:
    name = "google-t5/t5-small"

    def ask(cases: list[dict[str, Any]], endpoint: str, **more: str) -> list[dict[str, Any]]:
        ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", _CASES, json.dumps(cases)],
            capture_output=True, text=True, check=False, cwd=ROOT,
            env={**inherited, **ours, "NO_PROXY": "127.0.0.1", **more},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with fake_hub.serve(fake_hub.Hub(tiny / "classifier", repo=name)) as endpoint:
        named, pinned = ask(
            [{"model": name}, {"model": name, "revision": fake_hub.COMMIT}], endpoint
        )
    assert named == pinned
    source = bundle_format.load(named["made"]).description.source
    assert (source["model"], source["revision"]) == (name, fake_hub.COMMIT)
    away = "http://127.0.0.1:9"
    offline, unknown = ask([{"model": name}, {"model": "a/b"}], away, HF_HUB_OFFLINE="1")
    assert offline == named
    assert "HF_HUB_OFFLINE is set" in unknown["said"]
