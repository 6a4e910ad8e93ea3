"""Texts to token ids and back, by the `tokenizers` library alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import BundleError
from engine.flow import Ragged


class Tokenizer:
    """A bundle's tokenizer, cutting rows at `max_length` tokens, special tokens included.

    Of a pair the longer text is cut first, as transformers does it. Padding is the batcher's.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(self, file: Path, max_length: int) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for every fault
            raise BundleError(f"{file}: not a tokenizer", "export the model again") from error
        self._tokenizer.no_padding()
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
        columns = [column.to_pylist() for column in texts]
        rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        encodings = self._tokenizer.encode_batch_fast(rows)
        lengths = np.fromiter(map(len, encodings), np.int64, len(rows))
        ids = _flat((e.ids for e in encodings), lengths)
        types = _flat((e.type_ids for e in encodings), lengths) if type_ids else None
        truncated = np.fromiter((bool(e.overflowing) for e in encodings), np.bool_, len(rows))
        return ids, types, truncated

    def decode(self, tokens: Ragged) -> pa.StringArray:
        """Texts of generated ids, special tokens left out."""
        bounds = tokens.offsets.tolist()
        values = tokens.values.tolist()
        rows = [values[a:b] for a, b in pairwise(bounds)]
        return pa.array(self._tokenizer.decode_batch(rows, skip_special_tokens=True), pa.string())


def _flat(lists: Iterable[list[int]], lengths: NDArray[np.int64]) -> Ragged:
    total = int(lengths.sum())
    return Ragged.of(np.fromiter(chain.from_iterable(lists), np.int64, total), lengths)
