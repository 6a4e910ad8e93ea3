"""Decoders without an encoder: GPT-2 and OPT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.checkpoints.files import save_lively
from support.checkpoints.tokenizers import byte_level


def gpt2(folder: Path, **config: Any) -> Path:
    """A GPT-2 of two layers; like the real one it has no padding token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    byte_level("gpt2").save_pretrained(folder)
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
    return save_lively(GPT2LMHeadModel, GPT2Config(**{**settings, **config}), folder)


def opt(folder: Path, **config: Any) -> Path:
    """An OPT of two layers: positions come from the mask, every prompt starts with </s>."""
    from transformers import OPTConfig, OPTForCausalLM

    byte_level("opt").save_pretrained(folder)
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
    return save_lively(OPTForCausalLM, OPTConfig(**{**settings, **config}), folder)


def rotary(folder: Path, family: str, **config: Any) -> Path:
    """A model of two layers whose class names begin with `family`, such as Llama: four heads of 16,
    two of keys and values. A setting of None is left to the class."""
    import transformers

    byte_level("opt").save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    made = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")
    settings = {name: value for name, value in (settings | config).items() if value is not None}
    return save_lively(made, getattr(transformers, f"{family}Config")(**settings), folder)
