"""What the run has to know of a checkpoint beyond its graphs, and its tokenizer as one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.bundle import TOKENIZER, Facts, Generation
from engine.errors import ExportError
from engine.export.checkpoint import Checkpoint
from engine.export.quiet import quiet
from engine.export.tasks import ExportTask

# transformers' own default for a T5 without a length of its own.
RELATIVE_LENGTH = 512
# What transformers' translation pipeline generates at most when the checkpoint names no length.
DEFAULT_NEW_TOKENS = 256

# sentence-transformers' flags in 1_Pooling/config.json -> the bundle's pooling.
POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_MODULES = ("Transformer", "Pooling", "Normalize")
_NOT_SUPPORTED = "export another checkpoint; this one's embeddings would come out different"

# Settings of generation that change greedy output and that the decode loop does not follow, with
# the value that means "off".
_IGNORED_SETTINGS: Mapping[str, Any] = {
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_eos_token_id": None,
    "renormalize_logits": False,
    "remove_invalid_values": False,
}


@dataclass(frozen=True)
class Collected:
    """Facts of a checkpoint and what the person should know about them."""

    facts: Facts
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
        "max_length": _max_length(checkpoint, tokenizer, limit),
        "position_limit": limit,
        "pad_id": _pad_id(model, tokenizer),
    }
    if task.name == "feature-extraction":
        own = _embedding(checkpoint, model, notes)
    elif task.name == "text-classification":
        own = _classification(model)
    else:
        own = _translation(model, asked, notes)
    return Collected(Facts(**shared, **own), tuple(notes.lines))


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer, backed by the `tokenizers` library; a slow-only one is converted.

    Raises:
        ExportError: It needs the repository's code, or can not be converted.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.folder, use_fast=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises a dozen classes here
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ExportError(
            f"{checkpoint.name}: its tokenizer can not be loaded: {type(error).__name__}: {reason}",
            "a checkpoint with a tokenizer.json always works",
        ) from error
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
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings - offset)
    if hasattr(config, "relative_attention_num_buckets") or getattr(
        config, "relative_attention", False
    ):
        return 0
    return int(getattr(config, "max_position_embeddings", 0) or 0)


def _max_length(checkpoint: Checkpoint, tokenizer: Any, limit: int) -> int:
    """Tokens of a row: sentence-transformers' own, else the tokenizer's, within the positions."""
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


def _embedding(checkpoint: Checkpoint, model: Any, notes: _Notes) -> dict[str, Any]:
    """Pooling, normalization and prefix as sentence-transformers' modules have them."""
    modules = checkpoint.read_json("modules.json") or []
    kinds = {module["type"].rsplit(".", 1)[-1]: module for module in modules}
    strange = [kind for kind in kinds if kind not in _MODULES]
    if strange:
        raise ExportError(
            f"{checkpoint.name}: modules.json has {', '.join(strange)} layers, "
            "which are not supported yet",
            _NOT_SUPPORTED,
        )
    pooling = "mean"
    if "Pooling" in kinds:
        pooling = _pooling(checkpoint, f"{kinds['Pooling']['path']}/config.json")
    elif not modules:
        notes.add("the checkpoint names no pooling: mean over the tokens, not normalized")
    return {
        "pooling": pooling,
        "normalize": "Normalize" in kinds,
        "dimensions": int(model.config.hidden_size),
        "prefix": _default_prompt(checkpoint, notes),
    }


def _pooling(checkpoint: Checkpoint, name: str) -> str:
    settings = checkpoint.read_json(name)
    if not settings:
        raise ExportError(
            f"{checkpoint.name}: modules.json names {name}, which is missing",
            "fetch the whole checkpoint",
        )
    on = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value]
    if len(on) != 1 or on[0] not in POOLINGS:
        raise ExportError(
            f"{checkpoint.name}: {name} asks for {' and '.join(on) or 'no pooling'}; "
            f"supported is one of {', '.join(POOLINGS)}",
            _NOT_SUPPORTED,
        )
    return POOLINGS[on[0]]


def _default_prompt(checkpoint: Checkpoint, notes: _Notes) -> str:
    settings = checkpoint.read_json("config_sentence_transformers.json")
    prompts = {name: text for name, text in (settings.get("prompts") or {}).items() if text}
    name = settings.get("default_prompt_name")
    if name in prompts:
        return str(prompts[name])
    if prompts:
        notes.add(f"the checkpoint has prompts that are not put before the texts: {prompts}")
    return ""


def _classification(model: Any) -> dict[str, Any]:
    config = model.config
    labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    # Where the checkpoint names no problem type, the run goes by the number of labels, as the
    # pipeline does.
    return {"labels": labels, "problem_type": config.problem_type or ""}


def _translation(model: Any, asked: str, notes: _Notes) -> dict[str, Any]:
    config = model.config
    specific = (config.task_specific_params or {}).get(asked) or {}
    settings = {**_set_generation(model), **specific}
    _note_generation(settings, notes)
    start = settings.get("decoder_start_token_id", config.decoder_start_token_id)
    end = settings.get("eos_token_id", config.eos_token_id)
    if start is None or end is None:
        missing = "decoder_start_token_id" if start is None else "eos_token_id"
        raise ExportError(
            f"neither config.json nor generation_config.json has a {missing}",
            "add it to the checkpoint's generation_config.json",
        )
    return {
        "prefix": _prefix(config, asked, specific, notes),
        "generation": Generation(
            start_id=int(start),
            end_ids=tuple(int(n) for n in (end if isinstance(end, list | tuple) else [end])),
            pad_id=int(config.pad_token_id or 0),
            max_new_tokens=_max_new_tokens(settings),
            layers=int(config.num_decoder_layers),
            heads=int(config.num_heads),
            head_dim=int(config.d_kv),
        ),
    }


def _set_generation(model: Any) -> dict[str, Any]:
    """The generation settings that the checkpoint itself has, defaults left out."""
    diff: dict[str, Any] = model.generation_config.to_diff_dict()
    return {key: value for key, value in diff.items() if value is not None}


def _max_new_tokens(settings: Mapping[str, Any]) -> int:
    if settings.get("max_new_tokens"):
        return int(settings["max_new_tokens"])
    if settings.get("max_length"):
        # transformers counts the start token in.
        return max(1, int(settings["max_length"]) - 1)
    return DEFAULT_NEW_TOKENS


def _note_generation(settings: Mapping[str, Any], notes: _Notes) -> None:
    if settings.get("forced_bos_token_id") is not None:
        raise ExportError(
            "the checkpoint forces its first token (forced_bos_token_id), "
            "which the decode loop does not do yet",
            "take a checkpoint without forced tokens, such as a T5",
        )
    if (settings.get("num_beams") or 1) > 1:
        notes.add(
            f"the checkpoint asks for num_beams={settings['num_beams']}; "
            "this version decodes greedily"
        )
    if settings.get("do_sample"):
        notes.add("the checkpoint asks for sampling (do_sample); this version decodes greedily")
    for name, off in _IGNORED_SETTINGS.items():
        if settings.get(name) not in (None, off):
            notes.add(f"the checkpoint asks for {name}={settings[name]}, which is not followed")


def _prefix(config: Any, asked: str, specific: Mapping[str, Any], notes: _Notes) -> str:
    if "prefix" in specific:
        return str(specific["prefix"])
    offered = sorted(n for n in config.task_specific_params or {} if n.startswith("translation_"))
    if offered:
        notes.add(
            f"no prefix is put before the texts; the checkpoint has one for each of the tasks "
            f"{', '.join(offered)}"
        )
    elif asked != "translation":
        notes.add(f"the checkpoint names no prefix for {asked}: none is put before the texts")
    return ""
