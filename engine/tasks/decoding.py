"""What the generating tasks share: the options of the search, and the result columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig, GenerationConfig, ModelConfig
from engine.core.settings import as_texts, check_settings, option
from engine.core.types import Arrays, Ints, Ragged
from engine.errors import BundleError, SettingsError
from engine.generation import generate
from engine.runtime.protocol import Backend
from engine.tasks.task import Context, ragged

# Padded tokens that an encoder reads in one batch.
BATCH_TOKENS = 1024
_EARLY_STOPPING: Mapping[str, bool | str] = {"true": True, "false": False, "never": "never"}


def _early_stopping(name: str, value: object) -> bool | str:
    choice = _EARLY_STOPPING.get(str(value).lower())
    if choice is None:
        raise SettingsError(f"{name} is {value!r}", "true, false or never")
    return choice


def _stop_texts(name: str, value: object) -> tuple[str, ...]:
    texts = as_texts(name, value)
    if not all(texts):
        raise SettingsError(f"{name} has an empty text", "one or more texts, none empty")
    return texts


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are searched for; names and meanings are those of transformers' generate()."""

    max_new_tokens: int = option("tokens that a row may generate, its end token included", least=1)
    min_new_tokens: int = option("tokens before the end token is allowed", least=0)
    num_beams: int = option("beams of the search; 1 for the likeliest token at each step", least=1)
    length_penalty: float = option("above 0 favours longer beams, below 0 shorter ones")
    early_stopping: bool | str = option(
        "when a beam search ends: true, false or never", read=_early_stopping
    )
    no_repeat_ngram_size: int = option("no n-gram of this size twice; 0 for off", least=0)
    repetition_penalty: float = option("above 1 penalizes tokens that occurred already", above=0)
    do_sample: bool = option("sample tokens instead of taking the likeliest")
    temperature: float = option(
        "for sampling: below 1 favours likely tokens, above 1 unlikely ones", above=0
    )
    top_k: int = option("sample from this many of the likeliest tokens; 0 for off", least=0)
    top_p: float = option(
        "sample from the likeliest tokens whose probabilities add up to this", above=0, most=1
    )
    min_p: float = option(
        "sample from tokens at least this likely, relative to the likeliest", least=0, most=1
    )
    seed: int = option(
        "for sampling: with the same seed, a row of a file gets the same tokens",
        least=0,
        most=2**64 - 1,
    )
    stop: tuple[str, ...] = option("texts that end a row (with one beam only)", read=_stop_texts)
    prefix: str = option("put before each text")

    def __post_init__(self) -> None:
        check_settings(self)
        _check_together(self)


def _check_together(options: Decoding) -> None:
    if options.min_new_tokens > options.max_new_tokens:
        raise SettingsError(
            f"min_new_tokens is {options.min_new_tokens}, max_new_tokens {options.max_new_tokens}",
            "the first cannot be more than the second",
        )
    if options.stop and options.num_beams > 1:
        raise SettingsError(
            f"stop is given with num_beams {options.num_beams}", "stop texts need --num-beams 1"
        )
    if options.do_sample and options.num_beams > 1:
        raise SettingsError(
            f"do_sample is given with num_beams {options.num_beams}",
            "beam search does not sample: give --num-beams 1 or --no-do-sample",
        )


def decoder_config(model_config: ModelConfig) -> DecoderConfig:
    """The bundle's decoder settings.

    Raises:
        BundleError: It has none.
    """
    if model_config.decoder is None:
        raise BundleError("the bundle has no decoder settings", "export the model again")
    return model_config.decoder


def defaults(model_config: ModelConfig) -> dict[str, object]:
    """Values of `Decoding` that follow from the checkpoint."""
    config = decoder_config(model_config)
    search = dataclasses.asdict(config.search)
    names = {field.name for field in dataclasses.fields(Decoding)}
    most = _most_new_tokens(config, model_config.position_limit)
    return {
        "max_new_tokens": most,
        **{name: value for name, value in search.items() if name in names},
        # A minimum above the limit would forbid the end token at every step.
        "min_new_tokens": min(config.search.min_new_tokens, most),
        "seed": 0,
        "stop": (),
        "prefix": model_config.prefix,
    }


def _most_new_tokens(config: DecoderConfig, limit: int) -> int:
    """The checkpoint's limit of new tokens, or what its positions can hold beside a prompt."""
    if config.causal and 0 < limit <= config.max_new_tokens:
        return max(1, limit // 2)
    return min(config.max_new_tokens, limit) if limit else config.max_new_tokens


def decode(
    backend: Backend,
    feeds: Mapping[str, Ints],
    context: Context,
    *,
    forced_bos_id: int | None = None,
) -> Arrays:
    """An `infer`: generated ids of a batch, and whether each row ended before its limit.

    Args:
        forced_bos_id: The first token of every row; None for the checkpoint's own.
    """
    options, config = context.options, decoder_config(context.model_config)
    search = _generation_config(context)
    if forced_bos_id is not None:
        search = dataclasses.replace(search, forced_bos_id=forced_bos_id)
    tokens, ended = generate(
        backend,
        feeds,
        config,
        search,
        max_new_tokens=options.max_new_tokens,
        batch_tokens=context.batch_tokens or BATCH_TOKENS,
        stop=_stop_condition(context) if options.stop else None,
        # A stop text has at most as many tokens as characters, and one goes before them.
        tail=max(map(len, options.stop), default=0) + 1,
        stopped=context.stopped,
        count=context.count,
        spare=context.spare,
        seed=options.seed,
        numbers=context.numbers,
    )
    return {"tokens": tokens, "ended": ended}


def _generation_config(context: Context) -> GenerationConfig:
    """The checkpoint's generation config, with the values of the options."""
    config = decoder_config(context.model_config).search
    names = {field.name for field in dataclasses.fields(GenerationConfig)}
    options = dataclasses.asdict(context.options)
    return dataclasses.replace(config, **{n: v for n, v in options.items() if n in names})


def _stop_condition(context: Context) -> Callable[[Ragged], NDArray[np.bool_]]:
    """Whether the last token of each row completes a stop text, as StopStringCriteria of
    transformers decides it."""

    def completed(tails: Ragged) -> NDArray[np.bool_]:
        texts = context.tokenizer.decode(tails, skip_special=False).to_pylist()
        heads = Ragged.of(
            np.delete(tails.values, tails.offsets[1:][tails.lengths > 0] - 1),
            np.maximum(tails.lengths - 1, 0),
        )
        befores = context.tokenizer.decode(heads, skip_special=False).to_pylist()
        pairs = zip(texts, befores, strict=True)
        return np.array([_completes(text, before, context.options.stop) for text, before in pairs])

    return completed


def _completes(text: str, before: str, stops: tuple[str, ...]) -> bool:
    """Whether a stop text ends in what `text` has more than `before`."""
    return any(text.find(stop, max(0, len(before) - len(stop) + 1)) >= 0 for stop in stops)


def length_columns(arrays: Arrays) -> list[pa.Array]:
    """The columns output_tokens and finish_reason."""
    reasons = np.where(np.asarray(arrays["ended"]), "stop", "length")
    lengths = ragged(arrays, "tokens").lengths
    return [pa.array(lengths, pa.int32()), pa.array(reasons.tolist(), pa.string())]


def samples(options: Decoding) -> bool:
    """A `samples` for tasks that generate."""
    return options.do_sample


def schema(column: str) -> pa.Schema:
    """The text's column and the two of `length_columns`."""
    columns = {column: pa.string(), "output_tokens": pa.int32()}
    return pa.schema([*columns.items(), ("finish_reason", pa.string())])
