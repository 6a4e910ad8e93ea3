"""A checkpoint's tokenizer, and how it becomes one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.bundle.format import TOKENIZER
from engine.errors import ExportError
from engine.export.checkpoint import embedding_modules, slow_tokenizers
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.silenced import silenced


def load(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer, backed by the `tokenizers` library; a slow-only one is converted.

    Raises:
        ExportError: It needs the repository's code, or cannot be converted.
    """
    from transformers import AutoTokenizer

    try:
        with silenced():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.folder, use_fast=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises a dozen classes here
        reason = (str(error).splitlines() or [""])[0]
        reason = reason.replace(str(checkpoint.folder), checkpoint.name)[:300]
        raise ExportError(
            f"{checkpoint.name}: its tokenizer cannot be loaded: {type(error).__name__}: {reason}",
            "check that its tokenizer files are complete: transformers 4.57's AutoTokenizer has to "
            "load them without code of the repository",
        ) from error
    if not tokenizer.is_fast:
        size = int(checkpoint.config.get("vocab_size") or 0)
        tokenizer = slow_tokenizers.fast(tokenizer, size)
    if embedding_modules.lower_cases_in_tokenizer(checkpoint):
        _lower_case(tokenizer.backend_tokenizer)
    return tokenizer


def save(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json without truncation and padding: the run sets its own."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))


def _lower_case(backend: Any) -> None:
    """Put a lower-casing normalizer before the others, as sentence-transformers does it."""
    from tokenizers.normalizers import Lowercase, Sequence

    present = backend.normalizer
    steps = list(present) if isinstance(present, Sequence) else [present] if present else []
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])
