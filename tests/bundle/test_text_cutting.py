"""Long texts are cut before they are tokenized, and have the tokens of the whole text.

`python tests/bundle/test_text_cutting.py 10000 FILE...` compares so many random texts with each
tokenizer.json.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

import engine.demo
from engine.bundle import text_cutting, tokenizer
from engine.bundle.text_cutting import Borders
from engine.bundle.tokenizer import Tokenizer
from engine.core.types import Ragged

DEMO = Path(engine.demo.__file__).parent / "bundle/tokenizer.json"
NAMES = ("bert-base-cased", "bert-base-uncased", "roberta-base", "gpt2", "t5-small")
WORDS = [
    "the",
    "a",
    "meadow",
    "running",
    "Dog's",
    "don't",
    "I'LL",
    "12",
    "3456789",
    "x1y2",
    "naïve",
    "É",
    "é",
    "ậ",
    "ﬁn",
    "Σίσυφος",
    "İstanbul",
    "straße",
    "собака",
    "бежит",
    "שלום",
    "مرحبا",
    "हिन्दी",
    "ไทยคำ",
    "今日は天気",
    "我们在这里",
    "한국어",
    "がぎ",
    "ｶﾞ",
    "한",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "✊🏽",
    "½",
    "²",
    "㎞",
    "...",
    "!?",
    "(a)",
    "--",
    "'tis",
    "▁",
    "▁a",
    "<s>",
    "</s>",
    "<mask>",
    "[MASK]",
    "[SEP]",
    "<extra_id_7>",
    "##",
    "\u200b",
    "\ufeff",
    "\x01",
    "\x7f",
    "́",
    "�",
]
SPACES = (
    " ",
    " ",
    " ",
    " ",
    "\n",
    "  ",
    "\t",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "",
    "      ",
    " \n",
)


def random_text(dice: random.Random, words: int) -> str:
    """Words of many scripts, or of few, with spaces of many kinds."""
    some = dice.sample(WORDS, dice.choice((2, 6, len(WORDS))))
    spaces = dice.choice((SPACES, (" ",), (" ", "\n"), ("", " ")))
    return "".join(dice.choice(some) + dice.choice(spaces) for _ in range(words))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with cutting_early(monkeypatch):
        yield


def cutting_early(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Texts are cut from few bytes on, so that short ones show what long ones do."""
    monkeypatch.setattr(text_cutting, "LEAST", 24)
    monkeypatch.setattr(tokenizer, "LEAST", 24)
    monkeypatch.setattr(text_cutting, "BYTES_FOR_A_TOKEN", 1)
    return monkeypatch.context()


def whole(file: Path, length: int, side: str, rows: list[Any]) -> list[list[int]]:
    reference = tokenizers.Tokenizer.from_file(str(file))
    reference.no_padding()
    reference.enable_truncation(length, direction=side)
    return [encoding.ids for encoding in reference.encode_batch(rows)]


def count(file: Path, rows: list[Any]) -> list[int]:
    reference = tokenizers.Tokenizer.from_file(str(file))
    reference.no_padding()
    reference.no_truncation()
    return [len(encoding) for encoding in reference.encode_batch(rows)]


def compare(file: Path, dice: random.Random, texts: int, *, size: int = 90) -> int:
    """Compare rows of random texts with the whole texts' tokens; how many texts were shorter."""
    columns = [[random_text(dice, dice.randrange(size)) for _ in range(texts)] for _ in range(2)]
    for length, side, pairs in (
        (dice.randrange(6, 40), "right", False),
        (dice.randrange(6, 40), "left", False),
        (dice.randrange(8, 40), "right", True),
        (dice.randrange(8, 40), "left", True),
    ):
        ours = Tokenizer(file, length, side)
        # Of pairs the library returns every combination of what it cuts from either text.
        taken = [column[: texts // 4 if pairs else texts] for column in columns[: 1 + pairs]]
        rows = list(zip(*taken, strict=True)) if pairs else taken[0]
        ids, _, truncated = ours.encode([pa.array(column) for column in taken], type_ids=False)
        wanted = whole(file, length, side, rows)
        for n, row in enumerate(rows):
            assert ids.take(np.array([n])).values.tolist() == wanted[n], (file, length, side, row)
        assert truncated.tolist() == [number > length for number in count(file, rows)]
    if ours.cutter is None:
        return 0
    cut = ours.cutter.cut(pa.array(columns[0]), pa.array([9] * texts).to_numpy())
    return sum(len(one) < len(other) for one, other in zip(cut, columns[0], strict=True))


@pytest.fixture(scope="module", params=(*NAMES, "demo"))
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer as an export writes it."""
    if request.param == "demo":
        return DEMO
    transformers = pytest.importorskip("transformers")
    source = Path(request.getfixturevalue("shared")) / "models/tokenizers" / request.param
    if not source.is_dir():
        pytest.skip(f"{request.param} is not in the shared data")
    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder / "tokenizer.json"


@pytest.mark.parametrize("seed", range(1))
def test_a_cut_text_has_the_tokens_of_the_whole(file: Path, seed: int) -> None:
    assert compare(file, random.Random(seed), 40) > 5


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prefix", ["say: ", "[SEP] a b ", "no space"])
def test_a_prefix_is_before_a_text_that_is_cut(file: Path, side: str, prefix: str) -> None:
    dice = random.Random(prefix)
    texts = [random_text(dice, dice.randrange(90)) for _ in range(40)]
    ours, rows = Tokenizer(file, 12, side), [prefix + text for text in texts]
    ids, _, truncated = ours.encode([pa.array(texts)], type_ids=False, prefix=prefix)
    wanted = whole(file, 12, side, rows)
    assert [ids.take(np.array([n])).values.tolist() for n in range(40)] == wanted
    assert truncated.tolist() == [number > 12 for number in count(file, rows)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_at_one_side_are_those_of_the_whole(file: Path, side: str) -> None:
    dice = random.Random(side)
    texts = [random_text(dice, dice.randrange(90)) for _ in range(60)]
    ours, column = Tokenizer(file, 12, side), pa.array(texts)
    every, some = ours.ids(column), ours.ids(column, most=7)
    end = Ragged.head if side == "right" else Ragged.last
    assert end(every, 7).values.tolist() == end(some, 7).values.tolist()
    assert ((every.lengths > 7) == (some.lengths > 7)).all()
    assert some.lengths.sum() < every.lengths.sum()


def compare_pieces(file: Path, dice: random.Random, texts: int, *, size: int = 90) -> int:
    """Compare all tokens of random texts, read in pieces, with the library's; how many pieces."""
    rows = [random_text(dice, dice.randrange(size)) for _ in range(texts)]
    ours = Tokenizer(file, 8, "right")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_cutting, "PIECE", dice.randrange(24, 90))
        patch.setattr(tokenizer, "PIECE", text_cutting.PIECE)
        column = pa.array(rows)
        ids, chars, words = (getattr(ours.tokens(column), name) for name in PARTS)
        contents = (text_cutting.content(column, n) for n in range(texts))
        pieces = sum(len(list(ours.cutter.pieces(c))) for c in contents) if ours.cutter else 0
    reference = tokenizers.Tokenizer.from_file(str(file))
    reference.no_padding()
    reference.no_truncation()
    for n, encoding in enumerate(reference.encode_batch(rows, add_special_tokens=False)):
        start, stop = ids.offsets[n : n + 2]
        assert ids.values[start:stop].tolist() == encoding.ids, (file, rows[n])
        if not (DROPPED & set(rows[n]) and "Precompiled" in reference.to_str()):
            assert chars[start:stop].tolist() == list(map(list, encoding.offsets)), (file, rows[n])
        assert words[start:stop].tolist() == [
            -1 if word is None else word for word in encoding.word_ids
        ], (file, rows[n])
    return pieces


PARTS = ("ids", "chars", "words")
# Where SentencePiece's normalizer drops a character, the library's offsets of all that follows are
# off by one; those of the next piece are not.
DROPPED = set("\x01\x7f\u200b\ufeff")


def test_a_text_in_pieces_has_the_tokens_of_the_whole(file: Path) -> None:
    assert compare_pieces(file, random.Random(0), 60) > 80


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8") | st.sampled_from("ab 1\n.'界"), min_size=60),
    side=st.sampled_from(["right", "left"]),
)
def test_any_text_has_the_tokens_of_the_whole(file: Path, text: str, side: str) -> None:
    ids, _, _ = Tokenizer(file, 8, side).encode([pa.array([text])], type_ids=False)
    assert ids.values.tolist() == whole(file, 8, side, [text])[0]


def test_the_real_tokenizers_are_cut(file: Path) -> None:
    ours = Tokenizer(file, 16)
    text = "the dog runs over the meadow " * 10_000
    assert ours.cutter
    (cut,) = ours.cutter.cut(pa.array([text]), pa.array([16]).to_numpy())
    assert text.startswith(cut)
    assert len(cut) < 1_000


def of(
    pre_tokenizer: Any, normalizer: Any = None, model: Any = None, added: tuple[str, ...] = ()
) -> Any:
    built = tokenizers.Tokenizer(model or models.BPE({"a": 0, "\u2581": 1}, []))
    built.add_tokens(list(added))
    if pre_tokenizer:
        built.pre_tokenizer = pre_tokenizer
    if normalizer:
        built.normalizer = normalizer
    return built


def test_what_may_look_beyond_a_space_is_not_cut() -> None:
    joining = models.BPE({"a": 0, "\u2581": 1, "a\u2581": 2}, [("a", "\u2581")])
    marks = normalizers.Replace(" ", "\u2581")
    split = pre_tokenizers.Split(tokenizers.Regex(r"\w+ \w+"), "isolated")
    space = pre_tokenizers.WhitespaceSplit()
    for built in (
        of(None),
        of(None, marks, joining),
        of(split),
        of(pre_tokenizers.ByteLevel(use_regex=False)),
        of(pre_tokenizers.Metaspace(split=False), None, joining),
        of(space, normalizers.Replace(tokenizers.Regex("a b"), "ab")),
        of(space, marks),
        of(space, added=("new york",)),
        of(pre_tokenizers.Sequence([space, split])),
        of(space, model=models.BPE({"a": 0}, [], dropout=0.1)),
    ):
        assert Borders.of(built.to_str()) is None, built
    for built in (of(None, marks), of(space), of(space, normalizers.NFKC())):
        assert Borders.of(built.to_str()), built


def main(texts: int, *files: str) -> None:
    """Compare, and print how many texts were cut, and how many pieces there were of all."""
    with cutting_early(pytest.MonkeyPatch()):
        for name in files:
            seeds = range(texts // 500)
            cut = sum(compare(Path(name), random.Random(n), 500) for n in seeds)
            pieces = sum(compare_pieces(Path(name), random.Random(n), 500) for n in seeds)
            sys.stdout.write(f"{name}: {texts} texts, {cut} of them cut, and {pieces} pieces\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
