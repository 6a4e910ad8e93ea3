"""ByT5's tokenizer for the `tokenizers` library: a text is its UTF-8 bytes.

One rare case differs: ByT5 adds no end token to a text that ends with a literal one.
"""

from __future__ import annotations

from typing import Any

from engine.export.checkpoint.sentencepiece_tokenizer import template


def fast(slow: Any) -> Any:
    """A PreTrainedTokenizerFast that encodes and decodes as `slow`, a ByT5Tokenizer, does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    tokens = {letter: byte + slow.offset for byte, letter in bytes_to_unicode().items()}
    added = {str(token): n for n, token in slow.added_tokens_decoder.items()}
    backend = Tokenizer(models.BPE({**tokens, **added}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # ByT5 leaves out bytes that are no text.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\ufffd", "")])
    backend.post_processor = template(slow, {n: token for token, n in added.items()})
    for _, token in sorted(slow.added_tokens_decoder.items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=slow.unk_token,
        eos_token=slow.eos_token,
        pad_token=slow.pad_token,
        additional_special_tokens=list(slow.additional_special_tokens),
        model_max_length=slow.model_max_length,
        model_input_names=list(slow.model_input_names),
        clean_up_tokenization_spaces=slow.clean_up_tokenization_spaces,
        truncation_side=slow.truncation_side,
    )


def pieces(slow: Any) -> list[str]:
    """Characters that a text can have, for `tokenizer_proof`."""
    return [chr(n) for n in (*range(32, 127), 233, 955, 1078, 8364, 12354, 27700, 128512)]
