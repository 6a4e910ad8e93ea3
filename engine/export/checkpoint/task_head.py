"""Whether a checkpoint's head, which config.json names in `architectures`, fits a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import labels
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.silenced import silenced
from engine.export.checkpoint.task_inference import (
    TASKS,
    ExportTask,
    architectures,
    fits_model_type,
)

# How the classes end whose weights an auto class of transformers loads, and its table of classes.
# A model that was pretrained with a second head beside the masked one has all weights of a
# ForMaskedLM. `AutoModel` is not here: it takes the body of any model.
_HEADS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "AutoModelForSequenceClassification": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        ("ForSequenceClassification",),
    ),
    "AutoModelForTokenClassification": (
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        ("ForTokenClassification",),
    ),
    "AutoModelForQuestionAnswering": (
        "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
        ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
    ),
    "AutoModelForMaskedLM": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", ("ForMaskedLM",)),
    "AutoModelForSeq2SeqLM": (
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        ("ForConditionalGeneration", "MTModel", "T5WithLMHeadModel"),
    ),
    "AutoModelForCausalLM": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", ("ForCausalLM", "LMHeadModel")),
}
_PRETRAINING = "ForPreTraining"
# Their pretrained heads tell replaced tokens from others, and predict none.
_DISCRIMINATORS = ("electra", "funnel")
_NAMED = 6


def loaded_class(task: ExportTask, model_type: str) -> str:
    """The class of transformers that loads a model type for a task; "" where there is none."""
    with silenced():
        from transformers.models.auto import modeling_auto

    table, _ = _HEADS.get(task.auto_class, ("MODEL_MAPPING_NAMES", ()))
    name = getattr(modeling_auto, table).get(model_type, "")
    return str(name if isinstance(name, str) else name[0])


def check(checkpoint: Checkpoint, task: ExportTask, force: bool) -> tuple[str, ...]:
    """Compare config.json's architectures with the task, before any weight is fetched or loaded.

    transformers would load a head with weights of the same names and shapes, whatever it was
    trained for: entities from a classifier of texts, say.

    Args:
        force: Accept a head that does not fit. Weights that are missing are still an error later.

    Returns:
        Notes for the user.

    Raises:
        ExportError: The head does not fit; the hint names the tasks that it does fit.
    """
    if task.auto_class not in _HEADS:
        return ()
    names, model_type = architectures(checkpoint.config), str(checkpoint.config["model_type"])
    if any(_fits(name, task, model_type) for name in names):
        others = [name for name in names if not _fits(name, task, model_type)]
        note = f"config.json names several architectures, {', '.join(names)}; taken for {task.name}"
        return (note,) if others else ()
    if _has_no_weights(checkpoint, task, names, model_type):
        return (
            f"config.json says {' and '.join(names) or 'no architecture'}; "
            f"the head for {task.name} is the model's own embeddings",
        )
    if not force:
        raise _does_not_fit(checkpoint, task, names, model_type)
    return (
        f"config.json says {' and '.join(names) or 'no architecture'}, which is not for "
        f"{task.name}; exported for it by --force",
    )


def _fits(name: str, task: ExportTask, model_type: str) -> bool:
    if task.auto_class not in _HEADS:
        return True
    if name == loaded_class(task, model_type):
        return True
    if task.auto_class == "AutoModelForMaskedLM" and name.endswith(_PRETRAINING):
        return model_type not in _DISCRIMINATORS
    return name.endswith(_HEADS[task.auto_class][1])


def _has_no_weights(
    checkpoint: Checkpoint, task: ExportTask, names: Sequence[str], model_type: str
) -> bool:
    """Whether the task's head is the embeddings, so that a model without a head has it, too."""
    tied = checkpoint.config.get("tie_word_embeddings", True)
    return task.decodes and bool(tied) and _is_body(names, model_type)


def _is_body(names: Sequence[str], model_type: str) -> bool:
    """Whether these are models without a head, all of them."""
    body = loaded_class(TASKS["feature-extraction"], model_type)
    return all(name == body for name in names)


def _does_not_fit(
    checkpoint: Checkpoint, task: ExportTask, names: Sequence[str], model_type: str
) -> ExportError:
    shown = " and ".join(names[:_NAMED])
    if not names:
        what = "names no architecture (architectures), so nobody can tell what its head is for"
    elif _is_body(names, model_type):
        what = f"says {shown} (architectures), a model without a head"
    else:
        what = f"says {shown} (architectures), {_purpose(names, checkpoint.config)}"
    wanted = loaded_class(task, model_type)
    needs = f"{task.name} needs {wanted or f'a head that {model_type!r} does not have'}"
    return ExportError(
        f"{checkpoint.name}: config.json {what}; {needs}",
        _what_to_do(checkpoint, task, names, model_type),
    )


def _purpose(names: Sequence[str], config: Mapping[str, Any]) -> str:
    able = [n for n in _able(names, config) if n != "feature-extraction"]
    return f"a head for {' and '.join(able)}" if able else "a head that no task of the engine has"


def _what_to_do(
    checkpoint: Checkpoint, task: ExportTask, names: Sequence[str], model_type: str
) -> str:
    able = _able(names, checkpoint.config)
    choices = []
    if names and able:
        choices.append(f"export it with --task {' or '.join(able)}")
    if not names and (wanted := loaded_class(task, model_type)):
        choices.append(f'if it is one, write "architectures": ["{wanted}"] into config.json')
    choices.append(f"take a checkpoint trained for {task.name}")
    force = (
        "if its weights have that head all the same, engine export --force writes the bundle and "
        "marks it"
    )
    return "; ".join([", or ".join(choices), force])


def _able(names: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """The tasks that these architectures fit, and the labels; those of the body alone last."""
    model_type = str(config["model_type"])
    return [
        other.name
        for other in sorted(TASKS.values(), key=lambda other: other.auto_class not in _HEADS)
        if fits_model_type(other, model_type)
        and any(_fits(name, other, model_type) for name in names)
        and (other.name != "zero-shot-classification" or labels.entails(config))
        and (other.name != "rerank" or len(config.get("id2label") or ()) == 1)
    ]
