"""What a bundle's description must hold beyond types: bounds of its numbers, and what its parts say
of one another. It may come from a stranger, so that nothing is taken on trust."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

from engine.bundle.description import DecoderConfig, Description, GenerationConfig, ModelConfig
from engine.bundle.typed_json import Bounds, MismatchError, shown
from engine.core.device import Device, Kind
from engine.core.graphs import Role
from engine.core.settings import check_choice
from engine.core.token_limit import TokenLimit
from engine.errors import SettingsError

_ID = (-1, 2**31 - 1)
BOUNDS: Bounds = {
    # Of `ModelConfig`
    "max_length": (1, 2**24),
    "position_limit": (0, 2**24),
    **dict.fromkeys(("pad_id", "unk_id", "mask_id", "cls_id"), _ID),
    "entailment": (-1, 2**20),
    "dimensions": (0, 2**20),
    "hidden": (0, 2**20),
    # Of `DecoderConfig`
    **dict.fromkeys(("start_id", "bos_id"), _ID),
    "end_ids": (0, 2**31 - 1),
    "max_new_tokens": (1, 2**24),
    "layers": (1, 512),
    "heads": (1, 1024),
    "kv_heads": (0, 1024),
    "head_dim": (1, 4096),
    "vocabulary": (0, 2**24),
    "long_from": (0, 2**24),
    # Of `GenerationConfig`
    "num_beams": (1, 1024),
    "num_return_sequences": (1, 1024),
    "length_penalty": (-1000, 1000),
    "min_new_tokens": (0, 2**24),
    "no_repeat_ngram_size": (0, 2**24),
    "encoder_no_repeat_ngram_size": (0, 2**24),
    "repetition_penalty": (1e-6, 1e6),
    "forced_bos_id": _ID,
    "forced_eos_id": _ID,
    "bad_words_ids": _ID,
    "suppress_ids": _ID,
    "begin_suppress_ids": _ID,
    "temperature": (0, 1e6),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    # Of `Languages`
    "ids": (0, 2**31 - 1),
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_FILE = 2**50
_PROBLEMS = ("", "single_label_classification", "multi_label_classification", "regression")


def check(description: Description, reserved: tuple[str, ...], tokenizer: str) -> None:
    """Compare the parts of a description with one another.

    Args:
        description: Its types and numbers are right.
        reserved: Names that are no listed files.
        tokenizer: The name of the tokenizer's file.

    Raises:
        MismatchError: Something is not as it must be.
    """
    for problem in _problems(description, reserved, tokenizer):
        raise MismatchError(problem)


def _problems(description: Description, reserved: tuple[str, ...], tokenizer: str) -> Iterator[str]:
    yield from _file_problems(description, reserved)
    if tokenizer not in description.files:
        yield f"files does not list {tokenizer}"
    yield from _model_problems(description.model_config)
    if decoder := description.model_config.decoder:
        yield from _decoder_problems(decoder)
    yield from _graph_problems(description)


def _file_problems(description: Description, reserved: tuple[str, ...]) -> Iterator[str]:
    for name, record in description.files.items():
        if not _NAME.fullmatch(name) or name in reserved:
            yield f"files lists {shown(name)}, which is no plain name of a file"
        if record.keys() != {"sha256", "bytes"}:
            yield f"files.{name} has other keys than sha256 and bytes"
        size, digest = record["bytes"], record["sha256"]
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _LARGEST_FILE:
            yield f"files.{name}.bytes is {shown(size)}, where a size is expected"
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            yield f"files.{name}.sha256 is {shown(digest)}, where 64 digits are expected"


def _model_problems(config: ModelConfig) -> Iterator[str]:
    choices = {
        "truncation_side": ("", "left", "right"),
        "problem_type": _PROBLEMS,
        "activation": ("", "sigmoid", "none"),
    }
    for name, known in choices.items():
        if (value := getattr(config, name)) not in known:
            expected = ", ".join(filter(None, known))
            yield f"model_config.{name} is {shown(value)}, where one of {expected} is expected"
    if config.labels and config.entailment >= len(config.labels):
        yield f"model_config.entailment is {config.entailment}, of {len(config.labels)} labels"
    if languages := config.languages:
        for name, code in (("source", languages.source), ("target", languages.target)):
            if code and code not in languages.ids:
                yield f"model_config.languages.{name} is {shown(code)}, which has no id"


def _decoder_problems(decoder: DecoderConfig) -> Iterator[str]:
    key, search = "model_config.decoder", decoder.search
    if decoder.kv_heads and decoder.heads % decoder.kv_heads:
        yield f"{key}.kv_heads is {decoder.kv_heads}, which {decoder.heads} heads cannot share"
    if decoder.vocabulary and decoder.start_id >= decoder.vocabulary:
        yield f"{key}.start_id is {decoder.start_id}, of {decoder.vocabulary} tokens"
    if not search.do_sample and search.num_return_sequences > search.num_beams:
        yield f"{key}.search.num_return_sequences is more than num_beams"
    if decoder.vocabulary:
        yield from _token_problems(f"{key}.search", search, decoder.vocabulary)
    limits = (
        ("max_new_tokens", decoder.max_new_tokens, 1),
        ("search.min_new_tokens", search.min_new_tokens, 0),
    )
    try:
        for name, value, least in limits:
            TokenLimit.of(value, name=f"{key}.{name}", least=least)
        check_choice(f"{key}.search.early_stopping", search.early_stopping, (True, False, "never"))
    except SettingsError as error:
        yield error.message


def _token_problems(key: str, search: GenerationConfig, vocabulary: int) -> Iterator[str]:
    """Tokens that are forced or kept out, and are none of the decoder's."""
    forced = {name: [getattr(search, name)] for name in ("forced_bos_id", "forced_eos_id")}
    words = {f"bad_words_ids[{n}]": list(word) for n, word in enumerate(search.bad_words_ids)}
    for name, ids in {**forced, **words}.items():
        if not ids:
            yield f"{key}.{name} is empty"
        elif max(ids) >= vocabulary:
            yield f"{key}.{name} holds {max(ids)}, of {vocabulary} tokens"


def _graph_problems(description: Description) -> Iterator[str]:
    graphs = description.graphs
    for graph in graphs:
        if graph.file not in description.files or not graph.file.endswith(".onnx"):
            yield f"graphs has {shown(graph.file)}, which is no ONNX file of this bundle"
    devices = [Device(kind) for kind in get_args(Kind)]
    loaded = [[graph.role for graph in graphs if graph.loads_on(device)] for device in devices]
    for roles in loaded:
        if len(set(roles)) < len(roles):
            yield "graphs has two graphs of one role for one device"
    needed = _needed(description.model_config)
    if not any(set(some) <= set(roles) for some in needed for roles in loaded):
        yield f"graphs lacks one of {', '.join(sorted(needed[0]))}"


def _needed(config: ModelConfig) -> tuple[set[Role], ...]:
    """Sets of graphs of which one must be there for some device."""
    if not config.decoder:
        return ({"model", "dense"} if config.projected else {"model"},)
    if config.decoder.causal:
        return {"step"}, {"device_step"}
    return {"encoder", "step"}, {"encoder", "device_step", "admit"}
