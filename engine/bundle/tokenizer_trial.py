"""Opens a tokenizer as a run does; for `core.confined_process`."""

from __future__ import annotations

import json
from typing import Any

from engine.core.confined_process import RefusedError

_TEXTS = ("", "A text, and a word: naïve 日本 🙂\n", "a" * 100)
_LARGEST_ID = 2**31 - 1


def prepare() -> None:
    """Load the library."""
    import tokenizers  # noqa: F401  # for what comes of it


def attempt(file: str) -> None:
    """Open a file, encode some texts with it, and decode their tokens.

    Raises:
        RefusedError: It is no tokenizer; why.
    """
    import tokenizers

    with open(file, "rb") as stream:
        content = stream.read()
    try:
        _use(tokenizers.Tokenizer.from_buffer(content))
    except RefusedError:
        raise
    except BaseException as error:  # bare Exception for every fault, and panics are none of it
        reason = str(error) or type(error).__name__
        raise RefusedError(f"not a tokenizer: {reason}") from error


def _use(tokenizer: Any) -> None:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0:
        raise RefusedError("not a tokenizer: it has no tokens")
    if largest > _LARGEST_ID:
        raise RefusedError(f"not a tokenizer: a token has the id {largest}")
    json.loads(tokenizer.to_str())
    tokenizer.enable_truncation(16)
    singles = tokenizer.encode_batch_fast(list(_TEXTS))
    tokenizer.encode_batch_fast([(text, text) for text in _TEXTS])
    for encoding in singles:
        tokenizer.decode(encoding.ids)
