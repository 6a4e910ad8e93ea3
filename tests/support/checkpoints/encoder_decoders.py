"""Models with an encoder and a decoder: T5, mT5 and the BART family."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.checkpoints.files import save, save_lively, write_json
from support.checkpoints.tokenizers import SENTENCES, byte_level, fairseq, unigram

# As the real t5-small has them.
T5_TASKS = {
    "translation_en_to_de": {
        "early_stopping": True,
        "max_length": 300,
        "num_beams": 4,
        "prefix": "translate English to German: ",
    },
    "translation_en_to_fr": {
        "early_stopping": True,
        "max_length": 300,
        "num_beams": 4,
        "prefix": "translate English to French: ",
    },
}


# Two plus two layers of the BART family. Weights ten times the usual size: with the usual ones a
# model this small gives every token about the same logit.
PAIR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 512,
    "init_std": 0.3,
}


_BART_TOKENS: dict[str, Any] = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}


# As bart-large-cnn has them, shorter.
_SUMMARIES: dict[str, Any] = {
    "forced_bos_token_id": 0,
    "early_stopping": True,
    "length_penalty": 2.0,
    "max_length": 30,
    "min_length": 6,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
}


_T5_SHAPE: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def t5(folder: Path, **config: Any) -> Path:
    """A T5 of two plus two layers; keyword arguments go to T5Config."""
    from transformers import T5Config, T5ForConditionalGeneration

    unigram().save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": 192,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "task_specific_params": T5_TASKS,
    }
    return save(T5ForConditionalGeneration, T5Config(**{**settings, **config}), folder)


def t5_small(folder: Path, tokenizer: Path) -> Path:
    """t5-small's real shape and tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = T5Config(decoder_start_token_id=0, task_specific_params=T5_TASKS)
    save(T5ForConditionalGeneration, shape, folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def mt5(folder: Path, **config: Any) -> Path:
    """An mT5: gated feed-forward layers and a head of its own, as FLAN-T5 has them, too."""
    from transformers import MT5Config, MT5ForConditionalGeneration

    tokenizer = unigram()
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    }
    return save_lively(MT5ForConditionalGeneration, MT5Config(**{**settings, **config}), folder)


def umt5(folder: Path, **config: Any) -> Path:
    """A UMT5: each layer of both sides has a bias by distance of its own."""
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    tokenizer = unigram()
    tokenizer.save_pretrained(folder)
    settings = {**_T5_SHAPE, "vocab_size": len(tokenizer), **config}
    return save_lively(UMT5ForConditionalGeneration, UMT5Config(**settings), folder)


def longt5(folder: Path, attention: str = "local", **config: Any) -> Path:
    """A LongT5 whose blocks are shorter than its texts; attention "local" or "transient-global"."""
    from transformers import LongT5Config, LongT5ForConditionalGeneration

    tokenizer = unigram()
    tokenizer.save_pretrained(folder)
    settings = {
        **_T5_SHAPE,
        "vocab_size": len(tokenizer),
        "local_radius": 5,
        "global_block_size": 4,
        "encoder_attention_type": attention,
        **config,
    }
    return save_lively(LongT5ForConditionalGeneration, LongT5Config(**settings), folder)


def bart(folder: Path, **config: Any) -> Path:
    """A BART of two plus two layers with a bias on its logits; arguments go to BartConfig.

    Its generation_config has the settings of a summarizer: beams, lengths, n-grams, forced tokens.
    """
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = byte_level("bart")
    tokenizer.save_pretrained(folder)
    shape = {**PAIR, "vocab_size": len(tokenizer)}
    settings = {**shape, **_BART_TOKENS, **_SUMMARIES, **config}
    return save_lively(BartForConditionalGeneration, BartConfig(**settings), folder)


def bart_like(folder: Path, name: str, **config: Any) -> Path:
    """A relative of BART by its name in transformers' classes, such as Blenderbot or Mvp."""
    import transformers

    tokenizer = byte_level("bart")
    tokenizer.save_pretrained(folder)
    settings = {**PAIR, **_BART_TOKENS, "vocab_size": len(tokenizer), "scale_embedding": True}
    shape = getattr(transformers, f"{name}Config")(**{**settings, **config})
    return save_lively(getattr(transformers, f"{name}ForConditionalGeneration"), shape, folder)


def mbart(folder: Path, fifty: bool = False, **config: Any) -> Path:
    """A pre-norm BART with language codes: mBART (`X </s> en_XX`), or mBART-50 (`en_XX X </s>`)."""
    from transformers import (
        MBart50TokenizerFast,
        MBartConfig,
        MBartForConditionalGeneration,
        MBartTokenizerFast,
    )

    kind = MBart50TokenizerFast if fifty else MBartTokenizerFast
    tokenizer = kind(tokenizer_object=fairseq(), src_lang="en_XX", model_max_length=64)
    tokenizer.save_pretrained(folder)
    start = 2 if fifty else tokenizer.convert_tokens_to_ids("ro_RO")
    settings = {**PAIR, **_BART_TOKENS, "vocab_size": len(tokenizer) + 1, "scale_embedding": True}
    shape = MBartConfig(**{**settings, "decoder_start_token_id": start, **config})
    return save_lively(MBartForConditionalGeneration, shape, folder)


def mbart50(folder: Path, **config: Any) -> Path:
    return mbart(folder, fifty=True, **config)


def nllb(folder: Path, **config: Any) -> Path:
    """An M2M100 with NLLB's language codes: sinusoidal positions, pre-norm."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizerFast

    tokenizer = NllbTokenizerFast(
        tokenizer_object=fairseq(), src_lang="eng_Latn", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    settings = {**PAIR, **_BART_TOKENS, "vocab_size": len(tokenizer), "scale_embedding": True}
    shape = M2M100Config(**{**settings, "decoder_start_token_id": 2, **config})
    return save_lively(M2M100ForConditionalGeneration, shape, folder)


def marian(folder: Path, **config: Any) -> Path:
    """A Marian model: sinusoidal positions, scaled embeddings, the pad as start and as bad word."""
    from transformers import MarianConfig, MarianMTModel

    tokenizer = unigram()
    tokenizer.save_pretrained(folder)
    pad = tokenizer.pad_token_id
    settings: dict[str, Any] = {
        **PAIR,
        "vocab_size": len(tokenizer),
        "activation_function": "swish",
        "scale_embedding": True,
        "static_position_embeddings": True,
        "pad_token_id": pad,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": pad,
        "bad_words_ids": [[pad]],
        "forced_eos_token_id": tokenizer.eos_token_id,
        "max_length": 64,
        "num_beams": 4,
    }
    return save_lively(MarianMTModel, MarianConfig(**{**settings, **config}), folder)


def marian_pieces(folder: Path, kind: str = "unigram") -> Path:
    """The same with Marian's own tokenizer files; needs sentencepiece.

    As in the real ones: a model for each side, one vocabulary, the pad last.
    """
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel

    folder.mkdir(parents=True)
    sides = {"source": SENTENCES[:4], "target": SENTENCES[4:6]}
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side, sentences in sides.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(folder / side),
            vocab_size=60 if side == "source" else 40,
            model_type=kind,
            **({"hard_vocab_limit": False} if kind == "unigram" else {}),
            minloglevel=2,
        )
        (folder / f"{side}.vocab").unlink()
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        spm = sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm"))
        pieces = [spm.id_to_piece(n) for n in range(spm.get_piece_size()) if not spm.is_control(n)]
        for piece in pieces:
            vocabulary.setdefault(piece, len(vocabulary))
    vocabulary.update({">>deu<<": len(vocabulary), "<pad>": len(vocabulary) + 1})
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "tokenizer_config.json", {"source_lang": "eng", "target_lang": "deu"})
    pad = vocabulary["<pad>"]
    settings = {
        **PAIR,
        "vocab_size": len(vocabulary),
        "pad_token_id": pad,
        "eos_token_id": 0,
        "decoder_start_token_id": pad,
        "bad_words_ids": [[pad]],
    }
    return save_lively(MarianMTModel, MarianConfig(**settings), folder)


def pegasus(folder: Path, **config: Any) -> Path:
    """A Pegasus: sinusoidal positions, pre-norm, the pad as start."""
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    tokenizer = unigram()
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {
        **PAIR,
        "vocab_size": len(tokenizer),
        "scale_embedding": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 1,
        "length_penalty": 0.8,
        "max_length": 40,
        "num_beams": 8,
    }
    shape = PegasusConfig(**{**settings, **config})
    return save_lively(PegasusForConditionalGeneration, shape, folder)
