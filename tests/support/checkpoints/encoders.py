"""Encoders, with and without the head of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.checkpoints.encoder_decoders import PAIR
from support.checkpoints.files import save, save_lively, write_json
from support.checkpoints.tokenizers import roberta_tokenizer, wordpiece, xlm_roberta_tokenizer

_SHAPE = {
    "vocab_size": 160,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def bert(folder: Path, **config: Any) -> Path:
    """A BERT of two layers without a head; keyword arguments go to BertConfig."""
    from transformers import BertModel

    return save(BertModel, _bert_config(folder, config), folder)


def classifier(folder: Path, labels: tuple[str, ...] = ("bad", "good"), **config: Any) -> Path:
    """The same with a classification head."""
    from transformers import BertForSequenceClassification

    named = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    settings = _bert_config(folder, {**named, **config})
    return save(BertForSequenceClassification, settings, folder)


def roberta(folder: Path, **config: Any) -> Path:
    """A RoBERTa of one layer: positions start behind the padding index."""
    from transformers import RobertaConfig, RobertaModel

    wordpiece().save_pretrained(folder)
    settings = {**_SHAPE, "num_hidden_layers": 1, "pad_token_id": 1, **config}
    return save(RobertaModel, RobertaConfig(**settings), folder)


def distilbert(folder: Path, **config: Any) -> Path:
    """A DistilBERT classifier of one layer; it has no token_type_ids, its tokenizer gives some."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    wordpiece().save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": 160,
        "dim": 32,
        "n_layers": 1,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
    }
    shape = DistilBertConfig(**{**settings, **config})
    return save(DistilBertForSequenceClassification, shape, folder)


def _bert_config(folder: Path, config: dict[str, Any]) -> Any:
    from transformers import BertConfig

    wordpiece().save_pretrained(folder)
    return BertConfig(**{**_SHAPE, **config})


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


# RoBERTa and its relatives count positions from the padding's id on.
_BEHIND_PADDING = {"type_vocab_size": 1, "max_position_embeddings": 66}

# transformers' name of a family's classes, its configuration and its tokenizer.
_ENCODERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("Bert", {}, "wordpiece"),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        "wordpiece",
    ),
    "roberta": ("Roberta", _BEHIND_PADDING, "bytes"),
    "xlm-roberta": ("XLMRoberta", _BEHIND_PADDING, "unigram"),
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
    # Local attention in windows of 9 tokens; the first and the third layer attend to all.
    "modernbert": (
        "ModernBert",
        {
            "num_hidden_layers": 3,
            "global_attn_every_n_layers": 2,
            "local_attention": 8,
            "cls_token_id": 0,
            "sep_token_id": 2,
            "reference_compile": False,
        },
        "bytes",
    ),
    "camembert": ("Camembert", _BEHIND_PADDING, "unigram"),
    # As microsoft/deberta-base has it.
    "deberta": (
        "Deberta",
        {
            "type_vocab_size": 0,
            "relative_attention": True,
            "max_relative_positions": -1,
            "pos_att_type": "c2p|p2c",
            "position_biased_input": False,
        },
        "wordpiece",
    ),
    "ernie": ("Ernie", {}, "wordpiece"),
    "roberta-prelayernorm": ("RobertaPreLayerNorm", _BEHIND_PADDING, "bytes"),
    "xlm-roberta-xl": ("XLMRobertaXL", _BEHIND_PADDING, "unigram"),
    "data2vec-text": ("Data2VecText", _BEHIND_PADDING, "bytes"),
    "ibert": ("IBert", _BEHIND_PADDING, "bytes"),
    "squeezebert": ("SqueezeBert", {"embedding_size": 32}, "wordpiece"),
    "rembert": (
        "RemBert",
        {"input_embedding_size": 16, "output_embedding_size": 24},
        "wordpiece",
    ),
    "roformer": ("RoFormer", {"embedding_size": 32}, "wordpiece"),
    "megatron-bert": ("MegatronBert", {}, "wordpiece"),
    "convbert": (
        "ConvBert",
        {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3},
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


LABELS = {
    "text-classification": ("bad", "good"),
    "zero-shot-classification": ("contradiction", "neutral", "Entailment"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
}


_TOKENIZERS = {
    "wordpiece": wordpiece,
    "bytes": roberta_tokenizer,
    "unigram": xlm_roberta_tokenizer,
}


def encoder(folder: Path, family: str, task: str, **config: Any) -> Path:
    """Two layers of a family of encoders (or a BART) with the head of a task."""
    import transformers

    name, shape, kind = _ENCODERS[family]
    tokenizer = _TOKENIZERS[kind]()
    tokenizer.save_pretrained(folder)
    labels = dict(enumerate(LABELS.get(task, ())))
    settings: dict[str, Any] = {
        **(PAIR if family in ("bart", "mbart") else _SHAPE),
        "initializer_range": 0.3,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        **({"id2label": labels, "label2id": {n: i for i, n in labels.items()}} if labels else {}),
        **shape,
        **config,
    }
    model_config = getattr(transformers, f"{name}Config")(**settings)
    return save_lively(getattr(transformers, f"{name}{_HEADS[task]}"), model_config, folder)
