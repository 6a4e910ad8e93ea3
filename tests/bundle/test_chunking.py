"""Our cutting into pieces is that of the `tokenizers` library, and goes on where that panics."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import WORDS, write_tokenizer

from engine.bundle import chunking
from engine.bundle.chunking import Pieces
from engine.bundle.tokenizer import Tokenizer

calm = settings(deadline=None, max_examples=150)
texts = st.lists(st.sampled_from([*WORDS[:5], "unknown-word", "🎉 w1", " "]), max_size=14).map(
    " ".join
)
columns = st.lists(texts, min_size=1, max_size=6)
sides = st.sampled_from(["right", "left"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(file)
    return Tokenizer(file, 32)


def library(tokenizer: Tokenizer, rows: list, **truncation: object) -> list[list]:
    """The library's own pieces of each row."""
    from tokenizers import Tokenizer as Reference

    reference = Reference.from_str(tokenizer._uncut.to_str())
    reference.enable_truncation(**truncation)
    return [[first, *first.overflowing] for first in reference.encode_batch(rows)]


def check(found: Pieces, wanted: list[list]) -> None:
    flat = [encoding for row in wanted for encoding in row]
    assert found.owners.tolist() == [i for i, row in enumerate(wanted) for _ in row]
    for i, encoding in enumerate(flat):
        own = slice(found.ids.offsets[i], found.ids.offsets[i + 1])
        assert found.ids.values[own].tolist() == encoding.ids
        assert found.type_ids.values[own].tolist() == encoding.type_ids
        assert found.chars[own].tolist() == [list(pair) for pair in encoding.offsets]
        assert found.words[own].tolist() == [-1 if n is None else n for n in encoding.word_ids]
        assert found.sides[own].tolist() == [-1 if n is None else n for n in encoding.sequence_ids]


@calm
@given(columns, st.integers(6, 12), st.integers(0, 3), sides)
def test_pieces_of_one_text_are_the_librarys(
    tokenizer: Tokenizer, given: list[str], length: int, stride: int, side: str
) -> None:
    """Here first to last; the library begins with the last where it cuts on the left."""
    cut = {"max_length": length, "stride": stride}
    found = chunking.single(
        tokenizer.tokens(pa.array(given)), tokenizer.single_layout, **cut, side=side
    )
    wanted = library(tokenizer, given, **cut, direction=side)
    check(found, [row[::-1] if side == "left" else row for row in wanted])
    assert not found.truncated.any()


@calm
@given(columns, st.integers(2, 12), sides)
def test_a_text_is_cut_as_the_library_cuts_it(
    tokenizer: Tokenizer, given: list[str], length: int, side: str
) -> None:
    found = chunking.single(
        tokenizer.tokens(pa.array(given)), tokenizer.single_layout, max_length=length, side=side
    )
    wanted = library(tokenizer, given, max_length=length, direction=side)
    check(found, [row[:1] for row in wanted])
    assert found.truncated.tolist() == [len(row) > 1 for row in wanted]


@calm
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6), st.integers(0, 3), sides)
def test_pieces_of_the_second_text_are_the_librarys(
    tokenizer: Tokenizer, given: list[tuple[str, str]], stride: int, side: str
) -> None:
    # The longest first text has 28 tokens (🎉 and w1 are two): there is always room for the second.
    first, second = (tokenizer.tokens(pa.array([pair[n] for pair in given])) for n in (0, 1))
    cut = {"max_length": 34, "stride": stride}
    found = chunking.pair(first, second, tokenizer.pair_layout, **cut, side=side)
    check(found, library(tokenizer, given, **cut, strategy="only_second", direction=side))
    assert not found.truncated.any()


@calm
@given(
    st.lists(st.tuples(texts, texts), min_size=1, max_size=6),
    st.integers(3, 40),
    st.sampled_from([None, 0, 1, 5, 50]),
)
def test_whatever_the_lengths_every_row_has_a_piece_that_fits(
    tokenizer: Tokenizer, given: list[tuple[str, str]], length: int, stride: int | None
) -> None:
    first, second = (tokenizer.tokens(pa.array([pair[n] for pair in given])) for n in (0, 1))
    found = chunking.pair(first, second, tokenizer.pair_layout, max_length=length, stride=stride)
    assert found.ids.lengths.max() <= length
    assert sorted(set(found.owners.tolist())) == list(range(len(given)))
    for row in range(len(given)):
        own = np.isin(np.repeat(found.owners, found.ids.lengths), [row])
        seen = {tuple(pair) for pair in found.chars[own & (found.sides == 1)].tolist()}
        there = second.chars[second.ids.offsets[row] : second.ids.offsets[row + 1]].tolist()
        if not found.truncated[row]:
            assert seen == {tuple(pair) for pair in there}, "something of the text is nowhere"
            assert (found.sides[own] == 0).any() or not first.ids.lengths[row]


def test_rows_of_words_have_characters_within_their_words(tokenizer: Tokenizer) -> None:
    given = pa.array([["w1", "w2 w3"], []], pa.list_(pa.string()))
    found = chunking.single(tokenizer.tokens(given), tokenizer.single_layout, max_length=8)
    assert found.words.tolist() == [0, 1, 1, -1, -1]
    assert found.chars.tolist() == [[0, 2], [0, 2], [3, 5], [0, 0], [0, 0]]
