"""What sentence-transformers does to a text before the tokenizer, on whole columns. Pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.types import Ints

# What str.strip() removes; Arrow's own list is another.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


def clean(texts: pa.StringArray, *, strip: bool, lower_case: bool) -> pa.StringArray:
    """Texts without the white space around them, and lower-cased, as Python's str does it."""
    if strip:
        texts = pc.utf8_trim(texts, characters=WHITE_SPACE)
    return _lower(texts) if lower_case else texts


def removed_before(texts: pa.StringArray, *, strip: bool) -> Ints:
    """Characters that `clean` removes at the start of each text, int64 (rows,)."""
    if not strip:
        return np.zeros(len(texts), np.int64)
    trimmed = pc.utf8_ltrim(texts, characters=WHITE_SPACE)
    lengths = pc.subtract(pc.utf8_length(texts), pc.utf8_length(trimmed))
    return np.asarray(lengths.to_numpy(), np.int64)


def origins(text: str) -> Ints:
    """For each character of text.lower() the character of the text that it is from.

    They differ behind a letter whose lower case has two characters.
    """
    return np.repeat(np.arange(len(text)), [len(character.lower()) for character in text])


def _lower(texts: pa.StringArray) -> pa.StringArray:
    """str.lower() of every text: Arrow knows neither a sigma at the end of a word nor letters that
    become two."""
    if pc.all(pc.string_is_ascii(texts)).as_py() in (True, None):
        return pc.ascii_lower(texts)
    return pa.array([text.lower() for text in texts.to_pylist()], texts.type)
