"""The stored settings are those that generate() ends up with when the pipeline calls it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of

from engine.bundle.format import DecoderConfig
from engine.core.token_limit import TokenLimit
from engine.errors import ExportError
from engine.export.checkpoint import generation_config, task_inference

np = pytest.importorskip("numpy")
transformers = pytest.importorskip("transformers")

PROMPTS = ("dog", "A dog runs.", "Nobody calls it.")
SEARCH = (
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "do_sample",
)
_BARE = {"early_stopping": False, "length_penalty": 1.0}
SAMPLING = ("temperature", "top_k", "top_p")


def _checkpoint(make: Callable[..., Path], folder: Path, config: Any, generation: Any) -> Path:
    """A copy of a small checkpoint with other settings; None for no generation_config.json."""
    shutil.copytree(checkpoint_of(make, **config), folder)
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        checkpoints.edit_json(folder / "generation_config.json", **generation)
    return folder


def _read(folder: Path, name: str) -> tuple[DecoderConfig, list[str], Any]:
    """What the export reads, its notes, and the pipeline itself."""
    causal = name == "text-generation"
    kind = "AutoModelForCausalLM" if causal else "AutoModelForSeq2SeqLM"
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    task = task_inference.resolve_task(name, {"model_type": model.config.model_type}, False)
    notes: list[str] = []
    fields = generation_config.read(model, tokenizer, task, name, notes.append)
    pipe = generation_config.pipeline(model, tokenizer, task, name)
    return fields["decoder"], notes, pipe


def _used(pipe: Any, prompt: str) -> tuple[Any, int]:
    """The settings of generate() behind all its preparations, and the tokens it starts from."""

    class ReachedError(Exception):
        pass

    seen = SimpleNamespace(config=None, length=0)

    def criteria(*, generation_config: Any, **_: Any) -> Any:
        seen.config = generation_config
        raise ReachedError

    pipe.model._get_stopping_criteria = criteria
    with pytest.raises(ReachedError):
        pipe(prompt)
    encoded = pipe.tokenizer(f"{pipe.prefix or ''}{prompt}").input_ids
    return seen.config, len(encoded)


FORMS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "both lengths": {"max_length": 40, "max_new_tokens": 12},
    "both lengths of 4.30": {
        "max_length": 40, "max_new_tokens": 12, "transformers_version": "4.30.2",
    },
    "max_length": {"max_length": 90, "min_length": 30},
    "max_length of 4.57": {"max_length": 90, "transformers_version": "4.57.6"},
    "min_new_tokens": {"min_new_tokens": 7, "min_length": 3},
    "of transformers 5": {"num_beams": 3, "max_new_tokens": 9, "transformers_version": "5.24.0"},
    "beams and early stopping": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.4},
    "sampling": {"do_sample": True, "temperature": 0.3, "top_k": 0, "top_p": 0.9},
    "temperature alone": {"temperature": 0.3},
    "greedy with no temperature": {"do_sample": False, "temperature": 0.0},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 4},
    "ends": {"eos_token_id": [1, 2, 5], "forced_eos_token_id": 2},
    "the pipeline's own number": {"max_new_tokens": 256, "max_length": 40},
}  # fmt: skip
SPECIFIC: dict[str, dict[str, Any]] = {
    "none": {},
    "one beam": {"num_beams": 1},
    "lengths": {"max_length": 31, "min_length": 11},
    "the default length": {"max_length": 20, "max_new_tokens": None},
    "greedy": {"do_sample": False, "temperature": 1.0},
}


@pytest.mark.parametrize("specific", SPECIFIC)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["text-generation", "summarization"])
def test_settings_are_those_of_the_last_merge(
    tmp_path: Path, name: str, form: str, specific: str
) -> None:
    make = checkpoints.gpt2 if name == "text-generation" else checkpoints.bart
    config = {"task_specific_params": {name: SPECIFIC[specific]}}
    folder = _checkpoint(make, tmp_path / "model", config, FORMS[form])
    decoder, _, pipe = _read(folder, name)
    for prompt in PROMPTS:
        _check(decoder, *_used(pipe, prompt))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"transformers_version": "4.20.0"},
        {"num_beams": 2, "max_length": 33, "min_length": 5},
        {"do_sample": True, "top_k": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["text-generation", "text2text-generation"])
def test_settings_in_config_json_alone(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    make = checkpoints.gpt2 if name == "text-generation" else checkpoints.bart
    folder = _checkpoint(make, tmp_path / "model", {}, None)
    # Saving a model moves its settings into generation_config.json, and leaves nulls behind.
    checkpoints.edit_json(folder / "config.json", **_BARE, **config)
    decoder, _, pipe = _read(folder, name)
    for prompt in PROMPTS:
        _check(decoder, *_used(pipe, prompt))


def test_a_prefix_is_counted_as_the_pipeline_counts_it(tmp_path: Path) -> None:
    """It adds the prefix's tokens to a max_length."""
    config = {"prefix": "A dog: ", "task_specific_params": None}
    folder = _checkpoint(checkpoints.gpt2, tmp_path / "model", config, {"max_length": 60})
    decoder, _, pipe = _read(folder, "text-generation")
    for prompt in PROMPTS:
        _check(decoder, *_used(pipe, prompt))


def test_a_version_that_is_none_is_refused_with_the_reason(tmp_path: Path) -> None:
    version = {"transformers_version": None}
    folder = _checkpoint(checkpoints.gpt2, tmp_path / "model", {}, version)
    with pytest.raises(ExportError, match="pipeline for text-generation refuses") as caught:
        _read(folder, "text-generation")
    assert "generation_config.json" in caught.value.hint
    checkpoints.edit_json(folder / "generation_config.json", transformers_version="4.57.6")
    assert _read(folder, "text-generation")


def _check(decoder: DecoderConfig, used: Any, length: int) -> None:
    """Every stored setting is the used one for a prompt of this length."""
    search, started = decoder.search, length if decoder.causal else 1
    lengths = np.array([length])
    assert TokenLimit.of(decoder.max_new_tokens).of_rows(lengths)[0] == used.max_length - started
    least = TokenLimit.of(search.min_new_tokens, least=0).of_rows(lengths)[0]
    assert least == max(0, (used.min_length or 0) - started)
    ends = used.eos_token_id
    assert decoder.end_ids == tuple(ends if isinstance(ends, list) else [ends])
    greedy = used.temperature == 0 or used.num_beams > 1
    for field in SEARCH:
        stored, wanted = getattr(search, field), getattr(used, field)
        if field == "do_sample":
            wanted = wanted and not greedy
        # Older files have null for a setting that is off.
        assert stored == wanted or (wanted is None and stored in (0, 1)), field
    for field in SAMPLING if search.do_sample else ():
        assert getattr(search, field) == getattr(used, field), field
