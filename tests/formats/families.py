"""The checkpoints of the matrix: a builder for each, and the task it is exported for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support import checkpoints
from support.checkpoints import GENERATORS

_ENCODERS = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "albert",
    "electra",
    "mpnet",
    "deberta-v2",
)


def flan(folder: Path, **config: Any) -> Path:
    """A T5 whose head is one of its own and whose states are not scaled."""
    settings = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", **config}
    return checkpoints.t5(folder, **settings)


def bert(folder: Path) -> Path:
    return checkpoints.encoder(folder, "bert", "text-classification")


def distilbert(folder: Path) -> Path:
    return checkpoints.encoder(folder, "distilbert", "text-classification")


def roberta(folder: Path) -> Path:
    return checkpoints.encoder(folder, "roberta", "text-classification")


def xlm_roberta(folder: Path) -> Path:
    return checkpoints.encoder(folder, "xlm-roberta", "text-classification")


def albert(folder: Path) -> Path:
    return checkpoints.encoder(folder, "albert", "text-classification")


def electra(folder: Path) -> Path:
    return checkpoints.encoder(folder, "electra", "text-classification")


def mpnet(folder: Path) -> Path:
    return checkpoints.encoder(folder, "mpnet", "text-classification")


def deberta(folder: Path) -> Path:
    return checkpoints.encoder(folder, "deberta-v2", "text-classification")


_Builder = Callable[[Path], Path]
BUILDERS: Mapping[str, _Builder] = {
    **{name: builder for name, (builder, _) in GENERATORS.items()},
    "flan": flan,
    **dict(
        zip(
            _ENCODERS,
            (bert, distilbert, roberta, xlm_roberta, albert, electra, mpnet, deberta),
            strict=True,
        )
    ),
}
# sentence-transformers' modules are put around this BERT when it is saved.
EMBEDDERS: Mapping[str, _Builder] = {
    f"embedder-{kind}": checkpoints.bert for kind in ("mean", "cls", "max", "dense", "prompts")
}
TASKS: Mapping[str, str] = {
    **{name: task for name, (_, task) in GENERATORS.items()},
    "flan": "translation",
    **dict.fromkeys(_ENCODERS, "text-classification"),
    **dict.fromkeys(EMBEDDERS, "feature-extraction"),
}
