"""A classifier of headlines that has learned its labels, as small as it can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

LABELS = ("World", "Sports", "Business", "Sci/Tech")
_STEPS, _BATCH = 80, 64


def news(folder: Path, texts: Sequence[str], topics: Sequence[str]) -> Path:
    """A BERT of two layers, trained on headlines and their topics until it knows most of them."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = _tokenizer(folder, texts)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a model so small is slower with several
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, id2label=dict(enumerate(LABELS)),
        label2id={label: n for n, label in enumerate(LABELS)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(topic) for topic in topics])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(_STEPS):
        rows = torch.randint(0, len(texts), (_BATCH,))
        loss = model(**{k: v[rows] for k, v in encoded.items()}, labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.eval()
    model.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path, texts: Sequence[str]) -> Any:
    from transformers import BertTokenizerFast

    words = sorted({word.lower() for text in texts for word in text.split()})
    vocabulary = folder / "vocab.txt"
    folder.mkdir(exist_ok=True)
    vocabulary.write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words)))
    return BertTokenizerFast(vocab_file=str(vocabulary), model_max_length=64)
