"""Draws: the right distribution, transformers' warpers, and nothing counts but the row itself."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fakes import (
    END,
    GENERATION,
    PAD,
    VOCABULARY,
    FakeBackend,
    ids_of,
    make_bundle,
    next_token,
    number,
    open_bundle,
    signature,
    text_of,
    texts,
    write_jsonl,
    write_parquet,
)
from support.runs import BoomError, content, corpus, no_thread_left, rows_of

from engine.bundle.format import GenerationConfig
from engine.core.types import Ints, Ragged
from engine.errors import OtherRunError, SettingsError
from engine.generation import (
    DecodingOptions,
    GeneratedSequences,
    generate,
    generate_sequences,
    host_cache,
)
from engine.generation.sampling import draw, philox, uniform, warp
from engine.pipeline import Bundle
from engine.runner import coordinator

__all__ = ["corpus", "no_thread_left"]

DRAWING: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 9, "top_p": 0.9}


def lively(signature: int, so_far: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that leave much to chance."""
    drawn = np.random.default_rng(number(signature, so_far))
    logits = drawn.normal(0, 2, VOCABULARY).astype(np.float32)
    logits[END] += 1
    return logits


def expected(
    ids: tuple[int, ...], row: int, most: int, seed: int = 0, **given: Any
) -> tuple[list[int], bool]:
    """What sampling has to give for one row, token by token in plain float64."""
    search, so_far = GenerationConfig(**{**DRAWING, **given}), [PAD]
    while len(so_far) <= most and so_far[-1] != END:
        logits = lively(signature(ids), tuple(so_far)).astype(np.float64)
        ranked = np.argsort(-logits, kind="stable")[: search.top_k or None]
        shares = np.exp((logits[ranked] - logits.max()) / search.temperature)
        shares /= shares.sum()
        behind = shares[::-1].cumsum()[::-1]
        kept = (behind > 1 - search.top_p) & (shares >= search.min_p * shares[0])
        kept[0] = True
        order = np.argsort(ranked[kept])
        sums = shares[kept][order].cumsum()
        chance = float(uniform(seed, np.array([row]), np.array([len(so_far) - 1]))[0])
        at = np.searchsorted(sums, chance * sums[-1], side="right")
        so_far.append(int(ranked[kept][order][at]))
    return so_far[1:], so_far[-1] == END


def feeds_of(rows: list[tuple[int, ...]]) -> dict[str, Ints]:
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.full(mask.shape, PAD, np.int64)
    ids[mask == 1] = [token for row in rows for token in row]
    return {"input_ids": ids, "attention_mask": mask}


# random numbers


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_the_generator_gives_the_answers_that_its_authors_publish(
    counter: str, key: str, wanted: str
) -> None:
    words = np.array([int(word, 16) for word in counter.split()], np.uint64)[:, None]
    high, low = (int(word, 16) for word in key.split())
    found = philox(np.repeat(words, 3, axis=1), (high, low))
    assert (found == found[:, :1]).all()
    assert " ".join(f"{word:08x}" for word in found[:, 0]) == wanted


def test_random_numbers_are_even_and_strangers_to_their_neighbours() -> None:
    rows, steps = (grid.ravel() for grid in np.indices((500, 200)))
    found = uniform(7, rows, steps).reshape(500, 200)
    assert found.min() >= 0
    assert found.max() < 1
    assert len(np.unique(found)) == found.size
    counts = np.histogram(found, bins=100, range=(0, 1))[0]
    assert chi_square(counts, np.full(100, 0.01)) < 149  # 1 in 1,000 of 99 degrees of freedom
    others = [
        (found[:, 1:], found[:, :-1]),
        (found[1:], found[:-1]),
        (found, uniform(8, rows, steps).reshape(500, 200)),
    ]
    for one, other in others:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.012


def test_every_part_of_a_key_counts() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1 << 32, 0, 0), (0, 1 << 32, 0)]
    keys.append(((1 << 64) - 1, (1 << 63) - 1, (1 << 32) - 1))
    found = {float(uniform(s, np.array([r]), np.array([t]))[0]) for s, r, t in keys}
    assert len(found) == len(keys)


def chi_square(counts: NDArray[Any], shares: NDArray[Any]) -> float:
    wanted = counts.sum() * shares
    return float(((counts - wanted) ** 2 / wanted).sum())


# what is drawn


def test_tokens_come_as_often_as_they_are_likely() -> None:
    logits = np.random.default_rng(0).normal(0, 1, 20).astype(np.float32)
    logits[5] = -np.inf
    rows = np.arange(100_000)
    found = draw(np.tile(logits, (len(rows), 1)), uniform(0, rows, np.zeros_like(rows)))
    counts, shares = np.bincount(found, minlength=20), np.exp(logits.astype(np.float64))
    likely = np.delete(np.arange(20), 5)
    assert counts[5] == 0
    # 1 in 1,000 of 18 degrees of freedom.
    assert chi_square(counts[likely], shares[likely] / shares.sum()) < 42.3


@pytest.mark.parametrize("top_k", [0, 6])
def test_decoded_tokens_come_as_often_as_they_are_likely(top_k: int) -> None:
    logits = np.random.default_rng(1).normal(0, 1, VOCABULARY).astype(np.float32)
    kept = np.sort(np.argsort(-logits)[: top_k or None])
    search = GenerationConfig(do_sample=True, temperature=1.5, top_k=top_k)
    backend = FakeBackend(logits=lambda sign, so_far: logits)
    rows = [(5 + i % 40, END) for i in range(4000)]
    tokens, _ = generate(backend, feeds_of(rows), GENERATION, search, max_new_tokens=1, seed=3)
    counts = np.bincount(tokens.values, minlength=VOCABULARY)
    assert counts[kept].sum() == 4000
    shares = np.exp(logits[kept].astype(np.float64) / 1.5)
    degrees = len(kept) - 1
    bound = degrees + 3.1 * np.sqrt(2 * degrees) + 7  # about 1 in 1,000
    assert chi_square(counts[kept], shares / shares.sum()) < bound


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5, np.nextafter(1, 0)])
def test_no_chance_falls_on_a_token_that_is_out(chance: float) -> None:
    out = np.float32(-np.inf)
    scores = np.array([[out, 1, out, 1, out]], np.float32)
    assert draw(scores, np.array([chance])).tolist() == [1 if chance < 0.5 else 3]
    uneven = np.tile(np.float32([out, 0.1, -9, -50, -90, out]), (50, 1))
    uneven[:, 1] += np.arange(50, dtype=np.float32) / 7
    assert np.isin(draw(uneven, np.full(50, chance)), [1, 2, 3]).all()


def test_where_every_token_is_out_greedy_search_has_the_same_one() -> None:
    nothing = np.full((2, 5), -np.inf, np.float32)
    search = GenerationConfig(do_sample=True, temperature=0.5, top_p=0.5, min_p=0.1)
    assert draw(warp(nothing, search), np.array([0.3, 0.9])).tolist() == [0, 0]


# transformers' warpers


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 20, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3, 0.001])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_warpers_leave_what_transformers_leaves(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    seed = number(temperature, top_k, top_p, min_p)
    logits = np.random.default_rng(seed).normal(0, 3, (40, 300)).astype(np.float32)
    theirs = torch.from_numpy(logits.copy())
    if temperature != 1:
        theirs = process.TemperatureLogitsWarper(temperature)(None, theirs)
    if top_k:
        theirs = process.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = process.TopPLogitsWarper(top_p)(None, theirs)
    wanted = process.MinPLogitsWarper(min_p)(None, theirs).softmax(dim=-1).numpy()
    least = np.sort(logits, axis=1)[:, [-top_k if 0 < top_k < 300 else 0]]
    search = GenerationConfig(do_sample=True, temperature=temperature, top_p=top_p, min_p=min_p)
    found = warp(np.where(logits >= least, logits, np.float32(-np.inf)), search)
    assert ((found > -np.inf) == (wanted > 0)).all()
    shares = np.exp(found - found.max(axis=1, keepdims=True))
    np.testing.assert_allclose(shares / shares.sum(axis=1, keepdims=True), wanted, atol=1e-6)


def test_equal_logits_at_the_edge_of_top_p_are_parted_as_in_transformers() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = np.tile(np.float32([1, 0, 1, 0, 1, 0]), (3, 1))
    for top_p in (0.1, 0.5, 0.7, 0.9):
        wanted = process.TopPLogitsWarper(top_p)(None, torch.from_numpy(logits)).numpy()
        assert (warp(logits, GenerationConfig(top_p=top_p)) == wanted).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_a_temperature_near_0_is_greedy(temperature: float) -> None:
    search = GenerationConfig(do_sample=True, temperature=temperature, top_k=0)
    assert tokens_of(search) == tokens_of(GenerationConfig())


@pytest.mark.parametrize("rules", [{}, {"repetition_penalty": 1.3}], ids=["", "rules"])
def test_top_k_1_is_greedy(rules: dict[str, Any]) -> None:
    assert tokens_of(GenerationConfig(do_sample=True, top_k=1, **rules)) == tokens_of(
        GenerationConfig(**rules)
    )


def tokens_of(search: GenerationConfig, **given: Any) -> list[list[int]]:
    """Of 30 rows."""
    rows, backend = [ids_of(text) for text in texts(30)], FakeBackend(logits=lively)
    tokens, _ = generate(backend, feeds_of(rows), GENERATION, search, max_new_tokens=6, **given)
    return [own.tolist() for own in np.split(tokens.values, tokens.offsets[1:-1])]


@pytest.mark.parametrize(
    "given",
    [{}, {"top_k": 0}, {"top_k": 0, "top_p": 0.4}, {"top_k": 99, "min_p": 0.2}, {"seed": 5}],
    ids=str,
)
def test_draws_are_what_plain_arithmetic_gives(given: dict[str, Any]) -> None:
    seed = given.get("seed", 0)
    search = GenerationConfig(**{**DRAWING, **{n: v for n, v in given.items() if n != "seed"}})
    wanted = [expected(ids_of(text), i, 6, **given)[0] for i, text in enumerate(texts(30))]
    assert tokens_of(search, seed=seed) == wanted


def test_rules_that_change_nothing_change_no_draw() -> None:
    search = GenerationConfig(**DRAWING)
    idle = dataclasses.replace(search, bad_words_ids=((VOCABULARY - 1,) * 30,))
    assert tokens_of(search) == tokens_of(idle)


def sequences_of(count: int, **given: Any) -> GeneratedSequences:
    """`count` of each of 30 rows."""
    rows, backend = [ids_of(text) for text in texts(30)], FakeBackend(logits=lively)
    search = GenerationConfig(**DRAWING, num_return_sequences=count)
    how = DecodingOptions(max_new_tokens=6, scored=True, **given)
    return generate_sequences(backend, feeds_of(rows), GENERATION, search, how)


def split(values: Ragged) -> list[list[Any]]:
    return [own.tolist() for own in np.split(values.values, values.offsets[1:-1])]


def test_several_draws_of_a_row_do_not_depend_on_how_many_there_are() -> None:
    """The first is what a single one is."""
    single = tokens_of(GenerationConfig(**DRAWING))
    five, two = (split(sequences_of(count).tokens) for count in (5, 2))
    assert five[::5] == two[::2] == single
    assert [tokens for n, tokens in enumerate(five) if n % 5 < 2] == two
    assert len({tuple(tokens) for tokens in five[:5]}) > 1
    flat = sequences_of(3)
    assert len(flat.tokens) == len(flat.ended) == len(flat.scores) == 90


def test_a_row_may_have_a_seed_of_its_own() -> None:
    rows = len(texts(30))
    seeds = np.arange(rows, dtype=np.uint64) + np.uint64(2**63)
    mine = split(sequences_of(1, seed=seeds).tokens)
    for n in (0, 7, rows - 1):
        assert mine[n] == split(sequences_of(1, seed=int(seeds[n])).tokens)[n]


def test_scores_of_draws_are_of_what_was_drawn_from() -> None:
    mine = sequences_of(2)
    search = GenerationConfig(**DRAWING)
    for n, (tokens, logprobs) in enumerate(
        zip(split(mine.tokens), split(mine.logprobs), strict=True)
    ):
        sign, so_far = signature(ids_of(texts(30)[n // 2])), (PAD,)
        wanted = []
        for token in tokens:
            logits = lively(sign, so_far).copy()
            logits[np.argsort(-logits, kind="stable")[search.top_k :]] = -np.inf
            left = warp(logits[None], search)[0].astype(np.float64)
            wanted.append(left[token] - np.log(np.exp(left - left.max()).sum()) - left.max())
            so_far = (*so_far, token)
        np.testing.assert_allclose(logprobs, wanted, atol=1e-5)
        assert mine.scores[n] == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)


def test_no_more_than_top_k_tokens_leave_the_graph() -> None:
    backend, asked = FakeBackend(logits=lively), []
    buffer = backend.buffer

    def listened(shape: Any, dtype: Any, old: Any = None) -> Any:
        asked.append(shape)
        return buffer(shape, dtype, old)

    backend.buffer = listened  # type: ignore[method-assign]
    generate(
        backend, feeds_of([ids_of("w1")]), GENERATION, GenerationConfig(**DRAWING), max_new_tokens=3
    )
    assert (1, 9) in asked


# nothing else counts


def test_slots_and_arrival_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ids_of(text) for text in texts(70)]
    wanted = [expected(row, 100 + 3 * i, 8) for i, row in enumerate(rows)]
    for count in (1, 7, 64):
        monkeypatch.setattr(host_cache, "SLOTS", range(count, count + 1))
        for order in (list(range(70)), random.Random(count).sample(range(70), 70)):
            tokens, ended = generate(
                FakeBackend(logits=lively), feeds_of([rows[i] for i in order]), GENERATION,
                GenerationConfig(**DRAWING), max_new_tokens=8,
                numbers=np.array([100 + 3 * i for i in order]),
                batch_tokens=7 * count,
            )  # fmt: skip
            found = [own.tolist() for own in np.split(tokens.values, tokens.offsets[1:-1])]
            assert list(zip(found, ended.tolist(), strict=True)) == [wanted[i] for i in order]


FIRST = {"a": 0, "b": 40, "c": 80, "d": 100, "f": 130}
SMALL: dict[str, Any] = {"window": 16, "batch_tokens": 64, "keep": ("id",), "workers": 2}
TASK = "text2text-generation"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", TASK)


def go(bundle: Path, inputs: Path, out: Path, before: Any = None, **settings: Any) -> Any:
    backend = FakeBackend(logits=lively, before=before or (lambda call: None))
    given = SMALL | DRAWING | {"max_new_tokens": 6, "on_error": "reject"} | settings
    return coordinator.run(open_bundle(bundle, backend), inputs, out, **given)


def test_windows_splits_batches_and_workers_do_not_count(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    said = dict(enumerate(texts(150, seed=3)))
    wanted = {}
    for i, text in said.items():
        row = i - max(first for first in FIRST.values() if first <= i)
        wanted[i] = text_of(expected(ids_of(text), row, 6)[0])
    for name, settings in {
        "plain": {},
        "one by one": {"window": 1},
        "small": {"window": 7, "batch_tokens": 1, "workers": 3},
        "large": {"window": 5000, "batch_tokens": 100_000, "workers": 1},
        "split": {"split_size": 200},
    }.items():
        report = go(bundle, corpus, tmp_path / name, **settings)
        found = {row["id"]: row["generated_text"] for row in rows_of(tmp_path / name, report)}
        assert len(found) == 145
        assert {i: wanted[i] for i in found} == found, name


@pytest.mark.parametrize("call", [0, 9, 60])
def test_a_run_that_broke_and_went_on_draws_the_same(
    tmp_path: Path, bundle: Path, corpus: Path, call: int
) -> None:
    def before(number: int) -> None:
        if number >= call:
            raise BoomError("a graph broke")

    go(bundle, corpus, tmp_path / "whole")
    with pytest.raises(BoomError):
        go(bundle, corpus, tmp_path / "out", before)
    go(bundle, corpus, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_file_answers_as_a_list_in_memory_does(tmp_path: Path, bundle: Path) -> None:
    given = texts(40, seed=8)
    options = {**DRAWING, "max_new_tokens": 6, "seed": 4}
    found = open_bundle(bundle, FakeBackend(logits=lively))(given, **options)
    assert found["generated_text"].to_pylist() == [
        text_of(expected(ids_of(text), i, 6, seed=4)[0]) for i, text in enumerate(given)
    ]
    write_jsonl(tmp_path / "a.jsonl", given)
    write_parquet(tmp_path / "b.parquet", given, group=7)
    for name in ("a.jsonl", "b.parquet"):
        report = go(bundle, tmp_path / name, tmp_path / f"{name}-out", seed=4)
        told = [row["generated_text"] for row in rows_of(tmp_path / f"{name}-out", report)]
        assert told == found["generated_text"].to_pylist()


def test_windows_in_memory_count_on(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, options = texts(40, seed=9), {**DRAWING, "max_new_tokens": 6}
    model = open_bundle(bundle, FakeBackend(logits=lively))
    whole = model(given, **options)
    model.task = dataclasses.replace(model.task, window=lambda options: 7)
    assert model(given, **options).equals(whole)


def test_another_seed_gives_another_answer_and_another_run(tmp_path: Path, bundle: Path) -> None:
    given = texts(40, seed=2)
    model = open_bundle(bundle, FakeBackend(logits=lively))
    options = {**DRAWING, "max_new_tokens": 6}
    found = [model(given, **options, seed=seed).to_pylist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    path = write_jsonl(tmp_path / "a.jsonl", given)
    go(bundle, path, tmp_path / "out", seed=1)
    with pytest.raises(OtherRunError, match="seed 1"):
        go(bundle, path, tmp_path / "out", seed=2)


def test_rows_of_one_text_draw_each_their_own(bundle: Path) -> None:
    model = open_bundle(bundle, FakeBackend(logits=lively))
    found = model(["w1 w2"] * 30, **DRAWING, max_new_tokens=6)["generated_text"].to_pylist()
    assert len(set(found)) > 10
    greedy = model(["w1 w2"] * 30, do_sample=False, max_new_tokens=6)["generated_text"]
    assert len(set(greedy.to_pylist())) == 1


def test_without_do_sample_nothing_is_draw(bundle: Path) -> None:
    given = {**DRAWING, "do_sample": False, "max_new_tokens": 4}
    found = open_bundle(bundle)(["w1 w2", "w3"], **given)["generated_text"].to_pylist()
    first = next_token(signature(ids_of("w1 w2")), [PAD])
    assert found[0].split()[:1] == text_of([first]).split()
    assert (
        open_bundle(bundle)(["w1 w2", "w3"], max_new_tokens=4, seed=9)["generated_text"].to_pylist()
        == found
    )


def test_equal_rows_draw_for_themselves(tiny_bundles: Path) -> None:
    model = Bundle.load(tiny_bundles / "t5", threads=1)
    given = ["a house by the sea"] * 20
    drawn = model(given, do_sample=True, num_beams=1, max_new_tokens=12)
    assert len(set(drawn["translation_text"].to_pylist())) > 10
    assert len(set(model(given, max_new_tokens=12)["translation_text"].to_pylist())) == 1


@pytest.mark.parametrize("name", ["t5", "t5-int8"])
def test_a_real_decoder_draws_the_same_in_any_company(tiny_bundles: Path, name: str) -> None:
    model = Bundle.load(tiny_bundles / name, threads=1)
    given = ["a house by the sea", "two dogs", "", "the train is late again today"] * 5
    options = {"do_sample": True, "num_beams": 1, "max_new_tokens": 12, "seed": 3}
    for more in ({}, {"top_k": 0, "top_p": 0.9}, {"top_k": 10**6}, {"repetition_penalty": 1.2}):
        whole = model(given, **options, **more).to_pylist()
        assert len({row["translation_text"] for row in whole}) > 10
        for count in (1, 3, 11):
            assert model(given[:count], **options, **more).to_pylist() == whole[:count]
    greedy = model(given, num_beams=1, max_new_tokens=12)
    assert model(given, **options, top_k=1).equals(greedy)
    assert model(given, **options, top_k=0, temperature=1e-9).equals(greedy)


# what is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"do_sample": "perhaps"}, "do_sample"),
        ({"do_sample": True, "num_beams": 2}, "do_sample is given with num_beams 2"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused_by_name(
    bundle: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        open_bundle(bundle)(["w1"], **given)
    assert caught.value.hint


def test_edges_of_what_can_be_drawn_are_taken(bundle: Path) -> None:
    options = {"do_sample": True, "top_p": 1, "min_p": 1, "top_k": 0, "seed": (1 << 64) - 1}
    assert open_bundle(bundle)(["w1"], **options, temperature=1).num_rows == 1
