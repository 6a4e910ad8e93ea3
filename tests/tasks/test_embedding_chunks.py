"""Long texts for embedding: chunks alone, and late chunking."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

import engine
from engine.bundle.chunking import Grid
from engine.bundle.cleaning import origins
from engine.errors import SettingsError

SENTENCE = "a man in a blue shirt is standing on a ladder and cleaning a window "
LONG = (SENTENCE * 9).strip()
TEXTS = ["a dog runs.", "", LONG, SENTENCE, "no", SENTENCE * 3 + "dog", "  \u00a0"]
POOLED = ("mean", "max", "weightedmean", "last", "max+mean")


def prompted(folder: Path, **pooling: Any) -> Path:
    """An embedder with a prompt, mean pooling and lengths of 1."""
    checkpoints.embedder(folder)
    config = {"prompts": {"query": "find a man : "}}
    checkpoints.write_json(folder / "config_sentence_transformers.json", config)
    checkpoints.edit_json(folder / "1_Pooling/config.json", **pooling)
    return folder


@pytest.fixture(scope="module")
def folder() -> Path:
    pytest.importorskip("optimum.exporters.onnx")
    return checkpoint_of(prompted)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> engine.Bundle:
    return engine.Bundle.load(bundle_of(folder, None), device="cpu")


def _vectors(table: pa.Table) -> list[np.ndarray]:
    return [np.array(row, np.float32) for row in table["embedding"].to_pylist()]


def _states(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([ids])).last_hidden_state[0])


def _pooled(states: np.ndarray, pooling: str) -> np.ndarray:
    """Mean or another pooling of states (tokens, d), scaled to length 1."""
    ranks = np.arange(1, len(states) + 1)[:, None]
    parts = {
        "mean": states.mean(0), "max": states.max(0), "last": states[-1],
        "weightedmean": (states * ranks).sum(0) / ranks.sum(),
    }  # fmt: skip
    vector = np.concatenate([parts[name] for name in pooling.split("+")])
    return vector / np.linalg.norm(vector)


@given(st.integers(1, 9), st.integers(0, 8), st.integers(1, 5), st.integers(0, 60))
def test_chunks_cover_a_text_and_sequences_hold_whole_chunks(
    size: int, overlap: int, together: int, length: int
) -> None:
    grid = Grid(size, max(size - overlap, 1), together)
    (count,) = grid.counts(np.array([length]))
    spans = [(n * grid.step, min(n * grid.step + size, length)) for n in range(count)]
    assert spans[-1][1] == length
    assert all(after <= stop for (_, stop), (after, _) in itertools.pairwise(spans))
    for first in range(0, count, together):
        group = spans[first : first + together]
        tokens = group[-1][1] - group[0][0]
        assert grid.counts(np.array([tokens]))[0] == len(group)


@pytest.mark.parametrize("chunk", ["tokens", "late"])
@pytest.mark.parametrize("pooling", POOLED)
def test_a_short_text_has_the_vector_it_has_without_chunks(
    bundle: engine.Bundle, chunk: str, pooling: str
) -> None:
    short = ["a dog runs.", "", "no", "  \u00a0", " a man in a shirt\n"]
    for options in ({}, {"prompt": "query"}, {"dimensions": 8}):
        shared: dict[str, Any] = {"pooling": pooling, **options}
        plain = np.stack(_vectors(bundle(short, **shared)))
        made = _vectors(bundle(short, chunk=chunk, chunk_size=24, **shared))
        assert [len(row) for row in made] == [1] * len(short)
        assert (np.concatenate(made) == plain).all()
        mean = bundle(short, chunk=chunk, chunk_size=24, chunk_mean=True, **shared)
        assert (np.stack(_vectors(mean)) == plain).all()


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (0, 7), (20, 5), (13, 12), (1, 0)])
def test_chunks_are_texts_of_their_own(
    folder: Path, bundle: engine.Bundle, size: int, overlap: int
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("find a man :", add_special_tokens=False).input_ids
    options: dict[str, Any] = {"chunk": "tokens", "chunk_size": size, "overlap": overlap}
    made = _vectors(bundle([LONG], prompt="query", **options))[0]
    tokens = tokenizer(LONG, add_special_tokens=False).input_ids
    size = size or 48 - 2 - len(prompt)
    starts = range(0, len(tokens) - overlap, size - overlap)
    assert len(made) == len(starts)
    for vector, start in list(zip(made, starts, strict=True))[:: max(len(made) // 5, 1)]:
        ids = [2, *prompt, *tokens[start : start + size], 3]
        np.testing.assert_allclose(vector, _pooled(_states(folder, ids), "mean"), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLED)
def test_late_chunks_are_spans_of_one_pass(
    folder: Path, bundle: engine.Bundle, pooling: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("find a man :", add_special_tokens=False).input_ids
    tokens = tokenizer(LONG, add_special_tokens=False).input_ids
    size, overlap = 11, 3
    step = size - overlap
    together = (46 - len(prompt) - size) // step + 1
    options: dict[str, Any] = {"chunk": "late", "chunk_size": size, "overlap": overlap}
    made = _vectors(bundle([LONG], prompt="query", pooling=pooling, **options))[0]
    starts = list(range(0, len(tokens) - overlap, step))
    assert len(made) == len(starts)
    for first in range(0, len(starts), together):
        group = starts[first : first + together]
        part = tokens[group[0] : group[-1] + size]
        states = _states(folder, [2, *prompt, *part, 3])
        for n, start in enumerate(group):
            begin = 1 + len(prompt) + start - group[0] if n else 0
            end = None if n == len(group) - 1 else 1 + len(prompt) + start - group[0] + size
            wanted = _pooled(states[begin:end], pooling)
            np.testing.assert_allclose(made[first + n], wanted, atol=1e-5)


@pytest.mark.parametrize("options", [{"chunk": "tokens"}, {"chunk": "late", "chunk_size": 7}])
def test_chunks_do_not_depend_on_the_other_rows(
    bundle: engine.Bundle, options: dict[str, Any]
) -> None:
    together = bundle(TEXTS, overlap=2, dtype="float32", **options)
    for n, text in enumerate(TEXTS):
        alone = bundle([text], overlap=2, dtype="float32", **options)
        np.testing.assert_allclose(_vectors(alone)[0], _vectors(together)[n], atol=1e-6)
        assert alone["start"].to_pylist() == [together["start"][n].as_py()]


def test_spans_are_characters_of_the_text(bundle: engine.Bundle) -> None:
    texts = [f"  {LONG}\n", LONG, "", "a dog"]
    for prompt in ("", "query"):
        made = bundle(texts, chunk="tokens", chunk_size=10, prompt=prompt)
        for text, starts, ends in zip(
            texts, made["start"].to_pylist(), made["end"].to_pylist(), strict=True
        ):
            pieces = [text[a:b] for a, b in zip(starts, ends, strict=True)]
            assert "".join(pieces).replace(" ", "") == "".join(text.split())


def test_spans_of_lower_cased_texts_are_characters_of_the_text(tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    model = tmp_path / "model"
    shutil.copytree(checkpoint_of(prompted), model)
    checkpoints.edit_json(model / "sentence_bert_config.json", do_lower_case=True)
    loaded = engine.Bundle.load(bundle_of(model, None), device="cpu")
    text = " İİ A dog İ runs İ , a MAN"
    made = loaded([text], chunk="tokens", chunk_size=1)
    spans = zip(made["start"][0].as_py(), made["end"][0].as_py(), strict=True)
    pieces = [text[a:b] for a, b in spans]
    assert "".join(pieces) == text.replace(" ", "")
    assert origins("İb").tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_chunks_are_stored_as_asked(bundle: engine.Bundle, dtype: str) -> None:
    plain = _vectors(bundle([LONG], chunk="tokens"))[0]
    made = bundle([LONG], chunk="tokens", dtype=dtype)
    vectors = np.array(made["embedding"][0].as_py())
    if dtype == "binary":
        assert (np.unpackbits(vectors.astype(np.uint8), axis=1) == (plain > 0)).all()
        return
    scale = np.array(made["scale"][0].as_py())[:, None] if dtype == "int8" else 1
    np.testing.assert_allclose(vectors * scale, plain, atol=5e-3)


def test_the_mean_of_chunks_is_scaled_again(bundle: engine.Bundle) -> None:
    for options in ({"chunk": "tokens"}, {"chunk": "late", "chunk_size": 9}):
        lists = _vectors(bundle(TEXTS, normalize=True, **options))
        means = np.stack(_vectors(bundle(TEXTS, chunk_mean=True, **options)))
        for vectors, mean in zip(lists, means, strict=True):
            wanted = vectors.mean(0)
            np.testing.assert_allclose(mean, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_a_prompt_that_is_not_pooled_is_in_no_chunk(tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    model = checkpoint_of(prompted, include_prompt=False)
    loaded = engine.Bundle.load(bundle_of(model, None), device="cpu")
    short = ["a dog runs.", "no"]
    plain = np.stack(_vectors(loaded(short, prompt="query")))
    for options in ({"chunk": "tokens"}, {"chunk": "late", "chunk_size": 9}):
        made = np.concatenate(_vectors(loaded(short, prompt="query", **options)))
        assert (made == plain).all()


def test_a_run_writes_chunks(tmp_path: Path, folder: Path) -> None:
    table = pa.table({"text": TEXTS})
    pq.write_table(table, tmp_path / "in.parquet")
    options: dict[str, Any] = {"chunk": "late", "chunk_size": 9, "overlap": 2}
    for form in ("parquet", "arrow"):
        out = tmp_path / form
        report = engine.run(
            bundle_of(folder, None), tmp_path / "in.parquet", out, format=form, **options
        )
        assert report.rows_out == len(TEXTS)
    (part,) = (tmp_path / "parquet").glob("*.parquet")
    made = pq.read_table(part)
    loaded = engine.Bundle.load(bundle_of(folder, None), device="cpu")(TEXTS, **options)
    for name in ("start", "end"):
        assert made[name].to_pylist() == loaded[name].to_pylist()
    for one, other in zip(_vectors(made), _vectors(loaded), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message", "follows"),
    [
        ({"chunk_size": 8}, "chunk is none, but chunk_size is 8", {"chunk": "tokens"}),
        ({"chunk_mean": True}, "chunk is none", {"chunk": "tokens"}),
        ({"chunk": "words"}, "chunk is 'words'", {"chunk": "tokens"}),
        ({"chunk": "late"}, "late without a chunk_size", {"chunk_size": 8}),
        ({"chunk": "tokens", "chunk_size": 4, "overlap": 4}, "overlap is 4", {"overlap": 3}),
        ({"chunk": "tokens", "chunk_size": 47}, "chunk_size is 47", {"chunk_size": 46}),
        ({"chunk": "tokens", "overlap": 46}, "overlap 46", {"overlap": 45}),
        ({"chunk": "tokens", "pooling": "none"}, "pooling none", {"pooling": "mean"}),
        ({"chunk": "late", "chunk_size": 8, "pooling": "cls"}, "pooling cls", {"pooling": "mean"}),
        ({"chunk": "late", "chunk_size": 8, "pooling": "cls"}, "first token", {"chunk": "tokens"}),
        ({"chunk": "tokens", "prefix": "a " * 50}, "the prompt has 50 tokens", {"prefix": "a"}),
    ],
)
def test_options_that_do_not_fit_are_refused(
    bundle: engine.Bundle, options: dict[str, Any], message: str, follows: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        bundle(["a dog"], **options)
    assert caught.value.hint
    bundle(["a dog"], **{**options, **follows})
