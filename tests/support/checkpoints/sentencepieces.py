"""Checkpoints whose tokenizer is a sentencepiece model with ids of its own, without a fast form.

Needs sentencepiece.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from support.checkpoints.encoder_decoders import _BART_TOKENS, PAIR
from support.checkpoints.files import save_lively, write_json
from support.checkpoints.tokenizers import SENTENCES

# First and last letter of scripts: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Devanagari,
# Bengali, Gurmukhi, Tamil, Telugu, Thai, Lao, Georgian, Ethiopic, Khmer, kana, Han and Hangul.
_LETTERS = (
    ("a", "z"), ("à", "ÿ"), ("Ā", "ſ"), ("α", "ω"), ("а", "я"), ("ա", "ֆ"), ("א", "ת"),
    ("ا", "ي"), ("अ", "ह"), ("অ", "হ"), ("ਅ", "ਹ"), ("அ", "ஹ"), ("అ", "హ"), ("ก", "ฮ"),
    ("ກ", "ຮ"), ("ა", "ჰ"), ("ሀ", "ቐ"), ("ក", "ឳ"), ("ぁ", "ゖ"), ("ァ", "ヺ"), ("一", "亀"),
    ("가", "갺"),
)  # fmt: skip
_ENDS = (".", "!", "?", "。", "", " (1969)", ", 12,50 €")


def lines(count: int, seed: int) -> list[str]:
    """Made-up sentences in many scripts, some mixed, the same for a seed."""
    draw = random.Random(seed)
    words = [
        ["".join(_letter(draw, *ends) for _ in range(draw.randint(1, 6))) for _ in range(50)]
        for ends in _LETTERS
    ]
    texts = []
    for _ in range(count):
        script = draw.choice(words)
        chosen = (
            draw.choice(script if draw.random() < 0.8 else draw.choice(words))
            for _ in range(draw.randint(2, 14))
        )
        texts.append(" ".join(chosen) + draw.choice(_ENDS))
    return texts


def _letter(draw: random.Random, first: str, last: str) -> str:
    return chr(draw.randint(ord(first), ord(last)))


def train(folder: Path, name: str, kind: str, size: int = 1200, **settings: Any) -> Any:
    """A sentencepiece model of many scripts in the folder's file `name`; some of the characters
    are unknown to it."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*SENTENCES, *lines(1500, seed=0)]),
        model_prefix=str(folder / "trained"),
        vocab_size=size,
        model_type=kind,
        character_coverage=0.998,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    (folder / "trained.vocab").unlink()
    (folder / "trained.model").rename(folder / name)
    return sentencepiece.SentencePieceProcessor(str(folder / name))


def m2m100(folder: Path, kind: str = "unigram", **config: Any) -> Path:
    """An M2M100 with the files of the real one: ids of vocab.json, a token for each of 100
    languages behind them, and eight made-up words that no text has."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.models.m2m_100 import tokenization_m2m_100

    spm = train(folder, "sentencepiece.bpe.model", kind)
    pieces = [spm.id_to_piece(n) for n in range(3, spm.get_piece_size())]
    random.Random(0).shuffle(pieces)
    # Of the last two one is found where sentencepiece knows no such character, the other never.
    listed = ["<s>", "<pad>", "</s>", "<unk>", *pieces, "龘", "un▁known"]
    write_json(folder / "vocab.json", {piece: n for n, piece in enumerate(listed)})
    codes = tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    named = {"additional_special_tokens": [f"__{code}__" for code in codes]}
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", {**ends, "sep_token": "</s>", **named})
    about = {"tokenizer_class": "M2M100Tokenizer", "src_lang": None, "tgt_lang": None}
    write_json(folder / "tokenizer_config.json", {**ends, **about, "model_max_length": 1024})
    size = len(listed) + len(codes) + 8
    settings = {**PAIR, **_BART_TOKENS, "vocab_size": size, "scale_embedding": True}
    settings |= {"decoder_start_token_id": 2, "max_length": 20, "num_beams": 2, **config}
    del settings["forced_eos_token_id"]
    return save_lively(M2M100ForConditionalGeneration, M2M100Config(**settings), folder)


def byt5(folder: Path, **config: Any) -> Path:
    """A T5 over bytes: no file of its tokenizer but tokenizer_config.json."""
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    ByT5Tokenizer().save_pretrained(folder)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    settings = {**shape, "vocab_size": 384, "decoder_start_token_id": 0, "max_length": 24, **config}
    return save_lively(T5ForConditionalGeneration, T5Config(**settings), folder)


def plbart(folder: Path, **config: Any) -> Path:
    """A PLBART between programming languages, with its own tokenizer's file."""
    from transformers import PLBartConfig, PLBartForConditionalGeneration, PLBartTokenizer

    train(folder, "sentencepiece.bpe.model", "unigram")
    file = str(folder / "sentencepiece.bpe.model")
    languages = {"language_codes": "base", "src_lang": "java", "tgt_lang": "en_XX"}
    tokenizer = PLBartTokenizer(file, **languages, model_max_length=512)
    tokenizer.save_pretrained(folder)
    settings = {**PAIR, **_BART_TOKENS, "vocab_size": len(tokenizer) + 3, "scale_embedding": True}
    shape = PLBartConfig(**{**settings, **config})
    return save_lively(PLBartForConditionalGeneration, shape, folder)
