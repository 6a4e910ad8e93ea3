"""Small checkpoints with random weights and real tokenizers, in the Hugging Face layout.

Every function writes one into the folder it is given and returns that folder. Weights come from a
seed, so that two calls give the same bytes. Needs torch and transformers.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SENTENCES = (
    "The house is wonderful and the garden is large.",
    "A dog runs over the green meadow, and nobody calls it back.",
    "We met again in the spring, after a long winter.",
    "Two people walked on the moon for 2 hours and 31 minutes in 1969.",
    "Das Haus ist wunderbar, der Garten ist groß.",
    "Ein Hund läuft über die grüne Wiese.",
    "La maison est merveilleuse et le jardin est grand.",
    "translate English to German: translate English to French:",
)

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


def t5(folder: Path, **config: Any) -> Path:
    """A T5 of two plus two layers; keyword arguments go to T5Config."""
    from transformers import T5Config, T5ForConditionalGeneration

    _unigram().save_pretrained(folder)
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
    return _save(T5ForConditionalGeneration, T5Config(**{**settings, **config}), folder)


def t5_small(folder: Path, tokenizer: Path) -> Path:
    """t5-small's real shape and tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = T5Config(decoder_start_token_id=0, task_specific_params=T5_TASKS)
    _save(T5ForConditionalGeneration, shape, folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def bert(folder: Path, **config: Any) -> Path:
    """A BERT of two layers without a head; keyword arguments go to BertConfig."""
    from transformers import BertModel

    return _save(BertModel, _bert_config(folder, config), folder)


def classifier(folder: Path, labels: tuple[str, ...] = ("bad", "good"), **config: Any) -> Path:
    """The same with a classification head."""
    from transformers import BertForSequenceClassification

    named = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    settings = _bert_config(folder, {**named, **config})
    return _save(BertForSequenceClassification, settings, folder)


def roberta(folder: Path, **config: Any) -> Path:
    """A RoBERTa of one layer: positions start behind the padding index."""
    from transformers import RobertaConfig, RobertaModel

    _wordpiece().save_pretrained(folder)
    settings = {**_SHAPE, "num_hidden_layers": 1, "pad_token_id": 1, **config}
    return _save(RobertaModel, RobertaConfig(**settings), folder)


def distilbert(folder: Path, **config: Any) -> Path:
    """A DistilBERT classifier of one layer; it has no token_type_ids, its tokenizer gives some."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    _wordpiece().save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": 160,
        "dim": 32,
        "n_layers": 1,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
    }
    shape = DistilBertConfig(**{**settings, **config})
    return _save(DistilBertForSequenceClassification, shape, folder)


def mt5(folder: Path, **config: Any) -> Path:
    """An mT5: gated feed-forward layers and a head of its own, as FLAN-T5 has them, too."""
    from transformers import MT5Config, MT5ForConditionalGeneration

    tokenizer = _unigram()
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
    return _save_lively(MT5ForConditionalGeneration, MT5Config(**{**settings, **config}), folder)


def bart(folder: Path, **config: Any) -> Path:
    """A BART of two plus two layers with a bias on its logits; arguments go to BartConfig.

    Its generation_config has the settings of a summarizer: beams, lengths, n-grams, forced tokens.
    """
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = _bytes("bart")
    tokenizer.save_pretrained(folder)
    shape = {**_PAIR, "vocab_size": len(tokenizer)}
    settings = {**shape, **_BART_TOKENS, **_SUMMARIES, **config}
    return _save_lively(BartForConditionalGeneration, BartConfig(**settings), folder)


def mbart(folder: Path, fifty: bool = False, **config: Any) -> Path:
    """A pre-norm BART with language codes: mBART (`X </s> en_XX`), or mBART-50 (`en_XX X </s>`)."""
    from transformers import (
        MBart50TokenizerFast,
        MBartConfig,
        MBartForConditionalGeneration,
        MBartTokenizerFast,
    )

    kind = MBart50TokenizerFast if fifty else MBartTokenizerFast
    tokenizer = kind(tokenizer_object=_fairseq(), src_lang="en_XX", model_max_length=64)
    tokenizer.save_pretrained(folder)
    start = 2 if fifty else tokenizer.convert_tokens_to_ids("ro_RO")
    settings = {**_PAIR, **_BART_TOKENS, "vocab_size": len(tokenizer) + 1, "scale_embedding": True}
    shape = MBartConfig(**{**settings, "decoder_start_token_id": start, **config})
    return _save_lively(MBartForConditionalGeneration, shape, folder)


def mbart50(folder: Path, **config: Any) -> Path:
    return mbart(folder, fifty=True, **config)


def nllb(folder: Path, **config: Any) -> Path:
    """An M2M100 with NLLB's language codes: sinusoidal positions, pre-norm."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizerFast

    tokenizer = NllbTokenizerFast(
        tokenizer_object=_fairseq(), src_lang="eng_Latn", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    settings = {**_PAIR, **_BART_TOKENS, "vocab_size": len(tokenizer), "scale_embedding": True}
    shape = M2M100Config(**{**settings, "decoder_start_token_id": 2, **config})
    return _save_lively(M2M100ForConditionalGeneration, shape, folder)


def marian(folder: Path, **config: Any) -> Path:
    """A Marian model: sinusoidal positions, scaled embeddings, the pad as start and as bad word."""
    from transformers import MarianConfig, MarianMTModel

    tokenizer = _unigram()
    tokenizer.save_pretrained(folder)
    pad = tokenizer.pad_token_id
    settings: dict[str, Any] = {
        **_PAIR,
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
    return _save_lively(MarianMTModel, MarianConfig(**{**settings, **config}), folder)


def marian_pieces(folder: Path) -> Path:
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
            hard_vocab_limit=False,
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
        **_PAIR,
        "vocab_size": len(vocabulary),
        "pad_token_id": pad,
        "eos_token_id": 0,
        "decoder_start_token_id": pad,
        "bad_words_ids": [[pad]],
    }
    return _save_lively(MarianMTModel, MarianConfig(**settings), folder)


def pegasus(folder: Path, **config: Any) -> Path:
    """A Pegasus: sinusoidal positions, pre-norm, the pad as start."""
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    tokenizer = _unigram()
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {
        **_PAIR,
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
    return _save_lively(PegasusForConditionalGeneration, shape, folder)


def gpt2(folder: Path, **config: Any) -> Path:
    """A GPT-2 of two layers; like the real one it has no padding token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    _bytes("gpt2").save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": 300,
        "n_positions": 512,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }
    return _save_lively(GPT2LMHeadModel, GPT2Config(**{**settings, **config}), folder)


def opt(folder: Path, **config: Any) -> Path:
    """An OPT of two layers: positions come from the mask, every prompt starts with </s>."""
    from transformers import OPTConfig, OPTForCausalLM

    _bytes("opt").save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 512,
        "init_std": 0.3,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return _save_lively(OPTForCausalLM, OPTConfig(**{**settings, **config}), folder)


# Two plus two layers of the BART family. Weights ten times the usual size: with the usual ones a
# model this small gives every token about the same logit.
_PAIR: dict[str, Any] = {
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


def embedder(
    folder: Path,
    pooling: tuple[str, ...] = ("pooling_mode_mean_tokens",),
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    **config: Any,
) -> Path:
    """The BERT in sentence-transformers' layout."""
    bert(folder, **config)
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 48})
    flags = dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens"), False)
    write_json(folder / "1_Pooling/config.json", {**flags, **dict.fromkeys(pooling, True)})
    return folder


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def edit_json(file: Path, **changes: Any) -> None:
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **changes})


def to_pickle(folder: Path) -> Path:
    """Replace the safetensors by a pickled state."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


_SHAPE = {
    "vocab_size": 160,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def _bert_config(folder: Path, config: dict[str, Any]) -> Any:
    from transformers import BertConfig

    _wordpiece().save_pretrained(folder)
    return BertConfig(**{**_SHAPE, **config})


def _save(model: Any, config: Any, folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    model(config).save_pretrained(folder)
    return folder


def _save_lively(model: Any, config: Any, folder: Path) -> Path:
    """With random biases and norms, which start as zeros and ones, and a bias on the logits."""
    import torch

    torch.manual_seed(0)
    made = model(config)
    vectors = [weight for weight in made.parameters() if weight.ndim == 1]
    vectors += [v for name, v in made.named_buffers() if name == "final_logits_bias"]
    with torch.no_grad():
        for vector in vectors:
            vector.add_(torch.randn_like(vector), alpha=0.2)
    made.save_pretrained(folder)
    return folder


def _bytes(kind: str) -> Any:
    """A byte-level BPE tokenizer with the special tokens of GPT-2, OPT or BART."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special, named = _BYTE_TOKENS[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if kind == "bart":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    if kind == "opt":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="</s> $A", special_tokens=[("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=64,
        **named,
    )


_BYTE_TOKENS: dict[str, tuple[list[str], dict[str, str]]] = {
    "gpt2": (
        ["<|endoftext|>"],
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    ),
    "opt": (
        ["<s>", "<pad>", "</s>", "<unk>"],
        {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    ),
    "bart": (
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            "sep_token": "</s>",
            "cls_token": "<s>",
        },
    ),
}


def _fairseq() -> Any:
    """A unigram `tokenizers` object with fairseq's first ids; language codes come on top of it."""
    return _of_pieces(["<s>", "<pad>", "</s>", "<unk>"])


def _of_pieces(special: list[str]) -> Any:
    """A unigram `tokenizers` object, the same each time: the library's trainer makes another one in
    each process, and now and then one whose model is no good in int8."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = [f"\u2581{word}" for sentence in SENTENCES for word in sentence.split()]
    found = Counter(
        word[start:stop]
        for word in words
        for start in range(len(word))
        for stop in range(start + 1, min(len(word), start + 8) + 1)
    )
    single = sorted(piece for piece in found if len(piece) == 1)
    longer = sorted(
        (piece for piece in found if len(piece) > 1),
        key=lambda piece: (-found[piece] * (len(piece) - 1), piece),
    )
    pieces = single + longer[: 180 - len(special) - len(single)]
    total = sum(found[piece] for piece in pieces)
    scored = [(piece, math.log(found[piece] / total)) for piece in pieces]
    vocabulary = [(token, 0.0) for token in special] + scored
    tokenizer = Tokenizer(models.Unigram(vocabulary, special.index("<unk>")))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _unigram() -> Any:
    """A unigram tokenizer with T5's special tokens."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = _of_pieces(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
    )


def _wordpiece() -> Any:
    """A WordPiece tokenizer with BERT's special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


# transformers' name of a family's classes, its configuration and its tokenizer.
_ENCODERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("Bert", {}, "wordpiece"),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        "wordpiece",
    ),
    "roberta": ("Roberta", {"type_vocab_size": 1, "max_position_embeddings": 66}, "bytes"),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "max_position_embeddings": 66}, "unigram"),
    "albert": ("Albert", {"embedding_size": 16}, "wordpiece"),
    "electra": ("Electra", {"embedding_size": 16}, "wordpiece"),
    "mpnet": ("MPNet", {"max_position_embeddings": 66}, "bytes"),
    # As DeBERTa-v3 has it: no absolute positions, no token types, logarithmic buckets.
    "deberta-v2": (
        "DebertaV2",
        {
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        },
        "wordpiece",
    ),
    "bart": ("Bart", {"max_position_embeddings": 64}, "bytes"),
    "mbart": ("MBart", {"max_position_embeddings": 64}, "bytes"),
}
_HEADS = {
    "feature-extraction": "Model",
    "text-classification": "ForSequenceClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "fill-mask": "ForMaskedLM",
}
_LABELS = {
    "text-classification": ("bad", "good"),
    "zero-shot-classification": ("contradiction", "neutral", "Entailment"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
}


def encoder(folder: Path, family: str, task: str, **config: Any) -> Path:
    """Two layers of a family of encoders (or a BART) with the head of a task."""
    import transformers

    name, shape, kind = _ENCODERS[family]
    tokenizer = {"wordpiece": _wordpiece, "bytes": _roberta, "unigram": _xlm_roberta}[kind]()
    tokenizer.save_pretrained(folder)
    labels = dict(enumerate(_LABELS.get(task, ())))
    settings: dict[str, Any] = {
        **(_PAIR if family in ("bart", "mbart") else _SHAPE),
        "initializer_range": 0.3,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        **({"id2label": labels, "label2id": {n: i for i, n in labels.items()}} if labels else {}),
        **shape,
        **config,
    }
    made = getattr(transformers, f"{name}Config")(**settings)
    return _save_lively(getattr(transformers, f"{name}{_HEADS[task]}"), made, folder)


def _roberta() -> Any:
    """A RoBERTa tokenizer of its own class, whose settings are not transformers' defaults."""
    from transformers import RobertaTokenizerFast

    return RobertaTokenizerFast(
        tokenizer_object=_bytes("bart").backend_tokenizer,
        add_prefix_space=True,
        trim_offsets=False,
        model_max_length=64,
    )


def _xlm_roberta() -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import XLMRobertaTokenizerFast

    tokenizer = _fairseq()
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=64)


def dense(folder: Path, wide: int, out: int, activation: str, bias: bool = True) -> Path:
    """A Dense module of sentence-transformers in its folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "config.json",
        {
            "in_features": wide,
            "out_features": out,
            "bias": bias,
            "activation_function": activation,
        },
    )
    torch.manual_seed(out)
    state = {"linear.weight": torch.randn(out, wide)}
    if bias:
        state["linear.bias"] = torch.randn(out)
    save_file(state, folder / "model.safetensors")
    return folder


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
