"""Names of logits: refused where config.json does not name each once, else as the pipeline has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checkpoints
from support.bundles import checkpoint_of

import engine
from engine.bundle import format as bundle_format
from engine.errors import ExportError
from engine.export import export
from engine.export.checkpoint import labels
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.task_inference import TASKS

pytest.importorskip("optimum.exporters.onnx")

WRONG: list[tuple[Any, str]] = [
    ({"id2label": {"0": "a", "2": "c", "3": "d"}}, "keys 0, 2, 3"),
    ({"id2label": {"1": "neg", "2": "pos"}}, "keys 1, 2; logits are counted 0 to 1"),
    ({"id2label": {"-1": "a", "0": "b", "1": "c"}}, "keys -1, 0, 1"),
    ({"id2label": {"0": "a", "00": "b"}}, "the keys 0 more than once"),
    ({"id2label": {"0": "a", "one": "b"}}, "not integers: one"),
    ({"id2label": {"0.0": "a", "1.0": "b"}}, "not integers: 0.0, 1.0"),
    ({"id2label": {"": "a"}}, "not integers"),
    ({"id2label": {"0": "a", "1": None}}, "not texts, at the keys 1"),
    ({"id2label": {"0": ["a"], "1": {}}}, "not texts, at the keys 0, 1"),
    ({"id2label": ["a", "b"]}, "id2label is a list"),
    ({"id2label": "a"}, "id2label is a str"),
    ({"id2label": {}}, "id2label is empty"),
    ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels is 3, but id2label has 2"),
    ({"id2label": {"0": "a", "1": "b"}, "num_labels": 1}, "num_labels is 1, but id2label has 2"),
    ({"num_labels": 0}, "num_labels is 0"),
    ({"num_labels": "2"}, "num_labels is '2'"),
    ({"id2label": {"0": "a", "2": "b"}, "num_labels": 2}, "keys 0, 2"),
]


def _read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    return Checkpoint(folder, "some/model", "", "", config, False)


@pytest.mark.parametrize(("config", "said"), WRONG)
def test_labels_that_are_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match="some/model: ") as caught:
        labels.check(_read(tmp_path, config))
    assert caught.value.message.startswith("some/model: config.json: ")
    assert said in caught.value.message
    assert "id2label" in caught.value.hint


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=5, unique=True))
def test_only_keys_from_0_on_are_accepted(numbers: list[int]) -> None:
    checkpoint = _read(Path("nowhere"), {"id2label": {str(n): f"name {n}" for n in numbers}})
    if sorted(numbers) == list(range(len(numbers))):
        labels.check(checkpoint)
    else:
        with pytest.raises(ExportError, match="logits are counted 0 to"):
            labels.check(checkpoint)


def test_a_key_written_twice_is_seen_in_the_file(tmp_path: Path) -> None:
    """JSON readers keep the last one and say nothing."""
    text = '{"id2label": {"0": "a", "1": "b", "1": "c"}, "label2id": {"a": 0}}'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ExportError, match="the keys 1 more than once"):
        labels.check(_read(tmp_path, json.loads(text)))


def _copy(task: str, folder: Path, **config: Any) -> Path:
    shutil.copytree(checkpoint_of(checkpoints.encoder, "bert", task), folder)
    checkpoints.edit_json(folder / "config.json", **config)
    return folder


def test_a_refusal_comes_before_the_weights_and_its_hint_helps(tmp_path: Path) -> None:
    model = _copy("text-classification", tmp_path / "model", id2label={"1": "neg", "2": "pos"})
    lines: list[str] = []
    with pytest.raises(ExportError, match="keys 1, 2") as caught:
        export(str(model), tmp_path / "out", task=None, progress=lines.append)
    assert not any(line.startswith("loading") for line in lines)
    assert 'the keys "0" to "1"' in caught.value.hint
    checkpoints.edit_json(model / "config.json", id2label={"0": "neg", "1": "pos"})
    export(str(model), tmp_path / "out", task=None)
    assert engine.Bundle.load(tmp_path / "out").model_config.labels == ("neg", "pos")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_more_or_fewer_labels_than_the_head_has(tmp_path: Path, count: int) -> None:
    id2label = {str(n): f"name {n}" for n in range(count)}
    model = _copy("text-classification", tmp_path / "model", id2label=id2label)
    with pytest.raises(ExportError, match="id2label or num_labels names more or fewer") as caught:
        export(str(model), tmp_path / "out", task=None)
    assert f"(classifier.bias has 2, not {count})" in caught.value.message


def _fields(task: str, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What is read of a config.json with three logits unless it says otherwise, and the notes."""
    notes: list[str] = []
    from transformers import BertConfig

    settings = BertConfig.from_dict(dict(config))
    return labels.read(_read(Path("nowhere"), config), settings, TASKS[task], notes.append), notes


NLI = {"0": "contradiction", "1": "neutral", "2": "entailment"}
TURNED = {"entailment": 0, "neutral": 1, "contradiction": 2}


def test_contradicting_maps_are_read_as_each_pipeline_reads_them() -> None:
    both = {"id2label": NLI, "label2id": TURNED}
    fields, (note,) = _fields("text-classification", both)
    assert fields["labels"] == tuple(NLI.values())
    assert "id2label names the labels" in note
    fields, (note,) = _fields("zero-shot-classification", both)
    assert (fields["entailment"], fields["labels"]) == (0, tuple(NLI.values()))
    assert "label2id says which logit is entailment: 0" in note
    agreeing = {"id2label": NLI, "label2id": {name: int(n) for n, name in NLI.items()}}
    assert _fields("zero-shot-classification", agreeing) == (
        {"labels": tuple(NLI.values()), "problem_type": "", "entailment": 2},
        [],
    )


def test_entailment_is_the_first_such_label_of_label2id() -> None:
    two = {"0": "entail a", "1": "b", "2": "entail c"}
    config = {"id2label": two, "label2id": {"entail c": 2, "b": 1, "entail a": 0}}
    fields, notes = _fields("zero-shot-classification", config)
    assert (fields["entailment"], notes) == (2, [])


@pytest.mark.parametrize(
    ("label2id", "said"),
    [
        ({"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "the pipeline would take the last one"),
        ({"entailment": 3}, "label2id calls logit 3 entailment"),
        ({"entailment": -1}, "label2id calls logit -1 entailment"),
        ({"entailment": "0"}, "label2id calls logit '0' entailment"),
    ],
)
def test_a_label2id_that_nobody_can_follow(label2id: dict[str, Any], said: str) -> None:
    names = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    config = {"id2label": names, "label2id": label2id}
    with pytest.raises(ExportError, match=said) as caught:
        _fields("zero-shot-classification", config)
    assert "correct label2id" in caught.value.hint
    corrected = {**config, "label2id": {name: int(n) for n, name in names.items()}}
    assert _fields("zero-shot-classification", corrected)[0]["entailment"] == 0


def test_labels_that_config_json_does_not_name() -> None:
    fields, notes = _fields("text-classification", {"num_labels": 3, "label2id": {"x": 0}})
    assert fields["labels"] == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert "label2id without id2label" in notes[0]
    assert _fields("text-classification", {})[0]["labels"] == ("LABEL_0", "LABEL_1")


def test_odd_names_are_noted() -> None:
    fields, notes = _fields("text-classification", {"id2label": {"0": 1, "1": 2.5, "2": "1"}})
    assert fields["labels"] == ("1", "2.5", "1")
    assert any("numbers as names" in note for note in notes)
    assert any("one name: 1" in note for note in notes)
    assert labels.entails({"id2label": None, "label2id": {"Entails": 0}})
    assert not labels.entails({"id2label": ["entailment"]})


def test_a_zero_shot_classifier_with_contradicting_maps_answers_as_the_pipeline(
    tmp_path: Path,
) -> None:
    from transformers import pipeline

    model = _copy("zero-shot-classification", tmp_path / "model", id2label=NLI, label2id=TURNED)
    export(str(model), tmp_path / "out", task="zero-shot-classification")
    bundle = engine.Bundle.load(tmp_path / "out")
    assert bundle.model_config.entailment == 0
    assert any("contradict" in n for n in bundle_format.load(tmp_path / "out").description.notes)
    pipe = pipeline("zero-shot-classification", model=str(model), dtype="float32", device="cpu")
    texts, names = list(checkpoints.SENTENCES), ["house", "dog", "moon"]
    for multi_label in (False, True):
        rows = bundle(texts, candidate_labels=tuple(names), multi_label=multi_label).to_pylist()
        for row, text in zip(rows, texts, strict=True):
            expected = pipe(text, names, multi_label=multi_label)
            assert row["labels"] == expected["labels"]
            assert row["scores"] == pytest.approx(expected["scores"], abs=1e-5)


ODD = ("O", "B-", "I-", "-", "B_PER", "PER-B", "E-PER", "S-PER", "I-PER-x", "b-per", "", "I-B-O")


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_of_odd_labels_are_the_pipeline_s(strategy: str) -> None:
    from support.bundles import bundle_of
    from transformers import pipeline

    named = {"id2label": dict(enumerate(ODD)), "label2id": {n: i for i, n in enumerate(ODD)}}
    model = checkpoint_of(checkpoints.encoder, "bert", "token-classification", **named)
    bundle = engine.Bundle.load(bundle_of(model, "token-classification"))
    pipe = pipeline("ner", model=str(model), dtype="float32", device="cpu")
    rows = bundle(list(checkpoints.SENTENCES), aggregation_strategy=strategy)["entities"]
    names = ("word", "start", "end", "entity" if strategy == "none" else "entity_group")
    for row, text in zip(rows.to_pylist(), checkpoints.SENTENCES, strict=True):
        expected = pipe(text, aggregation_strategy=strategy)
        assert [[e[n] for n in names] for e in row] == [[e[n] for n in names] for e in expected]


def test_many_labels_are_cut_short_in_messages(tmp_path: Path) -> None:
    config = {"id2label": {str(n): "x" for n in range(1, 100)}}
    with pytest.raises(ExportError, match=r"1, 2, 3, 4, 5, 6, 7, 8 and 91 more"):
        labels.check(_read(tmp_path, config))
