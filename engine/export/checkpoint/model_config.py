"""What a run needs to know of a checkpoint beyond its graphs and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.bundle.format import ModelConfig
from engine.errors import ExportError
from engine.export.checkpoint import (
    chat_templates,
    embedding_modules,
    generation_config,
    labels,
    positions,
    reranker,
)
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.task_inference import ExportTask

# Tokens of a row where neither tokenizer nor positions limit them, as transformers has it for T5.
RELATIVE_LENGTH = 512


def read(
    checkpoint: Checkpoint, model: Any, tokenizer: Any, task: ExportTask, requested: str
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Read what a run needs to know of a checkpoint out of its files and its loaded model.

    Args:
        model: The transformers model.
        tokenizer: The transformers tokenizer, a fast one.
        requested: The task as the user named it, such as translation_en_to_de.

    Returns:
        The configuration, and notes for the user.

    Raises:
        ExportError: The checkpoint asks for something that the run does not do.
        SettingsError: The task names a language that the tokenizer does not have.
    """
    notes: list[str] = []
    limit = _position_limit(model)
    shared: dict[str, Any] = {
        "max_length": _max_length(checkpoint, tokenizer, limit, task),
        "position_limit": limit,
        "pad_id": _pad_id(model, tokenizer),
        **_vocabulary(tokenizer),
        **_truncation_side(tokenizer, task),
    }
    specific: dict[str, Any] = {}
    if task.name == "feature-extraction":
        specific = _embedding(checkpoint, model, tokenizer, notes)
    elif task.auto_class in labels.LABELLED:
        specific = labels.read(checkpoint, model.config, task, notes.append)
        if task.name == "rerank":
            specific |= reranker.read(checkpoint, specific["labels"], notes.append)
    elif task.name == "fill-mask":
        _check_mask(checkpoint, shared)
    elif task.name == "question-answering":
        _check_padding_side(checkpoint, tokenizer)
    else:
        specific = generation_config.read(model, tokenizer, task, requested, notes.append)
        if task.name == "text-generation":
            specific |= chat_templates.read(checkpoint, tokenizer, notes.append)
    return ModelConfig(**shared, **specific), tuple(notes)


def _position_limit(model: Any) -> int:
    """How many positions the weights have; 0 where they are relative.

    RoBERTa and its relatives count positions from padding_idx + 1: the rows of the table before
    that are never used.
    """
    config = model.config
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and hasattr(module, "weight"):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            # BART and OPT have an offset of their own.
            return int(len(module.weight) - getattr(module, "offset", first))
    if hasattr(config, "relative_attention_num_buckets") or getattr(
        config, "relative_attention", False
    ):
        return 0
    return positions.position_limit(config) if hasattr(config, "max_position_embeddings") else 0


def _max_length(checkpoint: Checkpoint, tokenizer: Any, limit: int, task: ExportTask) -> int:
    """Tokens of a row: by sentence-transformers, else by the tokenizer, within the positions.

    The pipeline keeps as much of a prompt as there are positions, whatever the tokenizer says.
    """
    if task.name == "text-generation" and limit:
        return limit
    embeds = task.name == "feature-extraction" and checkpoint.modules
    settings = embedding_modules.transformer_settings(checkpoint) if embeds else {}
    length = settings.get("max_seq_length") or tokenizer.model_max_length
    # transformers writes 1e30 where a tokenizer names no length.
    length = int(length) if length < 1e9 else (limit or RELATIVE_LENGTH)
    return min(length, limit) if limit else length


def _pad_id(model: Any, tokenizer: Any) -> int:
    ids = (model.config.pad_token_id, tokenizer.pad_token_id)
    # Early checkpoints of Llama have -1 for none.
    return next((int(n) for n in ids if n is not None and n >= 0), 0)


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    """What the tokenizer's settings say beyond its tokenizer.json."""
    special = tokenizer.special_tokens_map
    ids = {
        f"{name}_id": int(tokenizer.convert_tokens_to_ids(special[f"{name}_token"]))
        for name in ("unk", "mask", "cls")
        if f"{name}_token" in special
    }
    mask = str(special.get("mask_token", ""))
    return {**ids, "mask_token": mask, "clean_up": bool(tokenizer.clean_up_tokenization_spaces)}


def _truncation_side(tokenizer: Any, task: ExportTask) -> dict[str, str]:
    """Where the tokenizer cuts a long row, unless at its right.

    The pipeline never cuts a prompt; a run cuts its beginning, whatever the tokenizer says, and the
    acceptance test its end.
    """
    if task.name == "text-generation":
        tokenizer.truncation_side = "right"
    return {} if tokenizer.truncation_side == "right" else {"truncation_side": "left"}


def _embedding(
    checkpoint: Checkpoint, model: Any, tokenizer: Any, notes: list[str]
) -> dict[str, Any]:
    """Pooling, widths, normalization, cleaning and prompts as sentence-transformers' modules have
    them."""
    embedder = embedding_modules.read(checkpoint)
    if not checkpoint.modules:
        pooled = {"mean": "mean over the tokens", "last": "the last token"}[embedder.pooling]
        notes.append(f"the checkpoint names no pooling: {pooled}, not normalized")
    if embedder.strip and tokenizer("\na ").input_ids != tokenizer("a").input_ids:
        notes.append(
            "white space around a text is removed, as the versions of sentence-transformers do it "
            "that wrote this checkpoint; from 5.4 on they keep it, and this tokenizer sees it: "
            "--no-strip in a run keeps it, too"
        )
    hidden = int(model.config.hidden_size)
    width = hidden * len(embedder.pooling.split("+"))
    return {
        "pooling": embedder.pooling,
        "include_prompt": embedder.include_prompt,
        "normalize": embedder.normalize,
        "dimensions": embedding_modules.width(checkpoint, embedder.layers, width),
        "projected": bool(embedder.layers),
        "hidden": hidden,
        "strip": embedder.strip,
        "lower_case": embedder.lower_case,
        **_prompts(checkpoint, notes),
    }


def _prompts(checkpoint: Checkpoint, notes: list[str]) -> dict[str, Any]:
    """The prompts by name, and the default one as the prefix."""
    prompts, default = embedding_modules.read_prompts(checkpoint)
    others = [name for name, text in prompts.items() if text and name != default]
    if others:
        notes.append(
            f"the checkpoint has the prompts {', '.join(others)}: "
            f"a run takes one by name, such as --prompt {others[0]}"
        )
    return {"prompts": prompts, "prefix": prompts.get(default, "")}


def _check_mask(checkpoint: Checkpoint, vocabulary: Mapping[str, Any]) -> None:
    if not vocabulary["mask_token"]:
        raise ExportError(
            f"{checkpoint.name}: its tokenizer has no mask token, so there is nothing to fill in",
            "add a mask_token to the checkpoint's special_tokens_map.json, or export another one",
        )


def _check_padding_side(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """The pipeline puts the context first where a tokenizer pads on the left; the run does not."""
    if tokenizer.padding_side != "right":
        raise ExportError(
            f"{checkpoint.name}: its tokenizer pads on the left (padding_side), "
            "which is not supported for question-answering",
            "export a checkpoint whose tokenizer pads on the right",
        )
