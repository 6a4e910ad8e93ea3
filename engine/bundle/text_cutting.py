"""Long texts, cut to what `max_length` tokens need before they are tokenized.

The `tokenizers` library takes about 120 bytes of memory for each byte of text and cannot be
interrupted. A text is cut between a letter and a space before a letter, which is a border of words
to every component in the tables below: what stands on one side does not change the tokens of the
other. With a component that is in no table, texts stay whole. A text that is cut still has more
tokens than are kept, so that the library truncates it and says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.types import Ints

BYTES_FOR_A_TOKEN = 8
LEAST = 8192
"""Bytes from which a text is cut at all: below, counting tokens twice takes longer."""
PIECE = 1 << 20
"""Bytes of a text that are tokenized at a time where all of its tokens are needed."""
WHOLE = 1 << 40
"""A number of tokens that no text has: it is not cut."""

# Letters that no version of Unicode has changed, that combine with nothing before them, and that
# end no added token's or regular expression's reach into a space behind them.
_LETTERS = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u012f\u0134-\u017e\u0410-\u044f\u05d0-\u05ea"
    "\u0621-\u063a\u0641-\u064a\u0905-\u0939\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa"
    "\u4e00-\u9fa5\uac00-\ud7a3"
)
_PUNCTUATION = r".,;:!?)\u3001\u3002\uff01\uff0c\uff1f"
_IDEOGRAPHS = "\u4e00-\u9fa5"

_LOCAL_NORMALIZERS = frozenset(
    [
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "StripAccents",
        "BertNormalizer",
        "Nmt",
        "Precompiled",
        "Strip",
        "Prepend",
    ]
)
_LOCAL_REGEXES = frozenset({" {2,}", r"\s+", r"[\s]+", r"\s{2,}"})
# What splits at any white space, so that a new line is a border too.
_SPLITTERS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
# What only divides the words that an earlier component has found.
_DIVIDERS = frozenset({"Digits", "Punctuation", "ByteLevel", "Metaspace"})
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD_REGEXES = frozenset(
    f"{_CONTRACTIONS}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{digits}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)


@dataclass(frozen=True, slots=True)
class Borders:
    """Where texts may be cut: `pattern` matches at the borders of words, without a width."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, description: str) -> Borders | None:
        """From a tokenizer.json; None where the tokens of a word may depend on other words."""
        content = json.loads(description)
        added = [token["content"] for token in content.get("added_tokens") or ()]
        if any(re.search(r"[\s\u2581]", token) for token in added):
            return None
        normalizers = _leaves(content.get("normalizer"), "normalizers")
        if not all(map(_is_local, normalizers)) or content["model"].get("dropout"):
            return None
        words = _leaves(content.get("pre_tokenizer"), "pretokenizers")
        ends, separators = _ends_of_words(words, normalizers, content["model"])
        if not separators:
            return None
        pattern = f"(?<=[{ends}])(?=[{separators}][{_LETTERS}])"
        if _spaces_ideographs(normalizers, words) and all(map(str.isascii, added)):
            pattern += f"|(?<=[{_IDEOGRAPHS}])(?=[{_IDEOGRAPHS}])"
        return cls(re.compile(pattern))

    def first(self, text: str) -> int:
        """The first border within a text, or -1."""
        match = self.pattern.search(text, 1)
        return match.start() if match else -1

    def last(self, text: str) -> int:
        """The last border within a text, or -1."""
        tail = 1024
        while True:
            start = max(0, len(text) - tail)
            places = [match.start() for match in self.pattern.finditer(text, start)]
            if places or not start:
                return places[-1] if places else -1
            tail *= 16


def _leaves(component: Any, inner: str) -> list[dict[str, Any]]:
    if not component:
        return []
    parts = component.get(inner)
    return (
        [component] if parts is None else [leaf for part in parts for leaf in _leaves(part, inner)]
    )


def _is_local(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in _LOCAL_NORMALIZERS
    pattern = normalizer["pattern"]
    if "Regex" in pattern:
        return pattern["Regex"] in _LOCAL_REGEXES and normalizer["content"] in (" ", "\u2581")
    # A space may become the mark of one; what has no space in it reaches over none.
    text, content = pattern["String"], normalizer["content"]
    if text == " ":
        return bool(content == "\u2581")
    return not re.search(r"[\s\u2581]", text) and not re.search(r"\w", text)


def _ends_of_words(
    words: list[dict[str, Any]], normalizers: list[dict[str, Any]], model: dict[str, Any]
) -> tuple[str, str]:
    """The letters that a word may end with, and the separators behind it; "" for none."""
    marked = any(
        n["type"] == "Replace" and n["content"] == "\u2581" and n["pattern"].get("String") == " "
        for n in normalizers
    )
    if not words:
        return (_LETTERS, " ") if marked and _joins_no_words(model) else ("", "")
    first, *others = words
    if marked or not all(other["type"] in _DIVIDERS for other in others):
        return "", ""
    kind = first["type"]
    if kind in _SPLITTERS or (kind == "ByteLevel" and first.get("use_regex", True)):
        return _LETTERS + _PUNCTUATION, r" \n"
    if kind == "Metaspace" and first["replacement"] == "\u2581":
        split = first.get("split", True) or (len(words) == 1 and _joins_no_words(model))
        return (_LETTERS + _PUNCTUATION, " ") if split else ("", "")
    if kind == "Split" and first["pattern"].get("Regex") in _WORD_REGEXES:
        plain = first["behavior"] == "Isolated" and not first.get("invert")
        return (_LETTERS, " ") if plain else ("", "")
    return "", ""


def _joins_no_words(model: dict[str, Any]) -> bool:
    """Whether no merge of a BPE over whole texts reaches over the mark of a space."""
    if model.get("type") != "BPE" or model.get("ignore_merges") or "\u2581" not in model["vocab"]:
        return False
    pairs = (merge if isinstance(merge, str) else "".join(merge) for merge in model["merges"])
    return not any("\u2581" in pair.replace(" ", "").lstrip("\u2581") for pair in pairs)


def _spaces_ideographs(normalizers: list[dict[str, Any]], words: list[dict[str, Any]]) -> bool:
    """Whether each ideograph is a word of its own, as in BERT."""
    return (
        len(normalizers) == 1
        and bool(normalizers[0].get("handle_chinese_chars"))
        and [word["type"] for word in words] == ["BertPreTokenizer"]
    )


class TextCutter:
    """Cuts the long texts of a column.

    Args:
        borders: Where texts may be cut.
        count: The number of tokens of each text, special tokens left out.
        side: Where the rest of a text is left out: right or left.
    """

    def __init__(self, borders: Borders, count: Callable[[list[str]], Ints], side: str) -> None:
        self._borders, self._count, self._right = borders, count, side == "right"

    def cut(self, texts: pa.StringArray, tokens: Ints, prefix: str = "") -> list[str]:
        """The texts, long ones cut to a part that has at least as many tokens as asked for.

        Args:
            texts: No nulls.
            tokens: For each text, int64 (rows,).
            prefix: Before each text.
        """
        sizes = np.maximum(LEAST // 2, tokens * BYTES_FOR_A_TOKEN)
        lengths = pc.binary_length(texts).to_numpy()
        long = np.flatnonzero(lengths > 2 * sizes)
        parts: dict[int, str] = {}
        while len(long):
            pieces = {
                n: self._piece(content(texts, n), int(sizes[n]), prefix) for n in long.tolist()
            }
            filled = {n: piece for n, piece in pieces.items() if piece}
            enough = self._tokens(list(filled.values())) >= tokens[list(filled)]
            parts |= {n: filled[n] for n, whole in zip(filled, enough, strict=True) if whole}
            sizes *= 4
            long = np.array([n for n in pieces if n not in parts and sizes[n] < lengths[n]], int)
        return [parts[n] if n in parts else prefix + texts[n].as_py() for n in range(len(texts))]

    def pieces(self, content: memoryview) -> Iterator[tuple[str, str]]:
        """A whole text in pieces: the last word of the piece before it, and that word and the
        piece. What the beginning of a text does to its first word is done to a word that the piece
        before it has already.

        Args:
            content: The text as UTF-8.
        """
        start, size, word = 0, PIECE, ""
        while start + size < len(content):
            piece = bytes(content[start : start + size]).decode("utf-8", "ignore")
            stop = self._borders.last(piece)
            before = self._borders.last(piece[: max(0, stop)])
            if before <= 0 or stop <= len(word):
                size *= 2
                continue
            yield word, piece[:stop]
            start, size, word = start + len(piece[:before].encode()), PIECE, piece[before:stop]
        yield word, bytes(content[start:]).decode()

    def _piece(self, content: memoryview, size: int, prefix: str) -> str:
        """The part of a text of up to `size` bytes, and of the prefix, that ends, or begins, at a
        border; "" if it has none."""
        # The text is valid: only a character at the cut can be incomplete.
        if self._right:
            piece = prefix + bytes(content[:size]).decode("utf-8", "ignore")
            return piece[: max(0, self._borders.last(piece))]
        piece = bytes(content[-size:]).decode("utf-8", "ignore")
        start = self._borders.first(piece)
        return piece[start:] if start >= 0 else ""

    def _tokens(self, pieces: list[str]) -> Ints:
        """The tokens of pieces that they have in the whole text as well: what the beginning of a
        text does to its first word does not count."""
        if not pieces:
            return np.empty(0, np.int64)
        counts = self._count(pieces)
        if self._right:
            return counts
        firsts = [max(0, self._borders.first(piece)) for piece in pieces]
        words = [piece[:stop] for piece, stop in zip(pieces, firsts, strict=True)]
        return np.where(np.array(firsts) > 0, counts - self._count(words), 0)


def groups(texts: pa.StringArray) -> Iterator[slice]:
    """Neighbouring rows that have PIECE bytes at most, or one that has more."""
    start = size = 0
    for row, length in enumerate(pc.binary_length(texts).to_pylist()):
        if row > start and size + length > PIECE:
            yield slice(start, row)
            start = row
            size = 0
        size += length
    if len(texts):
        yield slice(start, len(texts))


def content(texts: pa.StringArray, row: int) -> memoryview:
    """The bytes of a text; pyarrow's scalar would be a copy of them."""
    _, offsets, values = texts.buffers()
    start, stop = np.frombuffer(offsets, np.int32)[texts.offset + row :][:2].tolist()
    return memoryview(values)[start:stop]


def needed(columns: Sequence[pa.StringArray], most: int) -> bool:
    """Whether a column has a text that may be longer than `most` tokens need."""
    return any(
        (pc.max(pc.binary_length(column)).as_py() or 0) > max(LEAST, 2 * BYTES_FOR_A_TOKEN * most)
        for column in columns
    )
