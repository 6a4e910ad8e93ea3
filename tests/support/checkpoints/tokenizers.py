"""Small tokenizers trained on `SENTENCES`, the same in every process."""

from __future__ import annotations

import math
from collections import Counter
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


def byte_level(kind: str) -> Any:
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


def roberta_tokenizer() -> Any:
    """A RoBERTa tokenizer of its own class, whose settings are not transformers' defaults."""
    from transformers import RobertaTokenizerFast

    return RobertaTokenizerFast(
        tokenizer_object=byte_level("bart").backend_tokenizer,
        add_prefix_space=True,
        trim_offsets=False,
        model_max_length=64,
    )


def fairseq() -> Any:
    """A unigram `tokenizers` object with fairseq's first ids; language codes come on top of it."""
    return _of_pieces(["<s>", "<pad>", "</s>", "<unk>"])


def _of_pieces(special: list[str]) -> Any:
    """A unigram `tokenizers` object; now and then the library's trainer makes one whose model is no
    good in int8."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = [f"\u2581{word}" for sentence in SENTENCES for word in sentence.split()]
    pieces = _frequent_pieces(words, 180 - len(special))
    total = sum(pieces.values())
    scored = [(piece, math.log(count / total)) for piece, count in pieces.items()]
    vocabulary = [(token, 0.0) for token in special] + scored
    tokenizer = Tokenizer(models.Unigram(vocabulary, special.index("<unk>")))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _frequent_pieces(words: list[str], limit: int, inner: str = "") -> dict[str, int]:
    """Counts of the characters and frequent longer pieces of words, the same each time: a trainer
    of the `tokenizers` library orders them otherwise in each process.

    `inner` stands before pieces that do not begin a word.
    """
    counts = Counter(
        (inner if start else "", word[start:stop])
        for word in words
        for start in range(len(word))
        for stop in range(start + 1, min(len(word), start + 8) + 1)
    )
    single = sorted(piece for piece in counts if len(piece[1]) == 1)
    longer = sorted(
        (piece for piece in counts if len(piece[1]) > 1),
        key=lambda piece: (-counts[piece] * (len(piece[1]) - 1), piece),
    )
    chosen = single + longer[: limit - len(single)]
    return {prefix + text: counts[prefix, text] for prefix, text in chosen}


def unigram() -> Any:
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


def wordpiece() -> Any:
    """A WordPiece tokenizer with BERT's special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.BertNormalizer(lowercase=True)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = [
        word
        for sentence in SENTENCES
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(sentence))
    ]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *_frequent_pieces(words, 150 - len(special), "##")]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
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


def xlm_roberta_tokenizer() -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import XLMRobertaTokenizerFast

    tokenizer = fairseq()
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=64)
