"""Small checkpoints with random weights and real tokenizers, in the Hugging Face layout.

Every function writes one into the folder it is given and returns that folder. Weights come from a
seed, so that two calls give the same bytes. Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.checkpoints.decoders import gpt2, opt, rotary
from support.checkpoints.encoder_decoders import (
    T5_TASKS,
    bart,
    marian,
    marian_pieces,
    mbart,
    mbart50,
    mt5,
    nllb,
    pegasus,
    t5,
    t5_small,
)
from support.checkpoints.encoders import (
    LABELS,
    bert,
    classifier,
    dense,
    distilbert,
    embedder,
    encoder,
    roberta,
)
from support.checkpoints.files import edit_json, save_lively, to_pickle, write_json
from support.checkpoints.tokenizers import SENTENCES, byte_level, unigram, wordpiece

__all__ = [
    "ENCODER_TASKS",
    "GENERATORS",
    "LABELS",
    "SENTENCES",
    "T5_TASKS",
    "bart",
    "bert",
    "byte_level",
    "classifier",
    "dense",
    "distilbert",
    "edit_json",
    "embedder",
    "encoder",
    "gpt2",
    "marian",
    "marian_pieces",
    "mbart",
    "mbart50",
    "mt5",
    "nllb",
    "opt",
    "pegasus",
    "roberta",
    "rotary",
    "save_lively",
    "t5",
    "t5_small",
    "to_pickle",
    "unigram",
    "wordpiece",
    "write_json",
]

# Families of encoders by their attention, each with a head of another kind.
ENCODER_TASKS = {
    "bert": "feature-extraction",
    "distilbert": "question-answering",
    "roberta": "text-classification",
    "albert": "token-classification",
    "electra": "feature-extraction",
    "mpnet": "fill-mask",
    "deberta-v2": "feature-extraction",
    "bart": "text-classification",
}
# Maker of each family that generates, and the task that it is exported for.
GENERATORS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "t5": (t5, "translation_en_to_de"),
    "mt5": (mt5, "text2text-generation"),
    "bart": (bart, "summarization"),
    "mbart": (mbart, "translation_en_XX_to_de_DE"),
    "mbart50": (mbart50, "translation_en_to_de"),
    "nllb": (nllb, "translation_fra_Latn_to_deu_Latn"),
    "marian": (marian, "translation"),
    "pegasus": (pegasus, "summarization"),
    "gpt2": (gpt2, "text-generation"),
    "opt": (opt, "text-generation"),
}
