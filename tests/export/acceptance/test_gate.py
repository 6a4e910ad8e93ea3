"""What a recipe costs is measured, reported and, beyond its limits, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of, export_once
from typer.testing import CliRunner

pytest.importorskip("optimum.exporters.onnx")

import engine
from engine.bundle import format as bundle_format
from engine.cli import app
from engine.errors import ColumnError, ExportError, InputError, SettingsError
from engine.export import export, quantize
from engine.export.acceptance import limits
from engine.export.acceptance.gate import compare_bundles
from engine.export.acceptance.limits import BATCH_EFFECT, LIMITS, Limit
from engine.export.acceptance.sample import BUNDLED, Sample, bundled, read
from engine.export.recipes.table import RECIPES
from engine.export.sentences import SENTENCES

OTHERS = [name for name in RECIPES if name != "fp32"]
GENERATING = [name for name in OTHERS if not RECIPES[name].encoders_only]
TASKS = ("text-classification", "token-classification", "question-answering", "fill-mask")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp32 bundle for each task of `TASKS`."""
    folder = tmp_path_factory.mktemp("plain")
    for task in TASKS:
        export_once(checkpoint_of(checkpoints.encoder, "bert", task), folder / task, task=task)
    return folder


# --- bundles


@pytest.mark.parametrize("recipe", OTHERS)
def test_a_bundle_says_what_its_recipe_costs(
    tiny_bundles: Path, tmp_path: Path, recipe: str
) -> None:
    report = quantize(tiny_bundles / "embedder", tmp_path / "out", recipe=recipe, force=True)
    made = bundle_format.load(tmp_path / "out")
    made.check()
    gate = made.description.gate
    assert (made.description.recipe, report.recipe) == (recipe, recipe)
    assert (gate["sample"], gate["rows"]) == (BUNDLED, 144)
    figures = {name: figure["value"] for name, figure in gate["figures"].items()}
    assert figures["worst cosine"] <= figures["mean cosine"] <= 1.000001
    assert figures["mean cosine"] > (0.9 if recipe == "int4-weight" else 0.99)
    assert 0 < gate["size"] < 1.2
    assert gate["speed"] > 0
    assert gate["cpu"]
    slow = [note for note in made.description.notes if "slower than fp32" in note]
    # A recipe for a GPU is for that.
    assert bool(slow) == (gate["speed"] < 1 and recipe != "fp16")
    assert gate == json.loads(json.dumps(report.gate))


def test_int8_of_a_bundle_is_int8_of_its_checkpoint(
    tiny: Path, tiny_bundles: Path, tmp_path: Path
) -> None:
    quantize(tiny_bundles / "t5", tmp_path / "out", recipe="int8", force=True)
    export(str(tiny / "t5"), tmp_path / "direct", task="translation_en_to_de", recipe="int8",
           force=True)  # fmt: skip
    files = [bundle_format.load(tmp_path / name).description.files for name in ("out", "direct")]
    assert files[0] == files[1]


def test_only_scales_of_no_batch_make_a_row_independent_of_its_batch(
    tiny_bundles: Path, tmp_path: Path
) -> None:
    apart = {}
    for recipe in OTHERS:
        quantize(tiny_bundles / "embedder", tmp_path / recipe, recipe=recipe, force=True)
        gate = bundle_format.load(tmp_path / recipe).description.gate
        apart[recipe] = gate["figures"][BATCH_EFFECT]["value"]
    assert apart["int8"] == 0
    assert apart["int8-static"] == 0
    assert apart["int8-tensor"] > 1e-6


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_figures(plain: Path, tmp_path: Path, task: str) -> None:
    quantize(plain / task, tmp_path / "out", recipe="int8", force=True)
    figures = bundle_format.load(tmp_path / "out").description.gate["figures"]
    kind = {"fill-mask": "token", "text-classification": "label"}.get(task, "span")
    assert {f"same {kind}", "mean score shift", BATCH_EFFECT} <= set(figures)
    assert figures[f"same {kind}"]["value"] > 0.5


def test_a_bundle_that_is_compared_with_itself_is_the_same(plain: Path, tiny_bundles: Path) -> None:
    for folder in (*(plain / task for task in TASKS), tiny_bundles / "t5"):
        rows = bundled(bundle_format.load(folder).description)
        verdict = compare_bundles(
            folder, folder, LIMITS["int8"], replace(rows, items=rows.items[:9])
        )
        assert verdict.passed
        figures = {name: figure.value for name, figure in verdict.figures.items()}
        same = [value for name, value in figures.items() if name.startswith("same")]
        assert same
        assert set(same) == {1.0}
        assert figures.get("chrF", 100.0) == pytest.approx(100)
        assert figures.get("mean score shift", 0.0) == 0


# --- what is refused


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose first layer's intermediate states have three channels a thousand times the
    others, which the next product takes back: fp32 answers as before, int8 has no levels left."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("ruined")
    name = checkpoints.encoder(folder / "model", "bert", "text-classification", hidden_act="relu")
    model = AutoModelForSequenceClassification.from_pretrained(name)
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.intermediate.dense.weight[:3] *= 1000
        layer.intermediate.dense.bias[:3] = 1000
        layer.output.dense.weight[:, :3] /= 1000
    model.save_pretrained(folder / "ruined")
    AutoTokenizer.from_pretrained(name).save_pretrained(folder / "ruined")
    export(str(folder / "ruined"), folder / "fp32", task="text-classification")
    return folder


def test_a_model_that_int8_ruins_is_refused_with_its_layers_named(
    ruined: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="exceeds its accuracy limits") as caught:
        quantize(ruined / "fp32", tmp_path / "out", recipe="int8")
    first = str(caught.value).partition("worst layers: ")[2].split(" ")[0]
    assert first == "/bert/encoder/layer.0/output/dense/MatMul"
    assert "--force" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match=r"layer\.0/output/dense"):
        export(str(ruined / "ruined"), tmp_path / "out", task="text-classification", recipe="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["fp16", "int8-static"])
def test_graphs_without_padding_are_refused_with_their_layers_named(
    ruined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr(limits, "LIMITS", {recipe: (Limit("same label", 2.0),)})
    with pytest.raises(ExportError, match=r"worst layers: .*/bert/encoder/layer") as caught:
        quantize(ruined / "fp32", tmp_path / "out", recipe=recipe)
    # Those whose bias is added inside of the product, too.
    assert str(caught.value).count("/bert/encoder/layer") >= 4
    assert list(tmp_path.iterdir()) == []


def test_by_force_it_is_written_and_marked(ruined: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = CliRunner().invoke(
        app, ["quantize", str(ruined / "fp32"), "-o", str(out), "--recipe", "int8", "--force"]
    )
    assert said.exit_code == 0, said.output
    assert "does not hold" in said.output
    assert "layer.0/output/dense" in said.output
    description = bundle_format.load(out).description
    assert description.gate["forced"]
    assert not description.gate["passed"]
    assert any("--force" in note for note in description.notes)
    shown = CliRunner().invoke(app, ["inspect", str(out)])
    assert "forced: True" in shown.output
    assert "same label" in shown.output
    assert len(engine.Bundle.load(out)(["a text"])) == 1


def test_a_slower_recipe_has_a_note(
    tiny_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.export.acceptance import gate

    seconds = iter([1.0, 2.0] * 3)
    monkeypatch.setattr(gate, "_seconds", lambda *given: next(seconds))
    report = quantize(tiny_bundles / "embedder", tmp_path / "out", recipe="int8")
    assert report.gate["speed"] == 0.5
    assert "int8 is slower than fp32 on this machine: 0.50 times" in report.notes


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"recipe": "int3"}, SettingsError, "not a recipe"),
        ({"recipe": "bf16"}, SettingsError, "bf16 is not supported"),
        ({"recipe": "fp32"}, SettingsError, "cannot be made from that"),
        ({"text": ("words",)}, SettingsError, "no sample"),
        ({"sample": Path("nowhere.jsonl")}, InputError, "nowhere.jsonl"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    tiny_bundles: Path, tmp_path: Path, given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        quantize(tiny_bundles / "embedder", tmp_path / "out", **{"recipe": "int8", **given})
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:  # as bundles were before there were graphs for it
        patch.setattr("engine.export.graphs.step_cuda.graphs", lambda plan: {})
        export(str(checkpoints.gpt2(tmp_path / "gpt2")), tmp_path / "plain", task="text-generation")
    with pytest.raises(SettingsError, match="changes nothing"):
        quantize(tmp_path / "plain", tmp_path / "out", recipe="fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", GENERATING)
@pytest.mark.parametrize("family", ["mt5", "bart"])
def test_every_recipe_of_an_encoder_decoder_answers(
    tmp_path_factory: pytest.TempPathFactory, family: str, recipe: str
) -> None:
    folder = tmp_path_factory.mktemp("made")
    model = getattr(checkpoints, family)(folder / family)
    export(str(model), folder / "out", task="text2text-generation", recipe=recipe, force=True)
    figures = bundle_format.load(folder / "out").description.gate["figures"]
    assert figures["same top token"]["value"] > (0.3 if recipe == "int4-weight" else 0.5)


def test_a_quantized_bundle_is_not_quantized_again(tiny_bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="its recipe is int8"):
        quantize(tiny_bundles / "t5-int8", tmp_path / "out", recipe="int8")


def test_a_sample_for_fp32_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="compared with the checkpoint only"):
        export(str(tiny / "embedder"), tmp_path / "out", task=None, sample=tmp_path / "rows.jsonl")


# --- samples


def test_the_user_s_own_rows(tiny_bundles: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"body": f"text number {n}"}) for n in range(300)]
    file.write_text("\n".join([*lines[:7], "no json", *lines[7:]]))
    description = bundle_format.load(tiny_bundles / "embedder").description
    found = read(file, ("body",), description)
    assert (len(found.items), found.rejected, found.name) == (255, 1, "rows.jsonl")
    report = quantize(
        tiny_bundles / "embedder", tmp_path / "out", recipe="int8", sample=file, text=("body",)
    )
    gate = report.gate
    assert (gate["sample"], gate["rows"], gate["rejected"]) == ("rows.jsonl", 255, 1)
    with pytest.raises(ColumnError, match="text"):
        read(file, (), description)


def test_prompts_as_long_as_the_model_leave_room_for_an_answer(tmp_path: Path) -> None:
    export(str(checkpoints.gpt2(tmp_path / "gpt2")), tmp_path / "plain", task="text-generation")
    limit = bundle_format.load(tmp_path / "plain").description.model_config.position_limit
    file = tmp_path / "rows.jsonl"
    rows = [{"text": "A dog runs over the green meadow. " * n} for n in (1, limit)]
    file.write_text("\n".join(map(json.dumps, rows)))
    report = quantize(tmp_path / "plain", tmp_path / "out", recipe="int8", sample=file, force=True)
    assert report.gate["rows"] == 2


def test_a_sample_without_a_good_row_is_refused(tiny_bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("no json\n")
    with pytest.raises(InputError, match="none of its rows can be used"):
        read(tmp_path / "rows.jsonl", (), bundle_format.load(tiny_bundles / "embedder").description)


@pytest.mark.parametrize("task", TASKS)
def test_bundled_sentences_are_in_every_sample(plain: Path, task: str) -> None:
    found = bundled(bundle_format.load(plain / task).description)
    assert len(found.items) > 100
    together = " ".join(" ".join(item) if isinstance(item, tuple) else item for item in found.items)
    assert all(sentence.split()[0] in together for sentence in SENTENCES)
    if task == "fill-mask":
        assert all(item.count("[MASK]") == 1 for item in found.items)


def test_a_translator_into_many_languages_is_asked_for_one(tmp_path: Path) -> None:
    model = checkpoints.mbart(tmp_path / "mbart", fifty=True)
    export(str(model), tmp_path / "out", task="translation", recipe="int8", force=True)
    description = bundle_format.load(tmp_path / "out").description
    assert description.model_config.languages is not None
    assert description.model_config.languages.target == ""
    assert description.gate["figures"]["same top token"]["value"] > 0.5


def test_zero_shot_rows_may_bring_their_labels(tmp_path: Path) -> None:
    model = checkpoints.encoder(tmp_path / "nli", "bert", "zero-shot-classification")
    file = tmp_path / "rows.jsonl"
    rows = [{"body": f"text {n}", "names": ["sport", "weather"]} for n in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    for text in (("body",), ("body", "names")):
        report = export(
            str(model), tmp_path / str(len(text)), task="zero-shot-classification", recipe="int8",
            sample=file, text=text, force=True,
        )  # fmt: skip
        assert report.gate["rows"] == 20


def test_items_are_checked(tiny_bundles: Path) -> None:
    folder = tiny_bundles / "embedder"
    with pytest.raises(InputError, match="item 1"):
        compare_bundles(folder, folder, (), Sample(["a text", 7], "mine"))
