"""A checkpoint as transformers 4.57 reads it, whichever version saved it.

transformers 5 spells things in config.json, generation_config.json and tokenizer_config.json that
4.57 does not know, or reads as something else. A copy of a checkpoint's folder holds these files as
4.57 spells them; all other files are links into the checkpoint, which is never changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.export.checkpoint.hub import Checkpoint, files
from engine.export.checkpoint.normalized_config import (
    normalized_config,
    normalized_generation,
    ties_without_scale,
)
from engine.export.checkpoint.normalized_tokenizer import normalized_tokenizer

GENERATION = "generation_config.json"
TOKENIZER_SETTINGS = "tokenizer_config.json"
TOKEN_NAMES = "special_tokens_map.json"


def normalize(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The same checkpoint in a folder whose metadata transformers 4.57 understands.

    Args:
        checkpoint: With its weights.
        folder: A new folder; small files are written there, all others linked.

    Raises:
        ExportError: A setting has a value that 4.57 has no equal of, or that is unknown.
    """
    config = normalized_config(checkpoint.name, checkpoint.config)
    _link(checkpoint.folder, folder)
    _write(folder / "config.json", config)
    if generation := checkpoint.read_json(GENERATION):
        _write(folder / GENERATION, normalized_generation(checkpoint.name, generation))
    settings = checkpoint.read_json(TOKENIZER_SETTINGS)
    if settings:
        names = checkpoint.read_json(TOKEN_NAMES)
        settings = normalized_tokenizer(checkpoint, config, settings, names)
        _write(folder / TOKENIZER_SETTINGS, settings)
    shares_head = ties_without_scale(checkpoint.config)
    return dataclasses.replace(checkpoint, folder=folder, config=config, shares_head=shares_head)


def _link(source: Path, folder: Path) -> None:
    """Links to a checkpoint's files: those beside config.json, and those of its modules."""
    folder.mkdir()
    beside = (path for path in source.iterdir() if path.is_file())
    for file in {*beside, *files(source)}:
        link = folder / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
