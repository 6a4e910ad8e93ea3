"""Texts to token ids and back, by the `tokenizers` library alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.core.types import Ints, Layout, Ragged, Tokens
from engine.errors import BundleError


class Tokenizer:
    """A bundle's tokenizer, cutting rows at `max_length` tokens, special tokens included.

    Of a pair the longer text is cut first, as transformers does it. Padding is the batcher's.
    May be used from many threads.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(self, file: Path, max_length: int) -> None:
        self._file, self.max_length = file, max_length
        self._tokenizer = self._open()
        self._tokenizer.enable_truncation(max_length)

    def encode(
        self, texts: Sequence[pa.StringArray], *, type_ids: bool
    ) -> tuple[Ragged, Ragged | None, NDArray[np.bool_]]:
        """Token ids, type ids if asked for, and which rows were cut.

        Args:
            texts: One column of texts, or two for pairs; no nulls.
            type_ids: Whether the model reads them.

        Returns:
            ids int64, type ids int64 or None, truncated bool (rows,).
        """
        rows = _side_by_side(texts)
        encodings = self._tokenizer.encode_batch_fast(rows)
        lengths = np.fromiter(map(len, encodings), np.int64, len(rows))
        ids = _flat((e.ids for e in encodings), lengths)
        types = _flat((e.type_ids for e in encodings), lengths) if type_ids else None
        truncated = np.fromiter((bool(e.overflowing) for e in encodings), np.bool_, len(rows))
        if not _tells_what_it_cuts():
            truncated |= self._longer(rows, lengths)
        return ids, types, truncated

    def _longer(self, rows: Sequence[Any], lengths: Ints) -> NDArray[np.bool_]:
        """Which rows have more tokens than the limit, asked of those that reach it."""
        full = np.flatnonzero(lengths >= self.max_length)
        again = self._one_more.encode_batch_fast([rows[n] for n in full.tolist()])
        found = np.zeros(len(rows), np.bool_)
        found[full] = np.fromiter(map(len, again), np.int64, len(full)) > self.max_length
        return found

    def tokens(self, texts: pa.Array) -> Tokens:
        """Every token of whole texts, or of lists of words: neither cut nor with special tokens."""
        words = pa.types.is_list(texts.type)
        found = (self._of_words if words else self._plain).encode_batch(
            texts.to_pylist(), is_pretokenized=words, add_special_tokens=False
        )
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return Tokens(
            ids=_flat((e.ids for e in found), lengths),
            chars=_pairs((e.offsets for e in found), int(lengths.sum())),
            words=_numbers((e.word_ids for e in found), lengths),
        )

    def ids(self, texts: pa.StringArray) -> Ragged:
        """Token ids of whole texts: neither cut nor with special tokens."""
        found = self._plain.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return _flat((e.ids for e in found), lengths)

    @cached_property
    def alone(self) -> Layout:
        """Where the special tokens of a single text stand."""
        return _layout(self._plain.encode("word"))

    @cached_property
    def paired(self) -> Layout:
        """Where the special tokens of a pair stand."""
        return _layout(self._plain.encode("word", "word"))

    def decode(self, tokens: Ragged, *, skip_special: bool = True) -> pa.StringArray:
        """Texts of token ids, special tokens left out unless wanted."""
        bounds = tokens.offsets.tolist()
        values = tokens.values.tolist()
        rows = [values[a:b] for a, b in pairwise(bounds)]
        texts = self._tokenizer.decode_batch(rows, skip_special_tokens=skip_special)
        return pa.array(texts, pa.string())

    def tokens_of(self, ids: Iterable[int]) -> list[str]:
        """The tokens themselves, as they stand in the vocabulary."""
        return [self._tokenizer.id_to_token(int(i)) or "" for i in ids]

    def joined(self, tokens: list[str]) -> str:
        """Tokens as text, as transformers' convert_tokens_to_string makes it."""
        decoder = self._tokenizer.decoder
        return str(decoder.decode(tokens)) if decoder is not None else " ".join(tokens)

    def id_of(self, token: str) -> int:
        """The id of a token of the vocabulary, -1 where there is none."""
        found = self._tokenizer.token_to_id(token)
        return -1 if found is None else int(found)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def subword_prefix(self) -> str:
        """What stands before tokens that go on a word, such as ##; "" where nothing does."""
        model = json.loads(self._tokenizer.to_str())["model"]
        return str(model.get("continuing_subword_prefix") or "")

    @cached_property
    def widens(self) -> tuple[bool, bool]:
        """Whether the library counts the space before a window's first token in with it.

        Of texts and of lists of words. A byte-level tokenizer that puts a space before a text takes
        the first one that it sees in a window for that.
        """
        texts, words = (
            _leaves(json.loads(tokenizer.to_str())["post_processor"])
            for tokenizer in (self._plain, self._of_words)
        )
        return _widens(texts), _widens(words)

    @cached_property
    def _plain(self) -> Any:
        return self._open()

    @cached_property
    def _one_more(self) -> Any:
        """It cuts one token behind the limit."""
        tokenizer = self._open()
        tokenizer.enable_truncation(self.max_length + 1)
        return tokenizer

    @cached_property
    def _of_words(self) -> Any:
        """The same for lists of words: those of RoBERTa's kind need to put a space before each."""
        content = json.loads(self._plain.to_str())
        parts = _leaves(content["pre_tokenizer"]) + _leaves(content["post_processor"])
        without = [part for part in parts if part.get("add_prefix_space") is False]
        for part in without:
            part["add_prefix_space"] = True
        return type(self._plain).from_str(json.dumps(content)) if without else self._plain

    def _open(self) -> Any:
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(self._file))
        except Exception as error:  # the library raises bare Exception for every fault
            raise BundleError(f"{self._file}: not a tokenizer", "export the model again") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


@cache
def _tells_what_it_cuts() -> bool:
    """Whether the library gives the tokens that it has left out. From 0.23.1 on it stops at the
    limit and does not know of any (huggingface/tokenizers#2091)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    probe = Tokenizer(models.WordLevel({"word": 0}, unk_token="word"))
    probe.pre_tokenizer = pre_tokenizers.Whitespace()
    probe.enable_truncation(1)
    return bool(probe.encode("word word word").overflowing)


def clean_up(text: str) -> str:
    """Take out the space before punctuation and English contractions.

    The rules of transformers' PreTrainedTokenizerBase.clean_up_tokenization.
    """
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


def _side_by_side(texts: Sequence[pa.Array]) -> list[Any]:
    columns = [column.to_pylist() for column in texts]
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
