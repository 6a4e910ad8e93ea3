"""What the run has to know of a checkpoint beyond its graphs, and its tokenizer as one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.bundle.format import TOKENIZER, ModelConfig
from engine.errors import ExportError
from engine.export.checkpoint import generation_config, marian_tokenizer
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.silenced import silenced
from engine.export.checkpoint.task_inference import ExportTask

# transformers' own default for a T5 without a length of its own.
RELATIVE_LENGTH = 512

# sentence-transformers' flags in 1_Pooling/config.json -> the bundle's pooling.
POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
# The modules that are done here, in the only order that makes sense of them.
_MODULES = r"Transformer( Pooling( Dense)*( Normalize)?)?"
_NOT_SUPPORTED = "export another checkpoint; this one's embeddings would come out different"


@dataclass(frozen=True)
class Collected:
    """Facts of a checkpoint and what the person should know about them."""

    model_config: ModelConfig
    notes: tuple[str, ...]


@dataclass
class _Notes:
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append(line)


def collect(
    checkpoint: Checkpoint, model: Any, tokenizer: Any, task: ExportTask, asked: str
) -> Collected:
    """Read the facts of a checkpoint out of its files and its loaded model.

    Args:
        model: The transformers model.
        tokenizer: The transformers tokenizer, fast.
        asked: The task as the person named it, such as translation_en_to_de.

    Raises:
        ExportError: The checkpoint asks for something that the run does not do.
    """
    notes = _Notes()
    limit = _position_limit(model)
    shared: dict[str, Any] = {
        "max_length": _max_length(checkpoint, tokenizer, limit, task),
        "position_limit": limit,
        "pad_id": _pad_id(model, tokenizer),
        **_vocabulary(tokenizer),
    }
    _cut_at_the_end(tokenizer, notes)
    own: dict[str, Any] = {}
    if task.name == "feature-extraction":
        own = _embedding(checkpoint, model, notes)
    elif task.auto_class in _LABELLED:
        own = _labels(checkpoint, model, task)
    elif task.name == "fill-mask":
        _check_mask(checkpoint, shared)
    elif task.name == "question-answering":
        _check_sides(checkpoint, tokenizer)
    else:
        own = generation_config.collect(model, tokenizer, task, asked, notes.add)
    return Collected(ModelConfig(**shared, **own), tuple(notes.lines))


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer, backed by the `tokenizers` library; a slow-only one is converted.

    Raises:
        ExportError: It needs the repository's code, or cannot be converted.
    """
    from transformers import AutoTokenizer

    try:
        with silenced():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.folder, use_fast=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises a dozen classes here
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ExportError(
            f"{checkpoint.name}: its tokenizer cannot be loaded: {type(error).__name__}: {reason}",
            "a checkpoint with a tokenizer.json always works",
        ) from error
    if type(tokenizer).__name__ == "MarianTokenizer":
        tokenizer = marian_tokenizer.fast(tokenizer)
    if not tokenizer.is_fast:
        raise ExportError(
            f"{checkpoint.name}: {type(tokenizer).__name__} has no form for the tokenizers library",
            "take a checkpoint with a tokenizer.json",
        )
    _check_case(checkpoint, tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json with truncation and padding off: the run sets its own."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))


def _check_case(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """sentence-transformers can lower the text before the tokenizer; the run does not."""
    lowers = any(
        checkpoint.read_json(file.name).get("do_lower_case")
        for file in checkpoint.folder.glob("sentence_*_config.json")
    )
    if lowers and tokenizer("A b").input_ids != tokenizer("a b").input_ids:
        raise ExportError(
            f"{checkpoint.name}: sentence-transformers lower-cases the text before the tokenizer "
            "(do_lower_case), which is not supported yet",
            _NOT_SUPPORTED,
        )


def _position_limit(model: Any) -> int:
    """Positions that the weights have; 0 where they are relative.

    RoBERTa and its kin count positions from padding_idx + 1, so that many rows of the table are
    never used.
    """
    config = model.config
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and hasattr(module, "weight"):
            behind = 0 if module.padding_idx is None else module.padding_idx + 1
            # BART and OPT have an offset of their own.
            return int(module.num_embeddings - getattr(module, "offset", behind))
    if hasattr(config, "relative_attention_num_buckets") or getattr(
        config, "relative_attention", False
    ):
        return 0
    return int(getattr(config, "max_position_embeddings", 0) or 0)


def _max_length(checkpoint: Checkpoint, tokenizer: Any, limit: int, task: ExportTask) -> int:
    """Tokens of a row: sentence-transformers' own, else the tokenizer's, within the positions.

    Of a prompt the pipeline lets stand what the positions can hold, whatever the tokenizer says.
    """
    if task.name == "text-generation" and limit:
        return limit
    own = [
        checkpoint.read_json(file.name).get("max_seq_length")
        for file in sorted(checkpoint.folder.glob("sentence_*_config.json"))
    ]
    length = next((n for n in own if n), None) or tokenizer.model_max_length
    # transformers writes 1e30 where a tokenizer names no length.
    length = int(length) if length < 1e9 else (limit or RELATIVE_LENGTH)
    return min(length, limit) if limit else length


def _pad_id(model: Any, tokenizer: Any) -> int:
    found = (model.config.pad_token_id, tokenizer.pad_token_id)
    return next((int(n) for n in found if n is not None), 0)


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    """What the tokenizer says of itself beyond its tokenizer.json."""
    special = tokenizer.special_tokens_map
    ids = {
        f"{name}_id": int(tokenizer.convert_tokens_to_ids(special[f"{name}_token"]))
        for name in ("unk", "mask", "cls")
        if f"{name}_token" in special
    }
    mask = str(special.get("mask_token", ""))
    return {**ids, "mask_token": mask, "clean_up": bool(tokenizer.clean_up_tokenization_spaces)}


def _cut_at_the_end(tokenizer: Any, notes: _Notes) -> None:
    if tokenizer.truncation_side != "right":
        notes.add(
            "the checkpoint's tokenizer cuts long texts at their beginning (truncation_side); "
            "here they are cut at their end"
        )
        # The proof's reference is cut as the run cuts.
        tokenizer.truncation_side = "right"


def _embedding(checkpoint: Checkpoint, model: Any, notes: _Notes) -> dict[str, Any]:
    """Pooling, widths, normalization and prompts as sentence-transformers' modules have them."""
    modules = checkpoint.modules
    kinds = " ".join(kind for kind, _ in modules)
    if modules and not re.fullmatch(_MODULES, kinds):
        raise ExportError(
            f"{checkpoint.name}: modules.json has the layers {kinds.replace(' ', ', ')}; "
            "done here are Transformer, Pooling, any number of Dense, and Normalize, in that order",
            _NOT_SUPPORTED,
        )
    pooling = "mean"
    if "Pooling" in kinds:
        pooling = _pooling(checkpoint, f"{modules[1][1]}/config.json")
    elif not modules:
        notes.add("the checkpoint names no pooling: mean over the tokens, not normalized")
    hidden = int(model.config.hidden_size)
    return {
        "pooling": pooling,
        "normalize": "Normalize" in kinds,
        "dimensions": _width(checkpoint, hidden),
        "projected": "Dense" in kinds,
        "hidden": hidden,
        **_prompts(checkpoint, notes),
    }


def _width(checkpoint: Checkpoint, hidden: int) -> int:
    """Numbers of an embedding: what the last Dense layer gives, else the transformer's own."""
    width = hidden
    for path in (path for kind, path in checkpoint.modules if kind == "Dense"):
        settings = checkpoint.read_json(f"{path}/config.json")
        if settings.get("in_features") != width:
            raise ExportError(
                f"{checkpoint.name}: {path} takes {settings.get('in_features')} numbers, the layer "
                f"before it gives {width}",
                "fetch the whole checkpoint",
            )
        width = int(settings.get("out_features", 0))
    return width


def _pooling(checkpoint: Checkpoint, name: str) -> str:
    settings = checkpoint.read_json(name)
    if not settings:
        raise ExportError(
            f"{checkpoint.name}: modules.json names {name}, which is missing",
            "fetch the whole checkpoint",
        )
    if settings.get("include_prompt") is False:
        raise ExportError(
            f"{checkpoint.name}: {name} leaves the prompt out of the pooling (include_prompt), "
            "which is not done here",
            _NOT_SUPPORTED,
        )
    on = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value]
    if len(on) != 1 or on[0] not in POOLINGS:
        raise ExportError(
            f"{checkpoint.name}: {name} asks for {' and '.join(on) or 'no pooling'}; "
            f"supported is one of {', '.join(POOLINGS)}",
            _NOT_SUPPORTED,
        )
    return POOLINGS[on[0]]


def _prompts(checkpoint: Checkpoint, notes: _Notes) -> dict[str, Any]:
    """The prompts by name, and the default one as the prefix."""
    settings = checkpoint.read_json("config_sentence_transformers.json")
    prompts = {str(name): str(text) for name, text in (settings.get("prompts") or {}).items()}
    default = settings.get("default_prompt_name")
    others = [name for name, text in prompts.items() if text and name != default]
    if others:
        notes.add(
            f"the checkpoint has the prompts {', '.join(others)}: "
            f"a run takes one by name, such as --prompt {others[0]}"
        )
    return {"prompts": prompts, "prefix": prompts.get(default, "")}


# Classes of transformers whose models have a class name for each of their logits.
_LABELLED = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")


def _labels(checkpoint: Checkpoint, model: Any, task: ExportTask) -> dict[str, Any]:
    config = model.config
    labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    if task.name == "zero-shot-classification":
        _check_entailment(checkpoint, labels)
    # Where the checkpoint names no problem type, the run goes by the number of labels, as the
    # pipeline does.
    return {"labels": labels, "problem_type": config.problem_type or ""}


def _check_entailment(checkpoint: Checkpoint, labels: tuple[str, ...]) -> None:
    if any(label.lower().startswith("entail") for label in labels):
        return
    named = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    raise ExportError(
        f"{checkpoint.name}: no label of the checkpoint starts with 'entail', so it cannot tell "
        f"whether a text entails a hypothesis; its labels: {named}",
        "take a checkpoint trained on natural language inference, or name its labels in "
        "config.json's id2label and label2id",
    )


def _check_mask(checkpoint: Checkpoint, vocabulary: Mapping[str, Any]) -> None:
    if not vocabulary["mask_token"]:
        raise ExportError(
            f"{checkpoint.name}: its tokenizer has no mask token, so there is nothing to fill in",
            "add a mask_token to the checkpoint's special_tokens_map.json, or take another one",
        )


def _check_sides(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """The pipeline puts the context first where a tokenizer pads on the left; the run does not."""
    if tokenizer.padding_side != "right":
        raise ExportError(
            f"{checkpoint.name}: its tokenizer pads on the left (padding_side), "
            "which question-answering does not do here",
            "take another checkpoint",
        )
