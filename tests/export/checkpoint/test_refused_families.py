"""Every model type of transformers' mappings is exported, or refused by name before its weights
are looked for, with a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of

from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from engine.export import export
from engine.export.checkpoint import conversion, hub, task_inference
from engine.export.checkpoint.family_reasons import REASONS

MAPPINGS = {
    "text2text-generation": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "summarization": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "text-generation": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "feature-extraction": "MODEL_MAPPING_NAMES",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "question-answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "fill-mask": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
}


@pytest.mark.parametrize("task", MAPPINGS)
def test_a_model_type_is_exported_or_refused_by_name(task: str, tmp_path: Path) -> None:
    from transformers.models.auto import modeling_auto

    can, refusals = 0, {}
    for model_type, classes in getattr(modeling_auto, MAPPINGS[task]).items():
        named = classes if isinstance(classes, str) else classes[0]
        config = {"model_type": model_type, "architectures": [named]}
        checkpoint = hub.Checkpoint(tmp_path, "model", "", "", config, False)
        try:
            resolved = task_inference.resolve_task(task, config, False)
            conversion.check_supported(checkpoint, resolved)
        except ExportError as error:
            refusals[model_type] = error
        else:
            can += 1
    assert can >= 9
    for model_type, refusal in refusals.items():
        assert repr(model_type) in str(refusal)
        assert refusal.hint
        assert "another task" not in refusal.hint


@pytest.mark.parametrize("task", [None, "summarization"])
def test_every_encoder_decoder_without_an_export_says_why(task: str | None) -> None:
    from transformers.models.auto import modeling_auto

    for model_type, named in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items():
        config = {"model_type": model_type, "architectures": [named]}
        if model_type in task_inference.ENCODER_DECODERS:
            task_inference.resolve_task(task, config, False)
            continue
        with pytest.raises(ExportError, match=f"of type {model_type!r}: ") as caught:
            task_inference.resolve_task(task, config, False)
        why, hint = REASONS[model_type]
        assert why in str(caught.value)
        assert caught.value.hint == hint


def test_hints_name_families_that_are_exported() -> None:
    """What a hint says to take is a family that has an export."""
    families = {
        "LongT5": "longt5", "T5": "t5", "FLAN-T5": "t5", "UMT5": "umt5", "mT5": "mt5",
        "BART": "bart", "Pegasus": "pegasus", "Marian": "marian", "NLLB": "m2m_100",
        "M2M100": "m2m_100", "Blenderbot": "blenderbot",
    }  # fmt: skip
    for _, hint in REASONS.values():
        named = [word.strip(",") for word in hint.split()]
        taken = [families[word] for word in named if word in families]
        assert all(one in task_inference.ENCODER_DECODERS for one in taken)
        assert taken or "reads text alone" in hint


@pytest.mark.parametrize(
    ("model_type", "named", "task", "inputs"),
    [
        ("layoutlm", "LayoutLMForTokenClassification", "token-classification", "bbox"),
        ("clip", "CLIPModel", "feature-extraction", "pixel_values"),
        (
            "markuplm",
            "MarkupLMForQuestionAnswering",
            "question-answering",
            "xpath_subs_seq, xpath_tags_seq",
        ),
    ],
)
def test_a_model_that_reads_more_than_text_is_refused(
    model_type: str, named: str, task: str, inputs: str, tmp_path: Path
) -> None:
    model: Any = checkpoint_of(checkpoints.bert)
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = {"model_type": model_type, "architectures": [named]}
    checkpoints.write_json(folder / "config.json", config)
    with pytest.raises(ExportError, match=f"reads more than text: {inputs}") as found:
        export(str(folder), tmp_path / "out", task=task)
    assert "take a checkpoint of one of the types bert" in found.value.hint
