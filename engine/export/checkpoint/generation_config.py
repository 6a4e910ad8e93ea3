"""How a checkpoint generates: what transformers' own pipeline would do with it.

The pipeline is built, and the model's own generate() is asked what it would make of the pipeline's
settings, since pipeline defaults, generation_config.json and config.json's task_specific_params
override one another in an order that only their code knows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from engine.bundle.format import DecoderConfig, GenerationConfig, Languages
from engine.core.token_limit import TokenLimit
from engine.errors import ExportError
from engine.export.checkpoint import languages as language_codes
from engine.export.checkpoint import positions
from engine.export.checkpoint.silenced import silenced
from engine.export.checkpoint.task_inference import ExportTask

Note = Callable[[str], None]

_PIPELINES: Mapping[str, str] = {
    "translation": "TranslationPipeline",
    "summarization": "SummarizationPipeline",
    "text2text-generation": "Text2TextGenerationPipeline",
    "text-generation": "TextGenerationPipeline",
}

# Settings that change the pipeline's answer and that GenerationConfig lacks, with the values that
# turn them off.
_NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0.0),
    "constraints": (None,),
    "force_words_ids": (None,),
    "encoder_repetition_penalty": (None, 1.0),
    "exponential_decay_length_penalty": (None,),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1, 1.0),
    "watermarking_config": (None,),
    "renormalize_logits": (None, False),
    "remove_invalid_values": (None, False),
    "token_healing": (None, False),
    "dola_layers": (None,),
    "stop_strings": (None,),
    "max_time": (None,),
}
# The same where the pipeline samples.
_NOT_SUPPORTED_IN_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}


def read(
    model: Any, tokenizer: Any, task: ExportTask, requested: str, note: Note
) -> dict[str, Any]:
    """The fields of ModelConfig that a generating checkpoint has: prefix, decoder and languages.

    Where the tokenizer takes language codes, its source language is set to the bundle's, so that
    the tokenizer.json written from it puts that code into every row.

    Args:
        model: The transformers model.
        tokenizer: The transformers tokenizer, a fast one.
        requested: The task as the user named it, such as translation_en_to_de.
        note: Called with each line that the user should know.

    Raises:
        ExportError: The checkpoint names no start token.
        SettingsError: The task names a language that the tokenizer does not have.
    """
    requested = _pair(model.config, requested, note)
    transformers_pipeline = pipeline(model, tokenizer, task, requested)
    config = _final_settings(model, transformers_pipeline)
    prefix = str(transformers_pipeline.prefix or "")
    languages = language_codes.read(tokenizer, config, task, requested, note)
    _note_unsupported(config, note)
    _note_attention(model.config, note)
    if task.name == "translation" and languages is None:
        _note_prefixes(model.config, prefix, requested, note)
    return {
        # The pipeline leaves the prefix out where it builds the inputs from language codes.
        "prefix": "" if languages else prefix,
        "decoder": _generation(model, config, languages, note),
        "languages": languages,
    }


def _pair(config: Any, requested: str, note: Note) -> str:
    """The requested task; for plain translation the checkpoint's first pair, as in pipeline()."""
    offered = [n for n in config.task_specific_params or {} if n.startswith("translation_")]
    if requested != "translation" or not offered:
        return requested
    others = f"; the others are {', '.join(offered[1:])}" if offered[1:] else ""
    note(f"translation is {offered[0]} here, as in transformers: --task names another{others}")
    return str(offered[0])


def pipeline(model: Any, tokenizer: Any, task: ExportTask, requested: str) -> Any:
    """transformers' pipeline of a task over a model.

    Raises:
        ExportError: It cannot be made of this checkpoint.
    """
    import torch
    import transformers

    requested = _pair(model.config, requested, lambda _: None)
    parameters = copy.deepcopy(model.config.task_specific_params)
    try:
        with silenced():
            return getattr(transformers, _PIPELINES[task.name])(
                model=model,
                tokenizer=tokenizer,
                framework="pt",
                task=requested,
                device=torch.device("cpu"),
            )
    except Exception as error:  # transformers raises a dozen classes here
        raise ExportError(
            f"transformers' pipeline for {task.name} refuses the checkpoint: "
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}",
            "correct that setting in the checkpoint's generation_config.json or config.json; a "
            "transformers_version is a release, such as 4.57.6",
        ) from error
    finally:
        # The pipeline takes the prefix out of the model's own config.
        model.config.task_specific_params = parameters


def _final_settings(model: Any, pipeline: Any) -> Any:
    """The GenerationConfig that generate() ends up with where the pipeline calls it.

    generate() merges the checkpoint's settings into the pipeline's once more if they are of
    transformers 4.50 or later, or name no version. `max_length` and `min_length` are left as they
    are: what they count depends on the row (see `_limit`).
    """
    arguments = dict(pipeline._forward_params)
    if prefix_length := arguments.pop("prefix_length", 0):
        length = arguments.get("max_length") or pipeline.generation_config.max_length
        arguments["max_length"] = length + prefix_length
    with silenced():
        config, _ = model._prepare_generation_config(pipeline.generation_config, **arguments)
    return config


def _generation(model: Any, config: Any, languages: Languages | None, note: Note) -> DecoderConfig:
    causal = not model.config.is_encoder_decoder
    ends = _tokens(config.eos_token_id)
    if not ends:
        note("the checkpoint names no end token: every row is as long as it may be")
    return DecoderConfig(
        start_id=-1 if causal else _start(config),
        end_ids=ends,
        pad_id=_pad_id(config, ends),
        max_new_tokens=_max_new_tokens(model, config, note),
        vocabulary=len(model.get_output_embeddings().weight),
        **_cache_shape(model.config),
        search=_search(model, config, languages, note),
        bos_id=_bos(config) if causal else -1,
    )


def _cache_shape(config: Any) -> dict[str, int]:
    """Layers and heads of the decoder, and head_dim and kv_heads of its cache."""
    if hasattr(config, "d_kv"):
        layers, heads, head_dim = config.num_decoder_layers, config.num_heads, config.d_kv
    elif config.is_encoder_decoder:
        layers, heads = config.decoder_layers, config.decoder_attention_heads
        head_dim = config.d_model // heads
    else:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = _kv_heads(config, int(heads))
    return {
        "layers": int(layers),
        "heads": int(heads),
        "head_dim": int(head_dim),
        "kv_heads": 0 if kv_heads == heads else kv_heads,
        "long_from": positions.long_from(config),
    }


def _kv_heads(config: Any, heads: int) -> int:
    if getattr(config, "new_decoder_architecture", False):
        return int(config.num_kv_heads)
    if getattr(config, "multi_query", False):
        return 1
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _tokens(ids: Any) -> tuple[int, ...]:
    """One id, a list of ids or None as a tuple."""
    if ids is None:
        return ()
    return tuple(int(n) for n in (ids if isinstance(ids, list | tuple) else [ids]))


def _start(config: Any) -> int:
    """The decoder's first input: generate() falls back to the token a text begins with."""
    for start in (config.decoder_start_token_id, config.bos_token_id):
        if start is not None:
            return int(start)
    raise ExportError(
        "neither config.json nor generation_config.json has a decoder_start_token_id",
        "add it to the checkpoint's generation_config.json",
    )


def _bos(config: Any) -> int:
    """The token that generate() goes on from where a prompt is empty."""
    return -1 if config.bos_token_id is None else int(config.bos_token_id)


def _pad_id(config: Any, ends: tuple[int, ...]) -> int:
    if config.pad_token_id is not None and config.pad_token_id >= 0:
        return int(config.pad_token_id)
    return ends[0] if ends else 0


def _max_new_tokens(model: Any, config: Any, note: Note) -> int | str:
    limit = _limit(model, config, "max_length")
    if limit.factor:
        note(
            f"the checkpoint's max_length={limit.constant} counts the prompt, as in transformers; "
            "a prompt as long as that gets one new token: --max-new-tokens sets another limit"
        )
    return limit.setting if limit.factor else max(1, limit.constant)


def _min_new_tokens(model: Any, config: Any) -> int | str:
    limit = _limit(model, config, "min_length")
    if limit.factor:
        return limit.setting if limit.constant > 1 else 0
    return max(0, limit.constant)


def _limit(model: Any, config: Any, name: str) -> TokenLimit:
    """What generate() makes of max_length or min_length and of the limits of new tokens.

    It is asked for decoder inputs of one and of two tokens: where the limits of both are one
    number, the prompt is counted. An encoder-decoder model starts from one token.
    """
    one, two = (_prepared(model, config, name, length) for length in (1, 2))
    counted = one == two and not model.config.is_encoder_decoder
    return TokenLimit(-1.0, one) if counted and one > 0 else TokenLimit(0.0, one - 1)


def _prepared(model: Any, config: Any, name: str, length: int) -> int:
    """max_length or min_length of a row with decoder inputs of this length."""
    with silenced():
        prepared = model._prepare_generated_length(
            generation_config=copy.deepcopy(config),
            has_default_max_length=config.max_length is not None,
            has_default_min_length=config.min_length is not None,
            model_input_name="input_ids",
            input_ids_length=length,
            inputs_tensor=None,
        )
    return int(getattr(prepared, name) or 0)


def _search(model: Any, config: Any, languages: Languages | None, note: Note) -> GenerationConfig:
    return GenerationConfig(
        num_beams=int(config.num_beams or 1),
        num_return_sequences=_sequences(config, note),
        length_penalty=_float(config.length_penalty),
        early_stopping=config.early_stopping if config.early_stopping is not None else False,
        min_new_tokens=_min_new_tokens(model, config),
        no_repeat_ngram_size=int(config.no_repeat_ngram_size or 0),
        encoder_no_repeat_ngram_size=int(config.encoder_no_repeat_ngram_size or 0),
        repetition_penalty=_float(config.repetition_penalty),
        forced_bos_id=_forced_bos(config, languages),
        forced_eos_id=_forced_eos(config, note),
        bad_words_ids=tuple(map(_tokens, config.bad_words_ids or ())),
        suppress_ids=_tokens(config.suppress_tokens),
        begin_suppress_ids=_tokens(config.begin_suppress_tokens),
        do_sample=_samples(config),
        top_k=int(config.top_k or 0),
        min_p=float(config.min_p or 0),
        # 0 occurs only where nothing is sampled (see `_samples`).
        temperature=_float(config.temperature) or 1.0,
        top_p=_float(config.top_p) or 1.0,
    )


def _samples(config: Any) -> bool:
    """Whether tokens are sampled: not with beams, nor where only one token can be sampled."""
    greedy = config.temperature == 0 or config.top_p == 0
    return bool(config.do_sample) and (config.num_beams or 1) == 1 and not greedy


def _sequences(config: Any, note: Note) -> int:
    count = int(config.num_return_sequences or 1)
    if count > (config.num_beams or 1) and not _samples(config):
        note(
            f"the checkpoint asks for num_return_sequences={count} with num_beams="
            f"{config.num_beams or 1}, at which the pipeline fails: one is returned"
        )
        return 1
    return count


def _float(factor: Any) -> float:
    """A factor or exponent; 1, which changes nothing or is the default, where it is not set."""
    return 1.0 if factor is None else float(factor)


def _forced_bos(config: Any, languages: Languages | None) -> int:
    """Of a causal model it is forced behind prompts of one token only."""
    if languages and languages.target:
        return int(languages.ids[languages.target])
    return -1 if config.forced_bos_token_id is None else int(config.forced_bos_token_id)


def _forced_eos(config: Any, note: Note) -> int:
    forced = _tokens(config.forced_eos_token_id)
    if len(forced) > 1:
        note(f"the checkpoint forces one of the last tokens {list(forced)}; the first is taken")
    return forced[0] if forced else -1


def _note_unsupported(config: Any, note: Note) -> None:
    if _samples(config):
        note(
            "the pipeline samples here (do_sample), and so does this engine, with random numbers "
            "of its own: the sampled tokens differ from torch's"
        )
    elif config.do_sample:
        note(
            "the pipeline samples here (do_sample); this engine takes the likeliest "
            f"{'beam' if (config.num_beams or 1) > 1 else 'token'}, as the pipeline does "
            "with do_sample=False"
        )
    table = {**_NOT_SUPPORTED, **(_NOT_SUPPORTED_IN_SAMPLING if _samples(config) else {})}
    for setting in _switched_on(config, table):
        stops = setting.startswith("stop_strings")
        lack = (
            "which the pipeline fails at: use --stop"
            if stops
            else "which this engine does not support"
        )
        note(f"the checkpoint asks for {setting}, {lack}")


def _switched_on(config: Any, table: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    """The settings of a table, with their values, that have none of the values that it names."""
    values = {name: getattr(config, name, None) for name in table}
    return tuple(f"{name}={value}" for name, value in values.items() if value not in table[name])


def unsupported(model: Any, pipeline: Any) -> tuple[str, ...]:
    """Settings, with their values, that change what a pipeline generates without sampling, and that
    this engine does not have."""
    return _switched_on(_final_settings(model, pipeline), _NOT_SUPPORTED)


def _note_attention(config: Any, note: Note) -> None:
    """Say where transformers' default attention ignores the checkpoint's settings."""
    off = {
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "attn_logit_softcapping": None,
    }
    for name, usual in off.items():
        if (value := getattr(config, name, usual)) != usual:
            note(
                f"the checkpoint has {name}={value}, which this engine follows, as transformers "
                'does with attn_implementation="eager"; its default attention ignores it'
            )


def _note_prefixes(config: Any, prefix: str, requested: str, note: Note) -> None:
    """Say which task prefixes there are where none is used."""
    if prefix:
        return
    specific = config.task_specific_params or {}
    offered = sorted(n for n in specific if n.startswith("translation_") and n != requested)
    if offered and requested not in specific:
        note(
            f"no prefix is put before the texts; the checkpoint has one for each of the tasks "
            f"{', '.join(offered)}"
        )
    # A Marian model translates between the languages it was trained on, and needs no prefix.
    elif requested not in ("translation", *specific) and config.model_type != "marian":
        note(f"the checkpoint names no prefix for {requested}: none is put before the texts")
