"""translation, summarization, text2text-generation and text-generation against the pipelines."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.errors import SettingsError

pytest.importorskip("optimum.exporters.onnx")

ROWS = 200
# An empty text, spaces, one character, emoji, combining marks, right to left, zero width, controls.
EDGES = [
    "",
    "   ",
    "x",
    "🎉👩‍👩‍👧 e\u0301 n\u0303",
    "שלום עולם",
    "a\u200bb\u200d\ufeffc",
    "one\ttwo\r\nthree\n",
]


def captions() -> list[str]:
    """English sentences: real ones beside the checkout, else made ones."""
    if SHARED.is_dir():
        with gzip.open(SHARED / "data/multi30k/val.en.gz", "rt", encoding="utf-8") as stream:
            return [line.strip() for line in stream][:ROWS]
    return made(ROWS, 3, 12)


def abstracts() -> list[str]:
    """Longer texts, cut at some words so that small models keep up."""
    if SHARED.is_dir():
        lines = (SHARED / "data/scitldr/dev.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [" ".join(json.loads(line)["source"]) for line in lines]
        return [" ".join(text.split()[: 10 + i % 40]) for i, text in enumerate(texts)][:ROWS]
    return made(ROWS, 10, 40)


def made(rows: int, least: int, most: int) -> list[str]:
    draw = random.Random(0)
    words = " ".join(checkpoints.SENTENCES).split()
    return [" ".join(draw.choices(words, k=draw.randint(least, most))) for _ in range(rows)]


def lively_t5(folder: Path) -> Path:
    # initializer_factor 2: a random T5 of the usual scale repeats one token.
    return checkpoints.t5(folder, initializer_factor=2.0)


def fifty(folder: Path) -> Path:
    return checkpoints.mbart(folder, fifty=True, init_std=0.5)


def marian(folder: Path) -> Path:
    return checkpoints.marian(folder, init_std=0.6)


def pegasus(folder: Path) -> Path:
    return checkpoints.pegasus(folder, init_std=0.6)


# family, how it is made, the task as asked, column, rows
PAIRS: dict[str, tuple[Callable[[Path], Path], str, str, Callable[[], list[str]]]] = {
    "translation-t5": (lively_t5, "translation_en_to_de", "translation_text", captions),
    "translation-marian": (marian, "translation", "translation_text", captions),
    "summarization-bart": (checkpoints.bart, "summarization", "summary_text", abstracts),
    "summarization-pegasus": (pegasus, "summarization", "summary_text", abstracts),
    "text2text-mt5": (checkpoints.mt5, "text2text-generation", "generated_text", captions),
    "text2text-bart": (checkpoints.bart, "text2text-generation", "generated_text", captions),
    "generation-gpt2": (checkpoints.gpt2, "text-generation", "generated_text", captions),
    "generation-opt": (checkpoints.opt, "text-generation", "generated_text", captions),
}
# The rest of the README's table, of some rows only.
SOME: dict[str, tuple[Callable[[Path], Path], str, str, Callable[[], list[str]]]] = {
    "translation-mbart50": (fifty, "translation_en_XX_to_de_DE", "translation_text", captions),
    "translation-mbart25": (
        checkpoints.mbart, "translation_en_XX_to_ro_RO", "translation_text", captions
    ),
    "translation-nllb": (
        checkpoints.nllb, "translation_eng_Latn_to_fra_Latn", "translation_text", captions
    ),
    "translation-mt5": (checkpoints.mt5, "translation", "translation_text", captions),
    "translation-bart": (checkpoints.bart, "translation", "translation_text", captions),
    "summarization-t5": (lively_t5, "summarization", "summary_text", captions),
    "summarization-mt5": (checkpoints.mt5, "summarization", "summary_text", captions),
    "text2text-t5": (lively_t5, "text2text-generation", "generated_text", captions),
    "text2text-marian": (marian, "text2text-generation", "generated_text", captions),
    "text2text-pegasus": (pegasus, "text2text-generation", "generated_text", captions),
}  # fmt: skip
PAIRS |= SOME
LIMIT: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture(scope="module")
def opened() -> Callable[[str], tuple[engine.Bundle, Any]]:
    """(bundle, pipeline) of a pair, exported when first asked for."""
    from transformers import pipeline

    ready: dict[str, tuple[engine.Bundle, Any]] = {}

    def get(name: str) -> tuple[engine.Bundle, Any]:
        if name not in ready:
            make, task, _, _ = PAIRS[name]
            checkpoint = checkpoint_of(make)
            asked = "translation" if codes(task) else task
            pipe = pipeline(asked, model=str(checkpoint), dtype="float32", device="cpu")
            ready[name] = engine.Bundle.load(bundle_of(checkpoint, task)), pipe
        return ready[name]

    return get


def codes(task: str) -> dict[str, str]:
    """Language codes in a task's name, which the pipeline takes beside it."""
    source, _, target = task.removeprefix("translation_").partition("_to_")
    return {"src_lang": source, "tgt_lang": target} if "_" in source else {}


def reference(name: str, pipe: Any, texts: list[str], **settings: Any) -> list[str]:
    """What the pipeline says of each text, one at a time."""
    _, task, column, _ = PAIRS[name]
    given: dict[str, Any] = {**LIMIT, **settings}
    if task != "text-generation":
        given["truncation"] = True
    given |= codes(task)
    found = (pipe(text, **given) for text in texts)
    return [answer[0][column] for answer in found]


@pytest.mark.parametrize("name", PAIRS)
def test_answers_are_the_pipelines(opened: Any, name: str) -> None:
    bundle, pipe = opened(name)
    column, texts = PAIRS[name][2], PAIRS[name][3]()
    texts = texts[:20] if name in SOME else texts
    texts += [edge for edge in EDGES if edge or "generation-" not in name]
    found = bundle(texts, **LIMIT).to_pylist()
    wanted = reference(name, pipe, texts)
    differing = [i for i, row in enumerate(found) if row[column] != wanted[i]]
    assert not differing, f"{len(differing)} of {len(texts)} rows, such as {differing[:5]}"
    assert len(set(wanted)) > (1 if name in SOME else 10), "the model says the same of everything"
    assert {row["output_tokens"] for row in found if row["finish_reason"] == "length"} <= {12}


@pytest.mark.parametrize("name", ["translation-t5", "summarization-bart", "generation-gpt2"])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True},
        {"num_beams": 1, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
        {"num_beams": 2, "min_new_tokens": 6},
    ],
    ids=str,
)
def test_settings_mean_what_they_mean_there(
    opened: Any, name: str, settings: dict[str, Any]
) -> None:
    bundle, pipe = opened(name)
    texts = PAIRS[name][3]()[:25]
    found = bundle(texts, **LIMIT, **settings)[PAIRS[name][2]].to_pylist()
    assert found == reference(name, pipe, texts, **settings)


@pytest.mark.parametrize("name", ["translation-mbart50", "summarization-bart", "generation-opt"])
def test_a_row_does_not_depend_on_its_batch(opened: Any, name: str) -> None:
    bundle, _ = opened(name)
    texts = PAIRS[name][3]()[:40]
    whole = bundle(texts, **LIMIT).to_pylist()
    assert [bundle([text], **LIMIT).to_pylist()[0] for text in texts] == whole
    order = random.Random(0).sample(range(40), 40)
    assert bundle([texts[i] for i in order], **LIMIT).to_pylist() == [whole[i] for i in order]


def test_buffers_are_kept_for_the_next_call(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _ = opened("translation-mbart50")
    texts = PAIRS["translation-mbart50"][3]()[:10]
    answers = bundle(texts, **LIMIT)
    buffer, fresh = bundle.backend.buffer, []

    def asked(shape: Any, dtype: Any, old: Any) -> Any:
        fresh.append(old is None)
        return buffer(shape, dtype, old)

    monkeypatch.setattr(bundle.backend, "buffer", asked)
    assert bundle(texts, **LIMIT).equals(answers)
    assert not any(fresh)
    bundle(texts[:6], **LIMIT)  # fewer slots: the beginnings of the same buffers
    assert fresh
    assert not any(fresh)


def test_20_000_characters_are_cut_and_answered(opened: Any) -> None:
    for name in ("translation-t5", "summarization-bart", "generation-gpt2"):
        bundle, _ = opened(name)
        (row,) = bundle(["word " * 4000], **LIMIT).to_pylist()
        assert row["output_tokens"] > 0


def test_a_long_prompt_keeps_its_end(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, pipe = opened("generation-gpt2")
    text = "word " * 900 + "Two people walked"
    monkeypatch.setattr(pipe.tokenizer, "model_max_length", 512)
    wanted = pipe(text, handle_long_generation="hole", **LIMIT)
    kept = {"return_full_text": False}
    assert len(wanted[0]["generated_text"]) >= len(text)
    (row,) = bundle([text], **LIMIT, **kept).to_pylist()
    assert wanted[0]["generated_text"].endswith(row["generated_text"])


def test_an_empty_prompt_starts_from_the_token_that_begins_texts(opened: Any) -> None:
    bundle, pipe = opened("generation-gpt2")
    (row,) = bundle([""], **LIMIT).to_pylist()
    assert row["generated_text"] == reference("generation-gpt2", pipe, [""])[0]


def test_the_prompt_may_be_left_out(opened: Any) -> None:
    bundle, pipe = opened("generation-opt")
    texts = captions()[:10]
    found = bundle(texts, return_full_text=False, **LIMIT)["generated_text"].to_pylist()
    assert found == reference("generation-opt", pipe, texts, return_full_text=False)


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_texts_end_a_row_where_transformers_ends_it(opened: Any, beams: int) -> None:
    bundle, pipe = opened("generation-gpt2")
    texts = captions()[:30]
    whole = bundle(texts, return_full_text=False, **LIMIT)["generated_text"].to_pylist()
    stops = sorted({text[3:5] for text in whole if len(text) > 6})[:4]
    wanted = reference(
        "generation-gpt2",
        pipe,
        texts,
        stop_strings=stops,
        tokenizer=pipe.tokenizer,
        return_full_text=False,
        num_beams=beams,
    )
    stopping: dict[str, Any] = {"stop": tuple(stops), "num_beams": beams, **LIMIT}
    found = bundle(texts, return_full_text=False, **stopping)
    assert found["generated_text"].to_pylist() == wanted
    assert wanted != whole
    ended = found["finish_reason"].to_pylist()
    assert all(
        reason == "stop" for text, reason in zip(wanted, ended, strict=True) if text[-2:] in stops
    )


@pytest.mark.parametrize("name", ["translation-t5", "summarization-bart", "generation-gpt2"])
def test_several_sequences_are_the_pipelines_best_first(opened: Any, name: str) -> None:
    bundle, pipe = opened(name)
    column, texts = PAIRS[name][2], PAIRS[name][3]()[:12]
    given: dict[str, Any] = {**LIMIT, "num_beams": 4, "num_return_sequences": 3}
    more = {"return_scores": True, "return_logprobs": True, "return_prompt_tokens": True}
    found = bundle(texts, **given, **more)
    cut = {} if name.startswith("generation") else {"truncation": True}
    for text, row in zip(texts, found.to_pylist(), strict=True):
        records = pipe(text, **given, **cut)
        assert row[column] == [record[column] for record in records]
        assert len(row["output_tokens"]) == len(row["finish_reason"]) == 3
        assert row["score"] == sorted(row["score"], reverse=True)
        assert [len(tokens) for tokens in row["token_logprobs"]] == row["output_tokens"]
        prefix = bundle.model_config.prefix
        assert row["prompt_tokens"] == len(pipe.tokenizer(prefix + text, **cut).input_ids)
    (alone,), (among,) = (
        table.to_pylist() for table in (bundle(texts[3:4], **given, **more), found.slice(3, 1))
    )
    assert alone[column] == among[column]
    # Sums of another order, where more rows are multiplied at once.
    np.testing.assert_allclose(alone["score"], among["score"], atol=1e-4)
    # One sequence has plain columns.
    given |= {"num_return_sequences": 1}
    single = bundle(texts, **given, return_scores=True).to_pylist()
    assert [row[column] for row in single] == [row[0] for row in found[column].to_pylist()]
    scores = [row[0] for row in found["score"].to_pylist()]
    np.testing.assert_allclose([row["score"] for row in single], scores, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["translation-t5", "summarization-bart", "generation-gpt2"])
def test_a_limit_that_follows_the_text(opened: Any, name: str, beams: int) -> None:
    bundle, pipe = opened(name)
    column, texts = PAIRS[name][2], [*PAIRS[name][3]()[:12], "La"]
    given = {"max_new_tokens": "0.5x+2", "num_beams": beams, "do_sample": False}
    found = bundle(texts, **given)[column].to_pylist()
    prefix, wanted = bundle.model_config.prefix, []
    cut = {} if name.startswith("generation") else {"truncation": True}
    for text in texts:
        limit = len(pipe.tokenizer(prefix + text, **cut).input_ids) // 2 + 2
        wanted += reference(name, pipe, [text], max_new_tokens=limit, num_beams=beams)
    assert found == wanted


def test_another_language_is_asked_for_at_the_run(opened: Any) -> None:
    bundle, pipe = opened("translation-mbart50")
    texts = captions()[:20]
    found = bundle(texts, src_lang="fr_XX", tgt_lang="en_XX", **LIMIT)["translation_text"]
    given = {"src_lang": "fr_XX", "tgt_lang": "en_XX", "truncation": True, **LIMIT}
    wanted = [pipe(text, **given)[0]["translation_text"] for text in texts]
    assert found.to_pylist() == wanted


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("translation-mbart50", {"tgt_lang": "xx"}, "unknown tgt_lang 'xx'"),
        ("translation-t5", {"tgt_lang": "de"}, "uses no language codes"),
        ("summarization-bart", {"max_new_tokens": 513}, "512 positions"),
        ("generation-gpt2", {"max_new_tokens": 512}, "no positions for a prompt"),
        ("generation-gpt2", {"num_return_sequences": 3, "num_beams": 2}, "num_beams 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    opened: Any, name: str, settings: dict[str, Any], says: str
) -> None:
    bundle, _ = opened(name)
    with pytest.raises(SettingsError, match=says):
        bundle(["x"], **settings)
