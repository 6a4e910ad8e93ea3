"""Texts to token ids and back, by the `tokenizers` library alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.bundle.text_cutting import (
    LEAST,
    PIECE,
    WHOLE,
    Borders,
    TextCutter,
    content,
    groups,
    needed,
)
from engine.core.types import Ints, Layout, Ragged, Tokens
from engine.errors import BundleError


class Tokenizer:
    """A bundle's tokenizer; rows are cut at `max_length` tokens, special tokens included, at
    their `side`: right or left.

    Of a pair the longer text is cut first, as transformers does it. Nothing is padded here. May be
    used from many threads. `digest` is the sha256 that the file must have, "" for any.

    Raises:
        BundleError: The file is not a tokenizer, or has other bytes.
    """

    def __init__(self, file: Path, max_length: int, side: str = "right", digest: str = "") -> None:
        self._file, self._digest = file, digest
        self.max_length, self.side = max_length, side
        self._tokenizer = self._open()
        self._tokenizer.enable_truncation(max_length, direction=side)

    def encode(
        self, texts: Sequence[pa.StringArray], *, type_ids: bool, prefix: str = ""
    ) -> tuple[Ragged, Ragged | None, NDArray[np.bool_]]:
        """Token ids, type ids if asked for, and which rows were cut.

        Args:
            texts: One column of texts, or two for pairs; no nulls.
            type_ids: Whether the model reads them.
            prefix: Before each text of a single column.

        Returns:
            ids int64, type ids int64 or None, truncated bool (rows,).
        """
        rows = _side_by_side(self._cut(texts, prefix))
        encodings = self._tokenizer.encode_batch_fast(rows)
        lengths = np.fromiter(map(len, encodings), np.int64, len(rows))
        ids = _flat((e.ids for e in encodings), lengths)
        types = _flat((e.type_ids for e in encodings), lengths) if type_ids else None
        truncated = np.fromiter((bool(e.overflowing) for e in encodings), np.bool_, len(rows))
        if not _reports_overflow():
            truncated |= self._exceeding(rows, lengths)
        return ids, types, truncated

    def _cut(self, texts: Sequence[pa.StringArray], prefix: str) -> list[list[str]]:
        """The columns, with long texts cut to what the tokens that are kept depend on."""
        cutter = self.cutter
        if cutter is None or not needed(texts, self.max_length):
            return [_prefixed(prefix, column) for column in texts]
        tokens = [np.full(len(column), self.max_length + 1, np.int64) for column in texts]
        if len(texts) == 2 and (self.max_length - self.pair_layout.count) % 2:
            self._compare(texts, tokens)
        return [cutter.cut(*both, prefix) for both in zip(texts, tokens, strict=True)]

    def _compare(self, texts: Sequence[pa.StringArray], tokens: list[Ints]) -> None:
        """Raise `tokens` so that of a pair the text with more tokens has more when it is cut, too:
        the odd token is its own. The text of fewer bytes stays whole."""
        lengths = np.stack([pc.binary_length(column).to_numpy() for column in texts])
        rows = np.flatnonzero(lengths.max(axis=0) > LEAST)
        for number, column in enumerate(texts):
            shorter = rows[lengths.argmin(axis=0)[rows] == number]
            counts = self._count(column.take(pa.array(shorter)).to_pylist())
            tokens[number][shorter] = WHOLE
            other = tokens[1 - number]
            other[shorter] = np.maximum(other[shorter], counts + 1)

    @cached_property
    def cutter(self) -> TextCutter | None:
        """Cuts long texts; None where a text's first tokens may depend on all of it."""
        borders = Borders.of(self._uncut.to_str())
        return TextCutter(borders, self._count, self.side) if borders else None

    def _count(self, texts: list[str]) -> Ints:
        encodings = self._uncut.encode_batch_fast(texts, add_special_tokens=False)
        return np.fromiter(map(len, encodings), np.int64, len(encodings))

    def _exceeding(self, rows: Sequence[Any], lengths: Ints) -> NDArray[np.bool_]:
        """Which rows have more tokens than the limit; those that reach it are encoded again."""
        full = np.flatnonzero(lengths >= self.max_length)
        encodings = self._with_one_more.encode_batch_fast([rows[n] for n in full.tolist()])
        exceeding = np.zeros(len(rows), np.bool_)
        exceeding[full] = np.fromiter(map(len, encodings), np.int64, len(full)) > self.max_length
        return exceeding

    def tokens(self, texts: pa.Array, *, most: int = 0) -> Tokens:
        """Tokens of texts, or of lists of words, without special tokens.

        Args:
            texts: No nulls.
            most: Where only the first so many tokens of a text, and whether there are more, are
                needed; 0 for all.
        """
        if pa.types.is_list(texts.type):
            return self._tokens(self._for_words, texts.to_pylist(), words=True)
        if most and self.cutter and self.side == "right" and needed([texts], most):
            cut = self.cutter.cut(texts, np.full(len(texts), most + 1, np.int64))
            texts = pa.array(cut, pa.string())
        parts = [self._whole(texts, group) for group in groups(texts)]
        return Tokens.joined(parts) if parts else self._tokens(self._uncut, [])

    def _whole(self, texts: pa.StringArray, rows: slice) -> Tokens:
        """Every token of some rows; a long one is alone, and tokenized in pieces."""
        size = pc.sum(pc.binary_length(texts[rows])).as_py()
        if size <= PIECE or not self.cutter:
            return self._tokens(self._uncut, texts[rows].to_pylist())
        parts, end, words = [], 0, 0
        for word, piece in self.cutter.pieces(content(texts, rows.start)):
            part, first = (self._tokens(self._uncut, [text]) for text in (piece, word))
            skip, start = len(first.words), end - len(word)
            end = start + len(piece)
            shift = words - _words(first)
            words = shift + _words(part)
            chars, numbers = part.chars[skip:] + start, part.words[skip:]
            numbers = np.where(numbers < 0, -1, numbers + shift)
            values = part.ids.values[skip:]
            parts.append(Tokens(Ragged.of(values, np.array([len(values)])), chars, numbers))
        whole = Tokens.joined(parts)
        return replace(whole, ids=Ragged.of(whole.ids.values, np.array([len(whole.words)])))

    def _tokens(self, tokenizer: Any, rows: list[Any], *, words: bool = False) -> Tokens:
        encodings = tokenizer.encode_batch(rows, is_pretokenized=words, add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        return Tokens(
            ids=_flat((e.ids for e in encodings), lengths),
            chars=_pairs((e.offsets for e in encodings), int(lengths.sum())),
            words=_numbers((e.word_ids for e in encodings), lengths),
        )

    def ids(self, texts: pa.StringArray, *, prefix: str = "", most: int = 0) -> Ragged:
        """Token ids of texts without special tokens.

        Args:
            texts: No nulls.
            prefix: Before each text.
            most: Where only as many tokens at their `side`, and whether there are more, are needed
                of the texts; 0 for all.
        """
        if most and self.cutter and needed([texts], most):
            rows = self.cutter.cut(texts, np.full(len(texts), most + 1, np.int64), prefix)
        else:
            rows = _prefixed(prefix, texts)
        encodings = self._uncut.encode_batch_fast(rows, add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        return _flat((e.ids for e in encodings), lengths)

    @cached_property
    def single_layout(self) -> Layout:
        """Where the special tokens of a single text stand."""
        return _layout(self._uncut.encode("word"))

    @cached_property
    def pair_layout(self) -> Layout:
        """Where the special tokens of a pair stand."""
        return _layout(self._uncut.encode("word", "word"))

    def decode(self, tokens: Ragged, *, skip_special: bool = True) -> pa.StringArray:
        """Texts of token ids, special tokens left out unless wanted."""
        values = tokens.values.tolist()
        rows = [values[start:stop] for start, stop in pairwise(tokens.offsets.tolist())]
        texts = self._tokenizer.decode_batch(rows, skip_special_tokens=skip_special)
        return pa.array(texts, pa.string())

    def tokens_of(self, ids: Iterable[int]) -> list[str]:
        """The tokens as they are in the vocabulary."""
        return [self._tokenizer.id_to_token(int(i)) or "" for i in ids]

    def joined(self, tokens: list[str]) -> str:
        """Tokens as text, as transformers' convert_tokens_to_string makes it."""
        decoder = self._tokenizer.decoder
        return str(decoder.decode(tokens)) if decoder is not None else " ".join(tokens)

    def id_of(self, token: str) -> int:
        """The id of a token of the vocabulary, -1 where there is none."""
        number = self._tokenizer.token_to_id(token)
        return -1 if number is None else int(number)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def subword_prefix(self) -> str:
        """Prefix of tokens that continue a word, such as ##; "" where there is none."""
        model = json.loads(self._tokenizer.to_str())["model"]
        return str(model.get("continuing_subword_prefix") or "")

    @cached_property
    def widens_first_token(self) -> tuple[bool, bool]:
        """Whether the library lets a window's first token begin at the space before it.

        For texts, and for lists of words. A byte-level tokenizer that adds a space before a text
        takes the first space of a window for the added one.
        """
        texts, words = (
            _leaves(json.loads(tokenizer.to_str())["post_processor"])
            for tokenizer in (self._uncut, self._for_words)
        )
        return _widens(texts), _widens(words)

    @cached_property
    def _uncut(self) -> Any:
        return self._open()

    @cached_property
    def _with_one_more(self) -> Any:
        """Cuts one token after the limit."""
        tokenizer = self._open()
        tokenizer.enable_truncation(self.max_length + 1, direction=self.side)
        return tokenizer

    @cached_property
    def _for_words(self) -> Any:
        """The same for lists of words: tokenizers like RoBERTa's must put a space before each."""
        content = json.loads(self._uncut.to_str())
        parts = _leaves(content["pre_tokenizer"]) + _leaves(content["post_processor"])
        without = [part for part in parts if part.get("add_prefix_space") is False]
        for part in without:
            part["add_prefix_space"] = True
        return type(self._uncut).from_str(json.dumps(content)) if without else self._uncut

    def _open(self) -> Any:
        import tokenizers

        content = self._content()
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception for every fault
            raise BundleError(f"{self._file}: not a tokenizer", "export the model again") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _content(self) -> bytes:
        """The file's bytes; they are opened later than the graphs, and may be others by then."""
        try:
            content = self._file.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{self._file}: cannot be read: {error.strerror}", "copy the whole bundle once more"
            ) from error
        if self._digest and hashlib.sha256(content).hexdigest() != self._digest:
            raise BundleError(
                f"{self._file}: has been changed since the bundle was loaded",
                "wait until nobody writes there, then run again",
            )
        return content


@cache
def _reports_overflow() -> bool:
    """Whether the library returns the tokens that it cuts. Since 0.23.1 it stops at the limit and
    does not see them (huggingface/tokenizers#2091)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    probe = Tokenizer(models.WordLevel({"word": 0}, unk_token="word"))
    probe.pre_tokenizer = pre_tokenizers.Whitespace()
    probe.enable_truncation(1)
    return bool(probe.encode("word word word").overflowing)


def clean_up(text: str) -> str:
    """Remove the space before punctuation and English contractions, by the rules of
    transformers' PreTrainedTokenizerBase.clean_up_tokenization."""
    for spaced, joined in _SPACED:
        text = text.replace(spaced, joined)
    return text


_SPACED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def _leaves(component: Any) -> list[dict[str, Any]]:
    """The parts of a tokenizer's component, out of the sequences that hold them."""
    if not component:
        return []
    inner = component.get("pretokenizers", component.get("processors"))
    return [component] if inner is None else [leaf for part in inner for leaf in _leaves(part)]


def _widens(parts: list[dict[str, Any]]) -> bool:
    return any(part.get("add_prefix_space") and part.get("trim_offsets") for part in parts)


def _words(tokens: Tokens) -> int:
    """The number of words of one text."""
    return int(tokens.words.max(initial=-1)) + 1


def _prefixed(prefix: str, texts: pa.StringArray) -> list[str]:
    rows: list[str] = texts.to_pylist()
    return [prefix + row for row in rows] if prefix else rows


def _side_by_side(columns: Sequence[list[str]]) -> list[Any]:
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _flat(lists: Iterable[list[int]], lengths: Ints) -> Ragged:
    total = int(lengths.sum())
    return Ragged.of(np.fromiter(chain.from_iterable(lists), np.int64, total), lengths)


def _numbers(lists: Iterable[list[int | None]], lengths: Ints) -> Ints:
    values = (-1 if v is None else v for v in chain.from_iterable(lists))
    return np.fromiter(values, np.int64, int(lengths.sum()))


def _pairs(lists: Iterable[list[tuple[int, int]]], total: int) -> Ints:
    values = chain.from_iterable(chain.from_iterable(lists))
    return np.fromiter(values, np.int64, 2 * total).reshape(total, 2)


def _layout(probe: Any) -> Layout:
    """The special tokens before, between and behind the texts of an encoding, in that order."""
    sides = np.array([-1 if side is None else side for side in probe.sequence_ids])
    both = np.array([probe.ids, probe.type_ids], np.int64).T.reshape(-1, 2)
    ends = [np.flatnonzero(sides == side) for side in range(int(sides.max(initial=0)) + 1)]
    starts = [0, *(int(end[-1]) + 1 for end in ends)]
    stops = [*(int(end[0]) for end in ends), len(sides)]
    special = tuple(both[start:stop] for start, stop in zip(starts, stops, strict=True))
    return Layout(special, tuple(int(both[end[0], 1]) for end in ends))
