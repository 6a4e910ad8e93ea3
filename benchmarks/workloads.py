"""What is measured: a model's shape, texts, options. Every contestant gets the same rows.

Lengths are in words; the report has them in tokens. A generating workload on a random checkpoint
also sets the lengths of its outputs: `models` makes a checkpoint that ends each row there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from texts import Lengths

MIXED = Lengths(28, 0.8, 2, 180)
SENTENCES = Lengths(18, 0.45, 4, 60)
# Tokens of a random checkpoint's answers; one checkpoint serves all T5 workloads.
ANSWERS = Lengths(16, 0.5, 4, 64)


@dataclass(frozen=True)
class Workload:
    """
    Attributes:
        task: As the engine names it.
        model: A key of `prepare.MODELS`.
        told: A line that describes it.
        rows: How many; `run.py --scale` multiplies them.
        words: Words of each text.
        output: Tokens of each answer, for a random checkpoint that generates.
        options: Task options, the same for all contestants.
        max_length: Tokens at which a text is cut.
        real: Needs a corpus of sentences and trained weights; skipped without them.
    """

    told: str
    task: str
    model: str
    rows: int
    words: Lengths = MIXED
    output: Lengths | None = None
    options: dict[str, Any] = field(default_factory=dict)
    max_length: int = 256
    real: bool = False


TOPICS = [
    "world politics", "sports", "business", "science and technology", "war", "health", "weather",
    "music", "travel", "food",
]  # fmt: skip
GREEDY: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 128}
# The random checkpoints' tokens are so likely that all draws are the same.
SAMPLED: dict[str, Any] = {**GREEDY, "do_sample": True, "top_k": 50, "temperature": 0.7}
BEAMS: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 128}
# As the configurations of t5-small and BART ask for when they summarize.
UNREPEATED: dict[str, Any] = {**BEAMS, "no_repeat_ngram_size": 3}

WORKLOADS = {
    "encode-mixed": Workload(
        "MiniLM embeddings, texts of mixed lengths", "feature-extraction", "minilm", 80
    ),
    "encode-short": Workload(
        "MiniLM embeddings, short texts", "feature-extraction", "minilm", 192,
        Lengths(8, 0.4, 2, 24),
    ),
    "encode-long": Workload(
        "MiniLM embeddings, texts of 512 tokens", "feature-extraction", "minilm", 10,
        Lengths(600, 0, 600, 600), max_length=512,
    ),
    "classify": Workload("MiniLM sentiment", "text-classification", "classifier", 80),
    "ner": Workload("MiniLM entities", "token-classification", "tagger", 128, SENTENCES),
    "zero-shot": Workload(
        "MiniLM entailment, 10 labels a row", "zero-shot-classification", "entailment", 12,
        SENTENCES, options={"candidate_labels": TOPICS},
    ),
    "translate": Workload(
        "t5-small's shape, greedy", "translation", "t5", 22, SENTENCES, ANSWERS,
        GREEDY, 512,
    ),
    "translate-beam4": Workload(
        "t5-small's shape, 4 beams", "translation", "t5", 8, SENTENCES, ANSWERS,
        BEAMS, 512,
    ),
    "summarize": Workload(
        "t5-small's shape, long in and short out", "summarization", "t5", 5,
        Lengths(260, 0.25, 120, 360), ANSWERS, GREEDY, 512,
    ),
    "generate": Workload(
        "GPT-2's shape, sampled", "text-generation", "gpt2", 5, Lengths(14, 0.5, 3, 48),
        ANSWERS, SAMPLED, 512,
    ),
    "generate-llm": Workload(
        "Qwen2.5-0.5B's shape, greedy, 64 to 256 tokens in and 64 out", "text-generation", "qwen2",
        32, Lengths(105, 0.45, 50, 180), Lengths(64, 0, 64, 64),
        {"num_beams": 1, "max_new_tokens": 64}, 512,
    ),
    "translate-real": Workload(
        "flan-t5-small's trained weights, English to German, ending where the model ends",
        "translation", "flan-t5-small", 14, options=GREEDY, max_length=512, real=True,
    ),
    "translate-real-beam4": Workload(
        "the same with 4 beams", "translation", "flan-t5-small", 14, options=BEAMS, max_length=512,
        real=True,
    ),
    "translate-real-unrepeated": Workload(
        "the same with 4 beams that repeat no three tokens", "translation", "flan-t5-small", 14,
        options=UNREPEATED, max_length=512, real=True,
    ),
}  # fmt: skip
