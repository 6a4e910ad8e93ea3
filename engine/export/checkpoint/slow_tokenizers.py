"""Tokenizers that have only a slow form in transformers: converted and compared, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import (
    byte_tokenizer,
    marian_tokenizer,
    sentencepiece_tokenizer,
    tokenizer_proof,
)

# Tokenizers that do more to a text than the tokenizers library can, by their classes.
_WHY: Mapping[str, str] = {
    "BertJapaneseTokenizer": "it splits words with MeCab, Sudachi or Juman++",
    "CpmTokenizer": "it splits words with jieba",
    "CpmAntTokenizer": "it splits words with jieba",
    "FlaubertTokenizer": "it splits words by Moses' rules, in Python",
    "FSMTTokenizer": "it splits words by Moses' rules, in Python",
    "XLMTokenizer": "it splits words by Moses' rules, in Python",
    "BioGptTokenizer": "it splits words by Moses' rules, in Python",
    "BertweetTokenizer": "it normalizes tweets by rules in Python",
    "PhobertTokenizer": "it splits words by rules in Python",
    "CanineTokenizer": "its tokens are code points, of which it has no vocabulary",
}


def fast(slow: Any, size: int) -> Any:
    """A fast tokenizer that encodes and decodes as `slow` does, which has been compared.

    Args:
        slow: A slow tokenizer of transformers.
        size: Ids that the model has.

    Raises:
        ExportError: It cannot be converted, or the converted one gives other ids or texts.
    """
    kind = type(slow).__name__
    if kind == "MarianTokenizer":
        return marian_tokenizer.fast(slow)
    if kind == "ByT5Tokenizer":
        converted = byte_tokenizer.fast(slow)
        tokenizer_proof.check(slow, converted, byte_tokenizer.pieces(slow))
        return converted
    if kind in _WHY or sentencepiece_tokenizer.processor(slow) is None:
        raise ExportError(
            f"{kind} has no fast form in transformers, and it cannot be converted for the "
            f"tokenizers library: {_WHY.get(kind, 'its rules are in Python')}",
            "if a tokenizer.json exists that gives the same ids, put it into the checkpoint and "
            'name "PreTrainedTokenizerFast" as tokenizer_class in its tokenizer_config.json; '
            "else export a checkpoint of another family",
        )
    converted = sentencepiece_tokenizer.fast(slow, size)
    tokenizer_proof.check(slow, converted, sentencepiece_tokenizer.pieces(slow))
    return converted
