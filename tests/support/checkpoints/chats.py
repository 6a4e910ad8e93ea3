"""A decoder with chat templates."""

from __future__ import annotations

from pathlib import Path

from support.checkpoints.chat_templates import SPECIAL, TEMPLATES
from support.checkpoints.files import save_lively
from support.checkpoints.tokenizers import byte_level


def chatting(folder: Path, kind: str = "gpt2") -> Path:
    """A GPT-2 or an OPT of two layers with the templates of many families; OPT's tokenizer puts a
    token before every text."""
    from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

    tokenizer = byte_level(kind)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = dict(TEMPLATES)
    tokenizer.save_pretrained(folder)
    if kind == "opt":
        return save_lively(
            OPTForCausalLM,
            OPTConfig(
                vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=1024, init_std=0.3,
                bos_token_id=2, eos_token_id=2, pad_token_id=1,
            ),
            folder,
        )  # fmt: skip
    config = GPT2Config(
        vocab_size=320, n_positions=1024, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return save_lively(GPT2LMHeadModel, config, folder)
