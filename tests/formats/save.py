"""Save every checkpoint of a folder with the libraries of the environment that runs this.

It imports nothing of the suite: each environment has other versions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    built, out = map(Path, sys.argv[1:])
    for checkpoint in sorted(built.iterdir()):
        if checkpoint.name.startswith("embedder"):
            _save_embedder(checkpoint, out / checkpoint.name)
        else:
            _save_model(checkpoint, out / checkpoint.name)


def _save_model(checkpoint: Path, out: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(checkpoint)
    model = getattr(transformers, config.architectures[0]).from_pretrained(checkpoint)
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)


def _save_embedder(checkpoint: Path, out: Path) -> None:
    """The modules are built anew; the name says which."""
    from sentence_transformers import SentenceTransformer, models

    kind = checkpoint.name.removeprefix("embedder-")
    mode = kind if kind in ("cls", "max") else "mean"
    layers: list[Any] = [models.Transformer(str(checkpoint), max_seq_length=48)]
    layers.append(models.Pooling(32, pooling_mode=mode))
    if kind == "dense":
        layers.append(models.Dense(32, 16))
    if kind in ("mean", "prompts"):
        layers.append(models.Normalize())
    prompts = {"query": "search: ", "document": "text: "} if kind == "prompts" else {}
    named = {"prompts": prompts, "default_prompt_name": "query"} if prompts else {}
    model = SentenceTransformer(modules=layers, device="cpu", **named)
    model.save(str(out))


if __name__ == "__main__":
    main()
