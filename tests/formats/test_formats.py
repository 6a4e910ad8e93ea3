"""Checkpoints as other versions of the libraries save them give the bundles of 4.57.

The fixtures are the metadata files that those versions wrote (`make.py`). Weights, vocabulary and
tokenizer.json are the builders'. What a bundle is made from is compared exactly: the settings in
bundle.json, the weights, the token ids; and for some families the bundle's bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from formats.families import BUILDERS, EMBEDDERS, TASKS
from formats.make import ENVIRONMENTS, FIXTURES, build, save
from support import bundles, checkpoints

torch = pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

from engine.export import export  # noqa: E402
from engine.export.checkpoint import (  # noqa: E402
    conversion,
    hub,
    model_config,
    normalization,
    task_inference,
    tokenizers,
)

TEXTS = [
    *checkpoints.SENTENCES,
    "  Outer  whitespace\t\n",
    "<s> Special </s> <mask> [MASK] <pad> tokens",
    "日本語 ﬁ ½ é e\u0301 👍🏽",
    "",
]
# Files that both checkpoints share, beside the weights.
KEPT = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
FAMILIES = [
    (folder.name, file.stem)
    for folder in sorted(FIXTURES.iterdir())
    for file in sorted(folder.glob("*.json"))
    if file.stem in BUILDERS
]
EXPORTED = ("flan", "nllb", "roberta", "gpt2")


def with_metadata(fixture: Path, source: Path, folder: Path) -> Path:
    """A checkpoint's weights and tokenizer with the metadata of a fixture."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix == ".safetensors" or file.name in KEPT:
            shutil.copy(file, folder)
    for name, content in json.loads(fixture.read_text(encoding="utf-8")).items():
        checkpoints.write_json(folder / name, content)
    return folder


def read(model: Path, name: str, folder: Path) -> dict[str, Any]:
    """All that a bundle's graphs, tokenizer and settings are made from."""
    task = task_inference.resolve_task(TASKS[name], json_of(model), name in EMBEDDERS)
    checkpoint = hub.with_weights(hub.resolve(str(model), None, silent), False, silent)
    checkpoint = normalization.normalize(checkpoint, folder)
    tokenizer = tokenizers.load(checkpoint)
    loaded = conversion.load(checkpoint, task)
    config, notes = model_config.read(checkpoint, loaded, tokenizer, task, TASKS[name])
    return {
        "config": config,
        "notes": notes,
        "ids": [tokenizer(text).input_ids for text in TEXTS],
        "pairs": tokenizer(TEXTS, TEXTS[::-1]).input_ids,
        "tokens": tokenizer.special_tokens_map,
        "weights": loaded.state_dict(),
        "ties": loaded.config.tie_word_embeddings,
    }


def json_of(model: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return content


def silent(_: str) -> None:
    """No progress."""


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    weights, others = one.pop("weights"), other.pop("weights")
    assert one == other
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)


@pytest.mark.parametrize(("environment", "family"), FAMILIES)
def test_a_family_is_read_as_4_57_saved_it(environment: str, family: str, tmp_path: Path) -> None:
    source = bundles.checkpoint_of(BUILDERS[family])
    fixture = FIXTURES / environment / f"{family}.json"
    model = with_metadata(fixture, source, tmp_path / family)
    one, other = (read(m, family, tmp_path / f"{n}") for n, m in enumerate((model, source)))
    assert_same(one, other)


@pytest.mark.parametrize("family", EXPORTED)
def test_a_bundle_is_that_of_4_57_byte_for_byte(family: str, tmp_path: Path) -> None:
    source = bundles.checkpoint_of(BUILDERS[family])
    model = with_metadata(FIXTURES / "t5st6" / f"{family}.json", source, tmp_path / family)
    out = tmp_path / "out"
    export(str(model), out, task=TASKS[family])
    expected = bundles.bundle_of(source, TASKS[family])
    assert_same_bundle(out, expected)


def assert_same_bundle(bundle: Path, expected: Path) -> None:
    """Equal settings and equal bytes of graphs, weights and tokenizer."""
    one, other = (json.loads((b / "bundle.json").read_text("utf-8")) for b in (bundle, expected))
    assert one["model_config"] == other["model_config"]
    files = sorted(file.name for file in expected.iterdir() if file.name != "bundle.json")
    assert files == sorted(file.name for file in bundle.iterdir() if file.name != "bundle.json")
    for name in files:
        assert (bundle / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_an_embedder_is_read_as_every_version_saves_it(kind: str, tmp_path: Path) -> None:
    source = bundles.checkpoint_of(checkpoints.bert)
    found = {}
    for folder in sorted(FIXTURES.iterdir()):
        model = with_metadata(folder / f"{kind}.json", source, tmp_path / folder.name)
        if kind == "embedder-dense":
            checkpoints.dense(model / "2_Dense", 32, 16, "torch.nn.modules.activation.Tanh")
            content = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
            checkpoints.write_json(model / "2_Dense/config.json", content["2_Dense/config.json"])
        found[folder.name] = read(model, kind, tmp_path / f"{folder.name}-copy")
    assert {name: one["config"].strip for name, one in found.items()} == {
        name: name.endswith("st2") for name in found
    }
    first, *others = found.values()
    config = first["config"]
    pooling = kind.removeprefix("embedder-")
    assert config.pooling == (pooling if pooling in ("cls", "max") else "mean")
    assert config.normalize is (kind in ("embedder-mean", "embedder-prompts"))
    assert config.dimensions == (16 if kind == "embedder-dense" else 32)
    assert config.prefix == ("search: " if kind == "embedder-prompts" else "")
    assert config.max_length == 48
    for other in others:
        # From version 5 on, prompts without text are written down; from 5.4 on no text is stripped.
        for one in (first, other):
            prompts = {name: text for name, text in one["config"].prompts.items() if text}
            one["config"] = dataclasses.replace(one["config"], prompts=prompts, strip=False)
        assert_same(dict(first), other)


# --- the real thing, where the environments are


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each environment saved, by its name; "built" is what they loaded."""
    if not (named := os.environ.get("ENGINE_TEST_FORMATS")):
        pytest.skip("ENGINE_TEST_FORMATS names no folder of environments (tests/formats/make.py)")
    folder = tmp_path_factory.mktemp("formats")
    build(folder / "built")
    saved = {"built": folder / "built"}
    for name in ENVIRONMENTS:
        python = Path(named) / name / "bin/python"
        if python.is_file():
            save(python, folder / "built", folder / name)
            saved[name] = folder / name
    return saved


@pytest.mark.parametrize("family", BUILDERS)
def test_what_each_environment_saves_is_exported_alike(
    environments: dict[str, Path], family: str, tmp_path: Path
) -> None:
    """transformers 5 rewrites some tokenizers; the expected bundle is of the one it wrote."""
    source = environments["built"] / family
    for name, saved in environments.items():
        expected = tmp_path / f"{name}-expected"
        shutil.copytree(source, expected)
        shutil.copy(saved / family / "tokenizer.json", expected)
        bundle, other = tmp_path / f"{name}-one", tmp_path / f"{name}-other"
        export(str(saved / family), bundle, task=TASKS[family])
        export(str(expected), other, task=TASKS[family])
        assert_same_bundle(bundle, other)


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_what_each_environment_saves_embeds_alike(
    environments: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """sentence-transformers' random Dense layers differ, so those are only exported."""
    written = {name: saved / kind for name, saved in environments.items() if name != "built"}
    for name, model in written.items():
        # Versions before 5 pickle the weights of a Dense layer.
        pickled = kind == "embedder-dense"
        export(str(model), tmp_path / name, task="feature-extraction", allow_pickle=pickled)
    bundle, *others = (tmp_path / name for name in written)
    for other in others if kind != "embedder-dense" else ():
        one, two = (json.loads((b / "bundle.json").read_text("utf-8")) for b in (bundle, other))
        for description in (one, two):
            del description["model_config"]["prompts"], description["model_config"]["strip"]
        assert one["model_config"] == two["model_config"]
        for file in ("model.onnx", "weights.bin", "tokenizer.json"):
            assert (bundle / file).read_bytes() == (other / file).read_bytes()
