"""A checkpoint's head must fit the task, and is looked at before its weights are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of

from engine.bundle import format as bundle_format
from engine.errors import ExportError
from engine.export import export
from engine.export.checkpoint import task_head
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.task_inference import TASKS, resolve_task

pytest.importorskip("optimum.exporters.onnx")

FITS = [
    ("BertForSequenceClassification", "bert", "text-classification"),
    ("BertForSequenceClassification", "bert", "feature-extraction"),
    ("MPNetForMaskedLM", "mpnet", "feature-extraction"),
    ("BertForTokenClassification", "bert", "token-classification"),
    ("BertForQuestionAnswering", "bert", "question-answering"),
    ("XLMForQuestionAnsweringSimple", "xlm", "question-answering"),
    ("XLMWithLMHeadModel", "xlm", "fill-mask"),
    ("BertForPreTraining", "bert", "fill-mask"),
    ("AlbertForPreTraining", "albert", "fill-mask"),
    ("RobertaForSequenceClassification", "xlm-roberta", "text-classification"),
    ("BartForSequenceClassification", "bart", "zero-shot-classification"),
    ("BartForConditionalGeneration", "bart", "summarization"),
    ("T5WithLMHeadModel", "t5", "translation"),
    ("MarianMTModel", "marian", "translation"),
    ("GPT2LMHeadModel", "gpt2", "text-generation"),
    ("OPTForCausalLM", "opt", "text-generation"),
]
# Its architectures, model type, the task, and what the refusal says.
DIFFERS: list[tuple[list[str], str, str, str]] = [
    (["BertForSequenceClassification"], "bert", "token-classification", "--task text-class"),
    (["BertForTokenClassification"], "bert", "text-classification", "--task token-class"),
    (["BertForQuestionAnswering"], "bert", "fill-mask", "--task question-answering"),
    (["BertForMaskedLM"], "bert", "question-answering", "--task fill-mask"),
    (["BertModel"], "bert", "text-classification", "without a head"),
    (["BertLMHeadModel"], "bert", "fill-mask", "no task of the engine"),
    (["ElectraForPreTraining"], "electra", "fill-mask", "no task of the engine"),
    (["BertForNextSentencePrediction"], "bert", "text-classification", "--task feature-ex"),
    (["BertForMultipleChoice"], "bert", "question-answering", "no task of the engine"),
    (["OurOwnHeads"], "roberta", "zero-shot-classification", "OurOwnHeads"),
    (["GPT2LMHeadModel"], "gpt2", "text-classification", "--task text-generation"),
    (["BartForSequenceClassification"], "bart", "summarization", "--task text-class"),
    (["BartForConditionalGeneration"], "bart", "text-classification", "--task translation"),
    (["T5EncoderModel"], "t5", "translation", "no task of the engine"),
    ([], "bert", "text-classification", "names no architecture"),
    (["BertModel", "BertForMaskedLM"], "bert", "token-classification", "BertModel and BertForM"),
]


def _read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    return Checkpoint(folder, "some/model", "", "", config, False)


@pytest.mark.parametrize(("name", "family", "task"), FITS)
def test_a_head_that_fits(tmp_path: Path, name: str, family: str, task: str) -> None:
    for names in (name, [name]):
        config = {"model_type": family, "architectures": names}
        assert task_head.check(_read(tmp_path, config), TASKS[task], force=False) == ()


@pytest.mark.parametrize(("names", "family", "task", "said"), DIFFERS)
def test_a_head_for_something_else(
    tmp_path: Path, names: list[str], family: str, task: str, said: str
) -> None:
    config: dict[str, Any] = {"model_type": family, "architectures": names}
    for content in [config] if names else [config, {"model_type": family}]:
        checkpoint = _read(tmp_path, content)
        with pytest.raises(ExportError, match="some/model: ") as caught:
            task_head.check(checkpoint, TASKS[task], force=False)
        assert said in str(caught.value)
        assert task_head.loaded_class(TASKS[task], family) in caught.value.message
        assert "--force" in caught.value.hint
        (note,) = task_head.check(checkpoint, TASKS[task], force=True)
        assert "--force" in note


def test_a_model_whose_head_is_its_embeddings_needs_none_in_its_name(tmp_path: Path) -> None:
    for family, names in (("bart", ["BartModel"]), ("gpt2", ["GPT2Model"]), ("t5", [])):
        config: dict[str, Any] = {"model_type": family, "architectures": names}
        task = resolve_task(None, config, False)
        (note,) = task_head.check(_read(tmp_path, config), task, force=False)
        assert "own embeddings" in note
        untied = _read(tmp_path, {**config, "tie_word_embeddings": False})
        with pytest.raises(ExportError, match="some/model"):
            task_head.check(untied, task, force=False)


def test_zero_shot_is_named_where_a_label_says_entailment(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    labels = {"id2label": {"0": "ENTAILMENT", "1": "other"}}
    for content, named in ((config, False), ({**config, **labels}, True)):
        with pytest.raises(ExportError) as caught:
            task_head.check(_read(tmp_path, content), TASKS["fill-mask"], force=False)
        assert ("zero-shot-classification" in str(caught.value)) == named


def test_several_heads_need_a_task() -> None:
    names = ["BertForSequenceClassification", "BertForTokenClassification"]
    config = {"model_type": "bert", "architectures": names}
    with pytest.raises(ExportError, match="several architectures, BertForSeq") as caught:
        resolve_task(None, config, False)
    assert "--task, one of: text-classification, token-classification" in caught.value.hint
    checkpoint = _read(Path(), config)
    for task in ("text-classification", "token-classification"):
        (note,) = task_head.check(checkpoint, resolve_task(task, config, False), force=False)
        assert f"taken for {task}" in note


def test_a_classifier_of_texts_calls_no_entities_unless_forced(tmp_path: Path) -> None:
    """The names and shapes of its weights are those of a token classifier."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(checkpoints.classifier), model)
    weights = (model / "model.safetensors").read_bytes()
    # Refused by config.json alone.
    (model / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="needs BertForTokenClassification") as caught:
        export(str(model), tmp_path / "out", task="ner")
    (task, other), hint = re.findall(r"--task (\S+) or ([\w-]+)", caught.value.hint)[0], None
    assert (task, other, hint) == ("text-classification", "feature-extraction", None)
    (model / "model.safetensors").write_bytes(weights)
    for name in (task, other):
        export(str(model), tmp_path / name, task=name)
    report = export(str(model), tmp_path / "forced", task="ner", force=True)
    marked = "config.json says BertForSequenceClassification, which is not for token-classification"
    assert report.notes == (f"{marked}; exported for it by --force",)
    assert bundle_format.load(tmp_path / "forced").description.notes == report.notes


def test_force_makes_up_no_weights(tmp_path: Path) -> None:
    model = checkpoint_of(checkpoints.bert)
    with pytest.raises(ExportError, match="a model without a head"):
        export(str(model), tmp_path / "out", task="text-classification")
    with pytest.raises(ExportError, match="lacks weights that text-classification needs"):
        export(str(model), tmp_path / "out", task="text-classification", force=True)
    assert not (tmp_path / "out").exists()


def test_a_missing_architecture_is_written_as_the_hint_says(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(checkpoints.classifier), model)
    config = json.loads((model / "config.json").read_text())
    checkpoints.write_json(
        model / "config.json", {n: v for n, v in config.items() if n != "architectures"}
    )
    with pytest.raises(ExportError, match="names no architecture") as caught:
        export(str(model), tmp_path / "out", task="text-classification")
    (names,) = re.findall(r'"architectures": (\[.*?\])', caught.value.hint)
    checkpoints.edit_json(model / "config.json", architectures=json.loads(names))
    assert not export(str(model), tmp_path / "out", task="text-classification").notes


def test_a_pretrained_model_with_both_heads_fills_masks(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, BertConfig, BertForPreTraining

    masked = checkpoint_of(checkpoints.encoder, "bert", "fill-mask")
    model = tmp_path / "model"
    shutil.copytree(masked, model)
    whole = BertForPreTraining(BertConfig.from_pretrained(masked))
    whole.load_state_dict(AutoModelForMaskedLM.from_pretrained(masked).state_dict(), strict=False)
    whole.save_pretrained(model)
    assert "BertForPreTraining" in (model / "config.json").read_text()
    assert export(str(model), tmp_path / "out", task="fill-mask").notes == ()
