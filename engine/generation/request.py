"""What is decoded and under which settings: the ground that all searches share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.types import Ints
from engine.generation.logits_processors import FILLER, LogitsProcessor, Scores, Seen


@dataclass(frozen=True)
class Request:
    """The rows to decode.

    Attributes:
        settings, search: Of the bundle and of the run.
        rules: Made of `search`.
        prompt: What the decoder starts from: the start token or the prompt, int64 (rows, length),
            FILLER left of shorter rows.
        source: What the encoder read, or the prompt; int64 (rows, length), FILLER where padded.
        max_new_tokens: Tokens a row may generate.
    """

    settings: DecoderConfig
    search: GenerationConfig
    rules: tuple[LogitsProcessor, ...]
    prompt: Ints
    source: Ints
    max_new_tokens: int

    def rule(self, scores: Scores, rows: Ints, ids: Ints, lengths: Ints) -> None:
        """Change scores float32 (places, vocabulary) in place by all rules.

        Args:
            rows: The row that each place belongs to, int64 (places,).
            ids, lengths: Of each place, what was generated, int64 (places, max_new_tokens), and
                how much of it, (places,).
        """
        prompts = (self.prompt[rows] != FILLER).sum(axis=1)
        history = self.history(rows, ids, lengths)
        seen = Seen(history, self.source[rows], prompts, lengths)
        for rule in self.rules:
            rule(scores, seen)

    def history(self, rows: Ints, ids: Ints, lengths: Ints) -> Ints:
        """Prompt and generated tokens of each place, ending together: int64 (places, length),
        FILLER left of shorter ones. Arguments as those of `rule`."""
        prompt = self.prompt[rows]
        whole = np.concatenate([prompt, ids], axis=1)
        width = prompt.shape[1] + int(lengths.max(initial=0))
        place = np.arange(width) - width + prompt.shape[1] + lengths[:, None]
        moved = np.take_along_axis(whole, np.maximum(place, 0), axis=1)
        return np.where(place >= 0, moved, FILLER)


def left_padded(ids: Ints, mask: Ints) -> Ints:
    """Rows padded on the right as rows that end together, FILLER on their left and no wider than
    the longest; int64 (rows, length)."""
    lengths = mask.sum(axis=1)
    width = int(lengths.max(initial=0))
    place = np.arange(width) - (width - lengths)[:, None]
    moved = np.take_along_axis(ids, np.maximum(place, 0), axis=1)
    return np.where(place >= 0, moved, FILLER)
