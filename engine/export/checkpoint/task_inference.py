"""What a checkpoint can be exported for, and which task it is exported for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.core.suggestions import did_you_mean
from engine.errors import ExportError, SettingsError
from engine.export.checkpoint import decoder_limits
from engine.export.checkpoint.silenced import silenced


@dataclass(frozen=True)
class ExportTask:
    """One row of `TASKS`.

    Attributes:
        name: The bundle's task.
        optimum_task: Its name in `optimum.exporters`.
        auto_class: The class of transformers that loads a checkpoint with the right head.
        model_types: Of the decoders that are supported; empty for a task of encoders.
        also: Encoder-decoders that can do an encoder's task: their graph has the same inputs.
    """

    name: str
    optimum_task: str
    auto_class: str
    model_types: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def decodes(self) -> bool:
        """Whether the model generates: its decoder has a blueprint (`graphs.architectures`)."""
        return bool(self.model_types)


ENCODER_DECODERS = (
    "t5", "mt5", "umt5", "longt5", "bart", "mbart", "m2m_100", "marian", "pegasus", "blenderbot",
    "plbart", "mvp",
)  # fmt: skip
CAUSAL = (
    "gpt2", "opt", "llama", "qwen2", "qwen3", "mistral", "smollm3", "gemma", "gemma2",
    "gemma3_text", "phi3", "gpt_neox", "phi", "gptj", "codegen", "falcon", "stablelm", "cohere",
    "cohere2", "granite", "olmo", "olmo2", "starcoder2", "gpt_bigcode",
)  # fmt: skip
_LIKE_ENCODERS = ("bart", "mbart")
_CLASSIFIER = "AutoModelForSequenceClassification"

TASKS: Mapping[str, ExportTask] = {
    task.name: task
    for task in (
        ExportTask("feature-extraction", "feature-extraction", "AutoModel"),
        ExportTask("text-classification", "text-classification", _CLASSIFIER, also=_LIKE_ENCODERS),
        ExportTask(
            "zero-shot-classification", "text-classification", _CLASSIFIER, also=_LIKE_ENCODERS
        ),
        ExportTask("rerank", "text-classification", _CLASSIFIER, also=_LIKE_ENCODERS),
        ExportTask(
            "token-classification", "token-classification", "AutoModelForTokenClassification"
        ),
        ExportTask(
            "question-answering",
            "question-answering",
            "AutoModelForQuestionAnswering",
            also=_LIKE_ENCODERS,
        ),
        ExportTask("fill-mask", "fill-mask", "AutoModelForMaskedLM"),
        *(
            ExportTask(
                name,
                "text2text-generation",
                "AutoModelForSeq2SeqLM",
                model_types=ENCODER_DECODERS,
            )
            for name in ("translation", "summarization", "text2text-generation")
        ),
        ExportTask(
            "text-generation",
            "text-generation",
            "AutoModelForCausalLM",
            model_types=CAUSAL,
        ),
    )
}
ALIASES = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "embedding": "feature-extraction",
    "sentence-similarity": "feature-extraction",
    "text-ranking": "rerank",
}
_LANGUAGE_PAIR = re.compile(r"translation_(\w+?)_to_(\w+)")

# How the name of a class in config.json's `architectures` ends, and its task.
_HEADS: Mapping[str, str] = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
}

# What a family generates unless the user names a task.
_GENERATES = {
    **dict.fromkeys(("t5", "mt5", "marian", "m2m_100", "mbart"), "translation"),
    **dict.fromkeys(("pegasus", "longt5"), "summarization"),
    **dict.fromkeys(("umt5", "bart", "blenderbot", "plbart", "mvp"), "text2text-generation"),
    **dict.fromkeys(CAUSAL, "text-generation"),
}


def check_known(task: str | None) -> None:
    """Refuse an unknown task before anything is downloaded.

    Raises:
        SettingsError: The name is neither in `TASKS` nor an alias.
    """
    if task is not None:
        _named(task)


def resolve_task(
    task: str | None, config: Mapping[str, Any], embeds: bool, reranks: bool = False
) -> ExportTask:
    """The row of `TASKS` that the user named, or else the one that the checkpoint is for.

    Args:
        task: A name of `TASKS`, an alias, `translation_XX_to_YY`, or None to infer it.
        config: The checkpoint's config.json.
        embeds: Whether the checkpoint has sentence-transformers' modules of an embedder.
        reranks: Whether sentence-transformers' CrossEncoder saved it.

    Raises:
        SettingsError: The name is unknown.
        ExportError: The task cannot be inferred, or the checkpoint's model type cannot do it.
    """
    resolved = TASKS[_inferred(config, embeds, reranks) if task is None else _named(task)]
    _check_model_type(resolved, config)
    return resolved


def default_checkpoint(task: str) -> tuple[str, str]:
    """Hub id and revision of the default checkpoint of transformers' pipeline for a task.

    Raises:
        SettingsError: The task is unknown, or transformers has no default for it, as for most
            language pairs.
    """
    with silenced():
        from transformers.pipelines import SUPPORTED_TASKS

    name, pair = _named(task), _LANGUAGE_PAIR.fullmatch(task)
    defaults = SUPPORTED_TASKS.get(name, {}).get("default", {})
    default = defaults.get(pair.groups()) if pair else defaults
    if not default or "model" not in default:
        pairs = [f"translation_{a}_to_{b}" for a, b in SUPPORTED_TASKS["translation"]["default"]]
        raise SettingsError(
            f"transformers has no default checkpoint for {task}",
            f"name a checkpoint, or use one of the tasks {', '.join(pairs)}",
        )
    model, revision = default["model"]["pt"]
    return str(model), str(revision)


def canonical(task: str) -> str:
    """A task under its usual name; a language pair stays as it is.

    Raises:
        SettingsError: The name is unknown.
    """
    return task if _LANGUAGE_PAIR.fullmatch(task) else _named(task)


def _named(task: str) -> str:
    name = "translation" if _LANGUAGE_PAIR.fullmatch(task) else ALIASES.get(task, task)
    if name in TASKS:
        return name
    known = [*TASKS, *ALIASES, "translation_XX_to_YY"]
    raise SettingsError(
        f"task: {task!r} is not a task of this engine",
        f"{did_you_mean(task, known)}use one of: {', '.join(known)}",
    )


def _inferred(config: Mapping[str, Any], embeds: bool, reranks: bool) -> str:
    named = architectures(config)
    if embeds:
        return "feature-extraction"
    tasks = [task for ending, task in _HEADS.items() if any(a.endswith(ending) for a in named)]
    if len(tasks) > 1:
        raise ExportError(
            f"config.json names several architectures, {', '.join(named)}",
            f"name the task with --task, one of: {', '.join(tasks)}",
        )
    if tasks:
        one = len(config.get("id2label") or ()) == 1
        paired = one and tasks[0] == "text-classification"
        return "rerank" if reranks and paired else tasks[0]
    if generates := _GENERATES.get(str(config.get("model_type"))):
        summarizes = "summarization" in (config.get("task_specific_params") or {})
        return "summarization" if summarizes and generates == "text2text-generation" else generates
    why, hint = decoder_limits.reason(config)
    if why:
        raise ExportError(f"this checkpoint is of type {config.get('model_type')!r}: {why}", hint)
    if any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in named):
        return "text-generation"
    if any(a.endswith("ForConditionalGeneration") for a in named):
        return "text2text-generation"
    raise ExportError(
        f"config.json does not say what the model is for (architectures: {list(named)})",
        f"name the task with --task, one of: {', '.join(TASKS)}",
    )


def fits_model_type(task: ExportTask, model_type: str) -> bool:
    """Whether a task is exported for a model type, as far as the engine's own lists say."""
    if task.model_types:
        return model_type in task.model_types
    return model_type not in (*ENCODER_DECODERS, *CAUSAL) or model_type in task.also


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in config.json's `architectures`; a single text counts as a list of one."""
    named = config.get("architectures") or ()
    return (named,) if isinstance(named, str) else tuple(map(str, named))


def _check_model_type(task: ExportTask, config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if task.model_types and model_type not in task.model_types:
        can = [name for name, other in TASKS.items() if model_type in other.model_types]
        why, hint = decoder_limits.reason(config)
        if can:
            tasks = " or ".join(can)
            hint = f"export it with --task {tasks}, or take a checkpoint of one of these types"
        raise ExportError(
            f"{task.name} is exported for the model types {', '.join(task.model_types)}; "
            f"this checkpoint is of type {model_type!r}{why and ': '}{why}",
            hint or "export a checkpoint of one of these types",
        )
    encodes = not task.model_types and model_type not in task.also
    if encodes and config.get("is_encoder_decoder"):
        raise ExportError(
            f"{task.name} is exported for encoders; {model_type!r} is an encoder-decoder",
            "name the task that the checkpoint was trained for with --task",
        )
