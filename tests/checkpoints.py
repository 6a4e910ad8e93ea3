"""Small checkpoints with random weights and real tokenizers, in the Hugging Face layout.

Every function writes one into the folder it is given and returns that folder. Weights come from a
seed, so that two calls give the same bytes. Needs torch and transformers.
"""

from __future__ import annotations

import json
import shutil
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


def _unigram() -> Any:
    """A unigram tokenizer with T5's special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
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
