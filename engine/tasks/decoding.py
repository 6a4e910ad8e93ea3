"""What the generating tasks share: the options of the search, and the search."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig, GenerationConfig, ModelConfig
from engine.core.settings import as_texts, check_settings, option
from engine.core.token_limit import TokenLimit, as_limit, as_minimum
from engine.core.types import Arrays, Encoded, Ints, Ragged
from engine.errors import BundleError, SettingsError
from engine.generation import DecodingOptions, GeneratedSequences, generate_sequences
from engine.runtime.protocol import Backend
from engine.tasks import generated_columns
from engine.tasks.task import Context, Finished

# Padded tokens that an encoder reads in one batch.
BATCH_TOKENS = 1024
# As many as a bundle's description may name. A row has a slot for each of them.
MOST_BEAMS = 1024
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

    max_new_tokens: int | str = option(
        "tokens that a row may generate, its end token included; with x for the tokens of its text,"
        " such as 1.5x+10, or 50-x for 50 with the prompt",
        read=as_limit,
    )
    min_new_tokens: int | str = option(
        "tokens before the end token is allowed; with x as in max_new_tokens", read=as_minimum
    )
    num_beams: int = option(
        "beams of the search; 1 for the likeliest token at each step", least=1, most=MOST_BEAMS
    )
    length_penalty: float = option(
        "above 0 favours longer beams, below 0 shorter ones", needs=("beams or scores",)
    )
    early_stopping: bool | str = option(
        "when a beam search ends: true, false or never", read=_early_stopping, needs=("beams",)
    )
    no_repeat_ngram_size: int = option("no n-gram of this size twice; 0 for off", least=0)
    repetition_penalty: float = option("above 1 penalizes tokens that occurred already", above=0)
    do_sample: bool = option("sample tokens instead of taking the likeliest")
    temperature: float = option(
        "for sampling: below 1 favours likely tokens, above 1 unlikely ones",
        above=0,
        needs=("sampling",),
    )
    top_k: int = option(
        "sample from this many of the likeliest tokens; 0 for off", least=0, needs=("sampling",)
    )
    top_p: float = option(
        "sample from the likeliest tokens whose probabilities add up to this",
        above=0,
        most=1,
        needs=("sampling",),
    )
    min_p: float = option(
        "sample from tokens at least this likely, relative to the likeliest",
        least=0,
        most=1,
        needs=("sampling",),
    )
    seed: int = option(
        "for sampling: with the same seed, a row of a file gets the same tokens",
        least=0,
        most=2**64 - 1,
        needs=("sampling", "no seed column"),
    )
    stop: tuple[str, ...] = option("texts that end a row", read=_stop_texts)
    num_return_sequences: int = option(
        "sequences of each row: the best beams, best first, or as many samples; columns are lists "
        "then",
        least=1,
        most=2**31,
    )
    return_scores: bool = option(
        "score each sequence: the sum of its tokens' log-probabilities, divided by their number to "
        "the power of length_penalty"
    )
    return_logprobs: bool = option("the log-probability of each token")
    return_prompt_tokens: bool = option("how many tokens the model reads of each text")
    prefix: str = option("put before each text")

    def __post_init__(self) -> None:
        check_settings(self)
        _check_together(self)


def _check_together(options: Decoding) -> None:
    least = TokenLimit.of(options.min_new_tokens, least=0).fixed
    most = TokenLimit.of(options.max_new_tokens).fixed
    if least is not None and most is not None and least > most:
        raise SettingsError(
            f"min_new_tokens is {options.min_new_tokens}, max_new_tokens {options.max_new_tokens}",
            "the first cannot be more than the second",
        )
    if not options.do_sample and options.num_return_sequences > options.num_beams:
        raise SettingsError(
            f"num_return_sequences is {options.num_return_sequences}, "
            f"num_beams {options.num_beams}: there are no more sequences than beams",
            f"--num-beams {options.num_return_sequences} or more",
        )
    if options.do_sample and options.num_beams > 1:
        raise SettingsError(
            f"do_sample is given with num_beams {options.num_beams}",
            "beam search does not sample: give --num-beams 1 or --no-do-sample",
        )


def adapt(defaults: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """An `adapt`: beams, sampling and lengths that a person names go before the checkpoint's.

    Values of a wrong type change nothing here: they are refused by name afterwards.
    """
    adapted = dict(defaults)
    beams = values.get("num_beams")
    if isinstance(beams, int) and beams > 1:
        adapted["do_sample"] = False
    if values.get("do_sample") is True:
        adapted["num_beams"] = 1
    _adapt_sequences(adapted, values)
    least = _limit("min_new_tokens", {**defaults, **values}, 0)
    most = _limit("max_new_tokens", {**defaults, **values}, 1)
    if least and most and least.fixed and _below(most, least.fixed):
        # One of the two is a default, or both were named and are refused together.
        adapted["min_new_tokens"], adapted["max_new_tokens"] = most.setting, least.setting
    return adapted


def _adapt_sequences(adapted: dict[str, object], values: Mapping[str, object]) -> None:
    """As many beams as sequences, unless they are sampled."""
    together = {**adapted, **values}
    beams, count = together["num_beams"], together["num_return_sequences"]
    if not (isinstance(beams, int) and isinstance(count, int)) or together["do_sample"]:
        return
    if count > beams:
        # One of the two is a default, or both were named and are refused together.
        adapted["num_beams"], adapted["num_return_sequences"] = count, beams


def _limit(name: str, options: Mapping[str, object], least: int) -> TokenLimit | None:
    try:
        return TokenLimit.of(options[name], name=name, least=least)
    except SettingsError:
        return None


def _below(limit: TokenLimit, tokens: int) -> bool:
    """Whether no row may have as many tokens: the limit only falls with the text's length."""
    return limit.factor <= 0 and limit.constant < tokens


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
        "min_new_tokens": _least_new_tokens(config.search.min_new_tokens, most),
        "seed": 0,
        "stop": (),
        "return_scores": False,
        "return_logprobs": False,
        "return_prompt_tokens": False,
        "prefix": model_config.prefix,
    }


def _most_new_tokens(config: DecoderConfig, limit: int) -> int | str:
    """The checkpoint's limit of new tokens, or what its positions can hold beside a prompt."""
    most = TokenLimit.of(config.max_new_tokens)
    if most.fixed is None or not limit:
        return most.setting
    if config.causal:
        return most.fixed if most.fixed < limit else max(1, limit // 2)
    return min(most.fixed, limit)


def _least_new_tokens(least: int | str, most: int | str) -> int | str:
    fixed = isinstance(least, int) and isinstance(most, int)
    return min(int(least), int(most)) if fixed else least


def with_seeds(encoded: Encoded) -> Encoded:
    """A window whose rows have seeds of their own, if there is a column of them."""
    if len(encoded.rows.texts) < 2:
        return encoded
    seeds = _seeds(encoded.rows.texts[1])
    return dataclasses.replace(encoded, extra={**encoded.extra, "seeds": seeds})


def _seeds(column: pa.Array) -> NDArray[np.uint64]:
    """Whole numbers as they are, also where a text spells one, and a hash of any other text."""
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.uint64)
    return np.array([_seed(text) for text in column.to_pylist()], np.uint64)


def _seed(text: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,20}", text):
        return int(text) % 2**64
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def row_limits(context: Context, lengths: Ints) -> Ints:
    """How many tokens rows may generate whose texts have so many tokens, int64 (rows,): what the
    option says, as far as there are positions, and one at least."""
    limits = TokenLimit.of(context.options.max_new_tokens).of_rows(lengths)
    if positions := context.model_config.position_limit:
        causal = decoder_config(context.model_config).causal
        limits = np.minimum(limits, positions - lengths if causal else positions)
    return np.maximum(limits, 1)


def decode(
    backend: Backend,
    feeds: Mapping[str, Ints],
    context: Context,
    *,
    forced_bos_id: int | None = None,
) -> Arrays:
    """An `infer`: what is generated for a batch, as `generated_columns.to_arrays` has it.

    Args:
        forced_bos_id: The first token of every row; None for the checkpoint's own.
    """
    options, config = context.options, decoder_config(context.model_config)
    search = _generation_config(context)
    if forced_bos_id is not None:
        search = dataclasses.replace(search, forced_bos_id=forced_bos_id)
    lengths = feeds["attention_mask"].sum(axis=1)
    how = DecodingOptions(
        max_new_tokens=row_limits(context, lengths),
        batch_tokens=context.batch_tokens or BATCH_TOKENS,
        stop=_stop_condition(context) if options.stop else None,
        # A stop text has at most as many tokens as characters, and one goes before them.
        tail=max(map(len, options.stop), default=0) + 1,
        stopped=context.stopped,
        count=context.count,
        spare=context.spare,
        seed=options.seed if context.seeds is None else context.seeds,
        # A row with a seed of its own gets the same answer wherever it is.
        numbers=context.numbers if context.seeds is None else np.zeros_like(lengths),
        scored=options.return_scores or options.return_logprobs,
    )
    if context.finished:
        how = dataclasses.replace(how, finished=_telling(context.finished, lengths))
    sequences = generate_sequences(backend, feeds, config, search, how)
    return generated_columns.to_arrays(sequences, lengths, options.num_return_sequences)


def _telling(finished: Finished, prompts: Ints) -> Callable[[Ints, GeneratedSequences], None]:
    """A `DecodingOptions.finished` that calls a `Context.finished`."""
    return lambda rows, sequences: finished(
        rows, generated_columns.to_arrays(sequences, prompts[rows], 1)
    )


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


def samples(options: Decoding) -> bool:
    """A `samples` for tasks that generate."""
    return options.do_sample
