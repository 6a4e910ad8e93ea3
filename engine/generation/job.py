"""What is decoded and under which settings: the ground that greedy and beam search share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.bundle import Generation, Search
from engine.errors import Stopped
from engine.flow import Ints
from engine.generation.decoder import FILLER, Decoder
from engine.generation.rules import Rule, Scores, Seen


@dataclass(frozen=True)
class Job:
    """One batch to decode.

    Attributes:
        decoder: Before its first step.
        settings, search: Of the bundle and of the run.
        rules: Made of `search`.
        prompt: What the decoder starts from: the start token or the prompt, int64 (rows, length),
            FILLER left of shorter rows.
        source: What the encoder read, or the prompt; int64 (rows, length), FILLER where padded.
        max_new_tokens: Tokens a row may generate.
        stopped: Whether to abandon the batch.
    """

    decoder: Decoder
    settings: Generation
    search: Search
    rules: tuple[Rule, ...]
    prompt: Ints
    source: Ints
    max_new_tokens: int
    stopped: Callable[[], bool]

    def step(self, ids: Ints) -> Scores:
        """`Decoder.step`, unless the run is being stopped.

        Raises:
            Stopped: It is.
        """
        if self.stopped():
            raise Stopped("stopped while decoding")
        return self.decoder.step(ids)

    def ruled(self, scores: Scores, ids: Ints, rows: Ints) -> Scores:
        """`scores` after all rules.

        Args:
            scores: float32 (places, vocabulary); left as they are.
            ids: Of each place, the prompt and what was generated; int64 (places, length).
            rows: The row of the batch that each place belongs to, int64 (places,).
        """
        if not self.rules:
            return scores
        own = self.prompt[rows]
        prompts = (own != FILLER).sum(axis=1)
        seen = Seen(ids, self.source[rows], prompts, ids.shape[1] - own.shape[1])
        found = scores.copy()
        for rule in self.rules:
            rule(found, seen)
        return found


def left_padded(ids: Ints, mask: Ints) -> Ints:
    """Rows padded on the right as rows that end together, FILLER on their left and no wider than
    the longest; int64 (rows, length)."""
    lengths = mask.sum(axis=1)
    width = int(lengths.max(initial=0))
    place = np.arange(width) - (width - lengths)[:, None]
    moved = np.take_along_axis(ids, np.maximum(place, 0), axis=1)
    return np.where(place >= 0, moved, FILLER)
