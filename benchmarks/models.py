"""Random checkpoints of real shapes; their decoders end each output at a length the input sets.

A random decoder never ends a text, or repeats itself. The two made here count down: their output is
a chain of tokens that ends in the end token, and the input decides where in the chain a row starts.
All other weights are random and do their full share of the work, but add little to the logits next
to the chain, so that int8 and bf16 choose the same tokens.

How: the embedding of the chain's token k is one vector of ±1, rolled by k dimensions. The last
feed-forward layer rolls by one more dimension (act(x) - act(-x) = x for ReLU and for GELU), so the
likeliest next token is the next of the chain. In T5, 63 dimensions of the embedding are reserved
for the sentinels `<extra_id_0..62>`: sentinel j sets dimension j, which one head of the last
cross-attention turns into the first token. Each token of T5's chain has a twin, a shorter vector of
the same direction: beams hold paths of both, which continue alike and end in the same step,
whatever a library's rule for ending is. A GPT-2 prompt ends with the chain token to start from.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SENTINELS = 63
FREE = SENTINELS  # reserved dimensions of the embedding
CHAIN = 128
TWIN = 0.9
SMALL = 1e-4


def t5_small(folder: Path, tokenizer: Any, lengths: Sequence[int], **sizes: int) -> Path:
    """t5-small's shape, or that with other sizes; a text that begins with `<extra_id_j>` is
    answered in lengths[j] tokens."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    )
    words = words_of(tokenizer, 2 * CHAIN)
    chain, twins = [*words[::2], 1], words[1::2]
    with torch.no_grad():
        _quiet_t5(model)
        model.shared.weight[:] = _embedding(model.shared.weight.shape, chain, twins, zero=0)
        for j in range(SENTINELS):
            sentinel = tokenizer.convert_tokens_to_ids(f"<extra_id_{j}>")
            model.shared.weight[sentinel] *= 0.1
            model.shared.weight[sentinel, j] = 8.0
        _roll_t5(model.decoder.block[-1].layer[-1].DenseReluDense)
        _start_t5(model, [chain[CHAIN - n] for n in lengths])
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _quiet_t5(model: Any) -> None:
    """Make every layer's output small; no layer reads or writes the reserved dimensions."""
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            for layer in block.layer:
                for name, weight in layer.named_parameters():
                    if name.endswith((".o.weight", ".wo.weight")):
                        weight.mul_(SMALL)
                        weight[:FREE] = 0
                    elif weight.ndim == 2 and "relative" not in name:
                        weight[:, :FREE] = 0


def _embedding(shape: Any, chain: Sequence[int], twins: Sequence[int], *, zero: int) -> Any:
    """±1 rolled along the chain, shorter for the twins; zeros for the start token, random numbers
    for all others."""
    import torch

    embedding = torch.randn(shape)
    embedding[:, :FREE] = 0
    signs = torch.randint(0, 2, (shape[1] - FREE,)) * 2.0 - 1
    for size, tokens in ((1.0, chain), (TWIN, twins)):
        for k, token in enumerate(tokens):
            embedding[token, FREE:] = size * signs.roll(k)
    embedding[zero] = 0
    return embedding


def _roll_t5(layer: Any) -> None:
    import torch

    inner, size = layer.wi.weight.shape
    count = size - FREE
    assert 2 * count <= inner
    layer.wi.weight[: 2 * count] = 0
    layer.wo.weight[:, : 2 * count] = 0
    dimensions = torch.arange(count)
    rolled = FREE + (dimensions + 1) % count
    for sign, first in ((1.0, 0), (-1.0, count)):
        layer.wi.weight[first + dimensions, FREE + dimensions] = sign
        layer.wo.weight[rolled, first + dimensions] = 8 * sign


def _start_t5(model: Any, starts: Sequence[int]) -> None:
    """Head 0 of the last cross-attention averages the source and maps a sentinel to the first
    token."""
    attention = model.decoder.block[-1].layer[1].EncDecAttention
    head = attention.key_value_proj_dim
    attention.q.weight[:head] = 0
    attention.v.weight[:head] = 0
    attention.o.weight[:, :head] = 0
    for j, token in enumerate(starts):
        attention.v.weight[j, j] = 1.0
        attention.o.weight[FREE:, j] = 0.05 * model.shared.weight[token, FREE:]


def gpt2(folder: Path, tokenizer: Any) -> Path:
    """GPT-2's shape (124 M); a prompt that ends with `words_of(tokenizer, CHAIN)[-n]` gets n - 1
    tokens and the end token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=end, eos_token_id=end))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("c_proj.weight", "wpe.weight")):
                weight.mul_(0.02)
        chain = [*words_of(tokenizer, CHAIN), end]
        embedding = torch.randn(model.transformer.wte.weight.shape) * 0.3
        signs = torch.randint(0, 2, (embedding.shape[1],)) * 2.0 - 1
        for k, token in enumerate(chain):
            embedding[token] = signs.roll(k)
        model.transformer.wte.weight[:] = embedding
        _roll_gpt2(model.transformer.h[-1].mlp, embedding.shape[1])
    model.generation_config.pad_token_id = end
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _roll_gpt2(layer: Any, size: int) -> None:
    import torch

    dimensions = torch.arange(size)
    layer.c_fc.weight[:, : 2 * size] = 0
    layer.c_proj.weight[: 2 * size] = 0
    for sign, first in ((1.0, 0), (-1.0, size)):
        layer.c_fc.weight[dimensions, first + dimensions] = sign
        layer.c_proj.weight[first + dimensions, (dimensions + 1) % size] = 8 * sign


# Qwen2.5-0.5B's.
QWEN2 = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4_864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "max_position_embeddings": 32_768, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip


def qwen2(folder: Path, tokenizer: Any, **sizes: int) -> Path:
    """Qwen2.5-0.5B's shape (494 M), or that with other sizes, in bfloat16 as it is published.

    Its chain is longer, and no answer ends before its limit: a prompt that ends with one of
    `words_of(tokenizer, CHAIN)` is answered with those that follow. Dimension 0 of all embeddings
    is 1: the gate's other side reads it, so that the gate alone is rolled (silu(x) - silu(-x) = x).
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = Qwen2Config(bos_token_id=end, eos_token_id=end, **{**QWEN2, **sizes})
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(0.02)
        embedding = torch.randn(model.model.embed_tokens.weight.shape) * 0.3
        signs = torch.randint(0, 2, (embedding.shape[1] - 1,)) * 2.0 - 1
        for k, token in enumerate(words_of(tokenizer, 2 * CHAIN)):
            embedding[token, 1:] = signs.roll(k)
        embedding[:, 0] = 1.0
        model.model.embed_tokens.weight[:] = embedding
        _roll_gated(model.model.layers[-1].mlp, embedding.shape[1] - 1)
    model.generation_config.pad_token_id = end
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def _roll_gated(layer: Any, size: int) -> None:
    """Dimensions from 1 on, each into the next."""
    import torch

    dimensions = torch.arange(size)
    count = 2 * size
    layer.gate_proj.weight[:count] = 0
    layer.up_proj.weight[:count] = 0
    layer.up_proj.weight[:count, 0] = 1.0
    layer.down_proj.weight[:, :count] = 0
    for sign, first in ((1.0, 0), (-1.0, size)):
        layer.gate_proj.weight[first + dimensions, 1 + dimensions] = sign
        layer.down_proj.weight[1 + (dimensions + 1) % size, first + dimensions] = 8 * sign


def words_of(tokenizer: Any, count: int) -> list[int]:
    """Ids of whole words that the tokenizer gives back when a text ends with them."""
    ids = []
    for piece, token in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = piece[1:]
        if piece[0] in "▁Ġ" and len(word) > 2 and word.isascii() and word.isalpha():
            last = tokenizer(f"the {word}", add_special_tokens=False).input_ids[-1]
            if last == token and word.islower():
                ids.append(token)
        if len(ids) == count:
            return ids
    raise ValueError(f"the tokenizer has {len(ids)} whole words, {count} are needed")


MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}


def minilm(folder: Path, tokenizer: Any, head: str, labels: Iterable[str] = ()) -> Path:
    """MiniLM's shape (6 layers of 384), random; `head` as transformers names it."""
    return bert(folder, tokenizer, head, labels, MINILM)


def bert(
    folder: Path, tokenizer: Any, head: str, labels: Iterable[str], sizes: Mapping[str, int]
) -> Path:
    """A random BERT of those sizes; `head` as transformers names it."""
    import torch
    import transformers
    from transformers import BertConfig

    named = dict(enumerate(labels))
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=30522, num_attention_heads=12, initializer_range=0.1, **sizes,
        id2label=named or {0: "a", 1: "b"},
        label2id={name: n for n, name in named.items()} or {"a": 0, "b": 1},
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    getattr(transformers, f"Bert{head}")(shape).save_pretrained(folder)
    return folder


def copy(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint that is already there."""
    shutil.copytree(source, folder)
    return folder


def wordpiece(words: Iterable[str]) -> Any:
    """BERT's tokenizer, trained on words; used where the real one is missing."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(words, vocab_size=8_000, show_progress=False)
    return BertTokenizerFast(tokenizer_object=trained._tokenizer, model_max_length=512)


def unigram(words: Iterable[str]) -> Any:
    """T5's tokenizer with its sentinels, trained on words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import T5TokenizerFast

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=6_000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(words, trainer)
    trained.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=trained, extra_ids=100, model_max_length=512)


def bytes_bpe(words: Iterable[str]) -> Any:
    """GPT-2's tokenizer, trained on words."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2TokenizerFast

    trained = ByteLevelBPETokenizer()
    spaced = (f" {word}" for word in words)
    trained.train_from_iterator(spaced, vocab_size=6_000, show_progress=False)
    return GPT2TokenizerFast(tokenizer_object=trained._tokenizer, model_max_length=1024)
