"""Rows are cut as transformers cuts them, at either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.bundle import chunking
from engine.bundle.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = [
    "A dog runs over the green meadow, and nobody calls it back.",
    " Ein Hund läuft über die Wiese 🎉 und niemand ruft ihn zurück ",
    "今日は天気がいいですね。 今日は天気がいいですね。",
    "La",
    "",
    "w " * 60,
    "one\ttwo\n three  four",
]
NAMES = ("bert-base-cased", "roberta-base", "gpt2", "t5-small")


@pytest.fixture(scope="module", params=NAMES)
def folder(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokenizer as an export writes it."""
    source = shared / "models/tokenizers" / request.param
    if not source.is_dir():
        pytest.skip(f"{request.param} is not in the shared data")
    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def theirs(folder: Path, side: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, truncation_side=side)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [5, 9, 16])
def test_texts_and_pairs_are_cut_as_by_transformers(folder: Path, side: str, length: int) -> None:
    reference = theirs(folder, side)
    ours = Tokenizer(folder / "tokenizer.json", length, side)
    pairs = (TEXTS, TEXTS[::-1])
    for columns in ((TEXTS,), pairs):
        if len(columns) == 2 and length < 8:
            continue
        wanted = reference(*columns, truncation=True, max_length=length).input_ids
        whole = [len(ids) for ids in reference(*columns).input_ids]
        arrays = [pa.array(column) for column in columns]
        ids, _, truncated = ours.encode(arrays, type_ids=False)
        rows = [ids.take([n]).values.tolist() for n in range(len(ids))]
        assert rows == wanted
        assert truncated.tolist() == [count > length for count in whole]
        alone, _, _ = ours.encode([array.slice(1, 1) for array in arrays], type_ids=False)
        assert alone.values.tolist() == wanted[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_text_of_a_pair_is_cut_as_by_transformers(folder: Path, side: str) -> None:
    """As the zero-shot pipeline has it."""
    reference = theirs(folder, side)
    ours = Tokenizer(folder / "tokenizer.json", 16, side)
    hypothesis = "This is news."
    texts = [text for text in TEXTS if text]
    tokens = (ours.ids(pa.array(texts)), ours.ids(pa.array([hypothesis])))
    rows = pa.array(range(len(texts))).to_numpy()
    found = chunking.first_cut(
        *tokens, (rows, rows * 0), ours.pair_layout, max_length=16, side=side
    )
    wanted = reference(
        texts, [hypothesis] * len(texts), truncation="only_first", max_length=16
    ).input_ids
    assert [found.ids.take([n]).values.tolist() for n in range(len(rows))] == wanted
