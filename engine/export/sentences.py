"""The texts that every export is compared and calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.bundle.format import TOKENIZER, ModelConfig

if TYPE_CHECKING:
    from engine.core.types import Ints

# Different in length, script and content: a mask that leaks or a position that shifts shows in the
# short ones.
SENTENCES = (
    "Hello.",
    "The house is wonderful.",
    "A man in a blue shirt is standing on a ladder and cleaning a window.",
    "No",
    "In 1969, two people walked on the moon for 2 hours and 31 minutes.",
    "🎉 Great news!!! 🎉 We won, 3:2 after extra time 😀",
    "Ein Hund läuft über die grüne Wiese, und niemand ruft ihn zurück.",
    "Ça coûte déjà 12,50 €, n'est-ce pas?",
    "The film is slow, far too long and badly lit, yet I could not look away for a minute.",
    "今日は天気がいいですね。",
    "x = f(y) + 0.5 * [a, b]  # a line of code, with\ttabs and   spaces",
    "When the committee met again in the spring, after a winter in which nothing at all had been "
    "decided, the members who had left in anger came back, took their old seats, and voted, one "
    "after the other, for the very proposal they had fought in October, as if none of the long "
    "letters, the public speeches and the broken friendships had ever happened.",
)
# Sentences by number, for encoders: a short text with a long one, both ways, scripts mixed.
PAIRS = ((0, 11), (11, 3), (5, 9), (6, 2))
# Decode steps that a generating model is compared on.
STEPS = 16


def singles(model_config: ModelConfig) -> list[str]:
    """`SENTENCES` with the model's prefix, as sentence-transformers cleans them."""
    texts = [model_config.prefix + sentence for sentence in SENTENCES]
    texts = [text.strip() for text in texts] if model_config.strip else texts
    return [text.lower() for text in texts] if model_config.lower_case else texts


def pairs() -> list[tuple[str, str]]:
    """The texts of `PAIRS`."""
    return [(SENTENCES[first], SENTENCES[second]) for first, second in PAIRS]


def token_limit(model_config: ModelConfig) -> int:
    """Tokens of a row at most: a causal model needs `STEPS` positions behind the prompt."""
    causal = model_config.decoder is not None and model_config.decoder.causal
    if causal and model_config.position_limit:
        return min(model_config.max_length, model_config.position_limit - STEPS)
    return model_config.max_length


def encode(folder: Path, model_config: ModelConfig, paired: bool = False) -> dict[str, Ints]:
    """`SENTENCES` or `PAIRS` as one padded batch, by the bundle's tokenizer.json.

    Returns:
        input_ids, attention_mask and token_type_ids, int64 (rows, tokens); spans, the characters of
        each token, int64 (rows, tokens, 2).
    """
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    side = model_config.truncation_side or "right"
    tokenizer.enable_truncation(token_limit(model_config), direction=side)
    causal = model_config.decoder is not None and model_config.decoder.causal
    tokenizer.enable_padding(pad_id=model_config.pad_id, direction="left" if causal else "right")
    rows = tokenizer.encode_batch(pairs() if paired else singles(model_config))
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
        "spans": np.array([row.offsets for row in rows], np.int64),
    }
