"""What the modules of a sentence-transformers checkpoint do, as versions 2 to 6 write them.

Whatever would change an embedding and is not supported is refused by name, and so are keys that no
version writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.module_list import Module

# The flags of versions 2 to 5.3 in the order in which several poolings are concatenated, the names
# from 5.4 on, and the bundle's.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS = {name: name for name in _FLAGS.values()} | {"lasttoken": "last"}
_POOLING_KEYS = frozenset(
    (*_FLAGS, "pooling_mode", "include_prompt", "word_embedding_dimension", "embedding_dimension")
)
# Modules behind the pooling.
_BEHIND = ("Dense", "LayerNorm", "Normalize", "Dropout")
_IDENTITY = ("Dropout",)
# Files with the transformer's settings; the first one counts.
_SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Keys of that file that change nothing, and those that are read here.
_HARMLESS = ("max_seq_length", "do_lower_case", "unpad_inputs", "cache_dir")
_ARGUMENTS = tuple(
    f"{what}_{kind}"
    for what in ("model", "tokenizer", "config", "processor")
    for kind in ("args", "kwargs")
)
# Arguments that do not change what is computed: weights and reference are float32 whatever is said.
_HARMLESS_ARGUMENTS = (
    "dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "use_safetensors",
    "trust_remote_code", "low_cpu_mem_usage", "device_map", "padding_side", "use_fast",
    "use_cache", "unpad_inputs", "token", "cache_dir",
)  # fmt: skip
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# What other values of a key would do, where only one is supported.
_SUPPORTED = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "processing_kwargs": None,
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
    "tokenizer_name_or_path": None,
}
_OTHER = "export another checkpoint; this one's embeddings would come out different"
_AGAIN = "fetch the whole checkpoint"


@dataclass(frozen=True)
class Embedder:
    """What is computed around the transformer of an embedder.

    Attributes:
        pooling: Names of `tasks.feature_extraction.POOLINGS`, joined by "+" where the results of
            several are concatenated.
        include_prompt: Whether the tokens of a prompt are pooled, too.
        layers: Dense, LayerNorm and Normalize behind the pooling, in order.
        normalize: Embeddings are scaled to length 1 at the end.
        strip: Texts lose the white space around them, after a prompt is put before them.
        lower_case: Texts are lower-cased, special tokens in them included.
    """

    pooling: str = "mean"
    include_prompt: bool = True
    layers: tuple[Module, ...] = ()
    normalize: bool = False
    strip: bool = False
    lower_case: bool = False


def read(checkpoint: Checkpoint) -> Embedder:
    """Read the modules of a checkpoint; without modules.json, mean pooling alone, or the last token
    of a causal model, as sentence-transformers has it.

    Raises:
        ExportError: A module, a key or a value is not supported.
    """
    modules = checkpoint.modules
    if not modules:
        return Embedder(pooling="last" if _is_causal(checkpoint.config) else "mean")
    _check_kinds(checkpoint, modules)
    settings = transformer_settings(checkpoint)
    legacy = modules[0].legacy
    behind = _without_repeats([m for m in modules[2:] if m.kind not in _IDENTITY])
    normalize = bool(behind) and behind[-1].kind == "Normalize"
    pooling, include_prompt = "mean", True
    if len(modules) > 1:
        pooling, include_prompt = _pooling(checkpoint, modules[1])
    for module in behind:
        if module.kind == "Normalize":
            check_names(checkpoint, module, read_config(checkpoint, module, needed=False))
    return Embedder(
        pooling=pooling,
        include_prompt=include_prompt,
        layers=tuple(behind[:-1] if normalize else behind),
        normalize=normalize,
        strip=legacy,
        lower_case=legacy and bool(settings.get("do_lower_case")),
    )


def _is_causal(config: Mapping[str, Any]) -> bool:
    first = (config.get("architectures") or [""])[0]
    return str(first).endswith("ForCausalLM") and bool(config.get("is_causal", True))


def check(checkpoint: Checkpoint) -> None:
    """Refuse what cannot be exported, before any weight is loaded.

    Raises:
        ExportError: See `read` and `read_prompts`.
    """
    read(checkpoint)
    read_prompts(checkpoint)


def embeds(checkpoint: Checkpoint) -> bool:
    """Whether the modules make an embedder, not a reranker or a sparse encoder."""
    kind = checkpoint.read_top_json("config_sentence_transformers.json").get("model_type")
    return bool(checkpoint.modules) and kind in (None, "SentenceTransformer")


def lower_cases_in_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether the tokenizer gets a lower-casing normalizer, as versions from 5.4 on do it: special
    tokens stay as they are then."""
    modules = checkpoint.modules
    settings = _first_settings(checkpoint)[1] if modules else {}
    return bool(settings.get("do_lower_case")) and not modules[0].legacy


def transformer_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The settings of the module Transformer, such as max_seq_length; {} where there are none.

    Raises:
        ExportError: One of them is unknown or not supported.
    """
    file, settings = _first_settings(checkpoint)
    where = f"{checkpoint.name}: {file}"
    known = (*_HARMLESS, *_ARGUMENTS, *_SUPPORTED, "modality_config")
    _check_keys(where, settings, known)
    for key, supported in _SUPPORTED.items():
        value = settings.get(key, supported)
        if value != supported and not (supported is None and not value):
            raise ExportError(
                f"{where} has {key} {_brief(value)}; supported is {_brief(supported)}", _OTHER
            )
    length = settings.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ExportError(
            f"{where} has max_seq_length {_brief(length)}",
            "write a whole number of tokens into that file, or null for the tokenizer's",
        )
    _check_flags(where, settings, ("do_lower_case",))
    for key in _ARGUMENTS:
        _check_keys(f"{where}: {key}", settings.get(key) or {}, _HARMLESS_ARGUMENTS)
    modalities = settings.get("modality_config") or {"text": _TEXT}
    if "message" in modalities or modalities.get("text") != _TEXT:
        raise ExportError(
            f"{where} has the modality_config {_brief(modalities)}; supported is the last hidden "
            "state of plain texts",
            _OTHER,
        )
    return settings


def read_prompts(checkpoint: Checkpoint) -> tuple[dict[str, str], str]:
    """The prompts by name, and the name of the default one or "".

    Raises:
        ExportError: The default one is not among them, or another setting is not supported.
    """
    file = "config_sentence_transformers.json"
    settings = checkpoint.read_top_json(file)
    saved = settings.get("prompts") or {}
    if not isinstance(saved, Mapping):
        raise ExportError(
            f"{checkpoint.name}: {file} has prompts that are no object of names and texts",
            'correct prompts in that file, such as {"query": "query: "}',
        )
    prompts = {str(name): "" if text is None else str(text) for name, text in saved.items()}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ExportError(
            f"{checkpoint.name}: {file} has the default prompt {default!r}, which is not among its "
            f"prompts: {', '.join(prompts) or 'none'}",
            "correct default_prompt_name in that file, or set it to null",
        )
    if settings.get("truncate_dim"):
        raise ExportError(
            f"{checkpoint.name}: {file} has truncate_dim {settings['truncate_dim']}, which cuts "
            "embeddings behind the last module",
            f"set it to null in that file, and give a run --dimensions {settings['truncate_dim']}, "
            "which cuts before it scales to length 1",
        )
    kind = settings.get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise ExportError(
            f"{checkpoint.name}: {file} has the model_type {kind!r}, not SentenceTransformer",
            "name the task it was trained for with --task, or export another checkpoint",
        )
    return prompts, str(default or "")


def read_config(checkpoint: Checkpoint, module: Module, needed: bool = True) -> Mapping[str, Any]:
    """The content of a module's config.json; {} where it is missing and not needed.

    Raises:
        ExportError: It is missing.
    """
    name = module.file("config.json")
    settings: Mapping[str, Any] = checkpoint.read_top_json(name)
    if needed and not settings:
        missing = not ((checkpoint.top or checkpoint.folder) / name).is_file()
        state = "missing" if missing else "empty"
        raise ExportError(f"{checkpoint.name}: modules.json names {name}, which is {state}", _AGAIN)
    return settings


def width(checkpoint: Checkpoint, layers: Sequence[Module], pooled: int) -> int:
    """Width of an embedding behind the layers, from that of a pooled one.

    Raises:
        ExportError: A layer takes embeddings of another width.
    """
    for module in layers:
        settings = read_config(checkpoint, module, needed=module.kind != "Normalize")
        taken, out = (
            (settings.get("in_features"), settings.get("out_features"))
            if module.kind == "Dense"
            else (settings.get("dimension", pooled), pooled)
        )
        if taken != pooled:
            raise ExportError(
                f"{checkpoint.name}: {module.path} takes {taken} numbers, the layer before it "
                f"gives {pooled}",
                _AGAIN,
            )
        pooled = int(out or 0)
    return pooled


def _check_kinds(checkpoint: Checkpoint, modules: tuple[Module, ...]) -> None:
    kinds = [module.kind for module in modules]
    ordered = kinds[0] == "Transformer" and kinds[1:2] in ([], ["Pooling"])
    if not ordered or any(kind not in _BEHIND for kind in kinds[2:]):
        raise ExportError(
            f"{checkpoint.name}: modules.json has the layers {', '.join(kinds)}; supported are "
            f"Transformer, Pooling, and any number of {', '.join(_BEHIND)}, in that order",
            _OTHER,
        )


def _without_repeats(modules: Sequence[Module]) -> list[Module]:
    """Of Normalize twice in a row, the second does nothing."""
    kinds = ["", *(module.kind for module in modules)]
    return [m for m, before in zip(modules, kinds, strict=False) if (before, m.kind) != _TWICE]


_TWICE = ("Normalize", "Normalize")


def _pooling(checkpoint: Checkpoint, module: Module) -> tuple[str, bool]:
    """Names of the poolings joined by "+", and whether prompts are pooled."""
    settings = read_config(checkpoint, module)
    where = f"{checkpoint.name}: {module.file('config.json')}"
    _check_keys(where, settings, _POOLING_KEYS)
    _check_flags(where, settings, (*_FLAGS, "include_prompt"))
    names = _pooling_names(where, settings)
    for name in names:
        if name not in _POOLINGS:
            raise ExportError(
                f"{where} asks for {_brief(name)}; supported are {', '.join(_POOLINGS)}", _OTHER
            )
    if not names:
        raise ExportError(f"{where} asks for no pooling: all of its modes are off", _OTHER)
    include_prompt = settings.get("include_prompt")
    if include_prompt is False and "cls" in names:
        raise ExportError(
            f"{where} has the pooling cls with include_prompt false, for which versions of "
            "sentence-transformers take different tokens",
            _OTHER,
        )
    return "+".join(_POOLINGS[name] for name in names), include_prompt is not False


def _pooling_names(where: str, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """The poolings by the names of version 6, in the order of their results."""
    if "pooling_mode" in settings:
        named = settings["pooling_mode"]
        return tuple(named) if isinstance(named, (list, tuple)) else (named,)
    flags = [flag for flag in _FLAGS if flag in settings]
    if not flags:
        return ("mean",)
    if "pooling_mode_mean_tokens" not in flags:
        # On by default up to 5.3, off from 5.4 on.
        raise ExportError(
            f"{where} does not say pooling_mode_mean_tokens, for which versions of "
            "sentence-transformers have different defaults",
            "write it into that file, true or false",
        )
    return tuple(_FLAGS[flag] for flag in flags if settings[flag])


def check_names(checkpoint: Checkpoint, module: Module, settings: Mapping[str, Any]) -> None:
    """Refuse a module that works on something else than the pooled embedding.

    Raises:
        ExportError: It is such a module.
    """
    names = [settings.get(f"module_{side}_name") for side in ("input", "output")]
    if any(name not in (None, "sentence_embedding") for name in names):
        raise ExportError(
            f"{checkpoint.name}: {module.path} does not follow the pooling "
            f"({' to '.join(map(str, names))})",
            _OTHER,
        )


def _first_settings(checkpoint: Checkpoint) -> tuple[str, Mapping[str, Any]]:
    """The first file with the transformer's settings, and its content."""
    for file in _SETTINGS:
        settings = checkpoint.read_json(file)
        if settings:
            return file, settings
    return _SETTINGS[0], {}


def _check_keys(where: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ExportError(f"{where} has {', '.join(unknown)}, which is not supported", _OTHER)


def _check_flags(where: str, settings: Mapping[str, Any], names: Collection[str]) -> None:
    for name in names:
        if type(settings.get(name, False)) is not bool:
            raise ExportError(
                f"{where} has {name} {_brief(settings[name])}",
                "write true or false into that file",
            )


def _brief(value: object) -> str:
    return repr(value)[:200]
