"""Files of a checkpoint: saving a model, JSON, pickled weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save(model: Any, config: Any, folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    model(config).save_pretrained(folder)
    return folder


def save_lively(model: Any, config: Any, folder: Path) -> Path:
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
