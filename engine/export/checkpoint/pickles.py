"""Pickled weights (`.bin`), which are read by torch's weights-only unpickler and nothing else.

It builds tensors and plain containers and calls nothing that a file names. `check` reads every file
once before transformers does, by the same unpickler, so that a refusal names the file and what is
in it.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint.silenced import silenced

HOW = "torch's weights-only unpickler: no code runs"
_MEND = (
    "load it where its code may run, save it with save_pretrained, which writes "
    "model.safetensors, and export that; or take another checkpoint"
)
# What the unpickler says of a name that it does not build.
_GLOBAL = re.compile(
    r"(?:GLOBAL|Unsupported (?:global|class|operand)[^\w]*(?:GLOBAL)?)\s+([A-Za-z_][\w.]+)"
)


def check(file: Path, where: str) -> None:
    """Check that a file is a mapping of names to tensors.

    Args:
        file: The pickle, of any of torch's formats.
        where: The checkpoint's name, for messages.

    Raises:
        ExportError: It names code, is damaged, or holds something else.
    """
    import torch

    name = f"{where}: {file.name}"
    # Tensors of a zip archive need not be read; of an older file all is.
    target = "meta" if zipfile.is_zipfile(file) else "cpu"
    try:
        with silenced():
            content = torch.load(file, map_location=target, weights_only=True)
    except Exception as error:  # whatever a damaged or malicious file can raise
        raise ExportError(f"{name} is refused: {_reason(error)} ({HOW})", _MEND) from error
    if not isinstance(content, dict) or not all(map(_weight, content.items())):
        raise ExportError(
            f"{name} is refused: it is not a mapping of names to tensors, as weights are ({HOW})",
            _MEND,
        )


def _weight(item: tuple[Any, Any]) -> bool:
    import torch

    name, value = item
    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _reason(error: Exception) -> str:
    """Why torch did not read a file, in one line."""
    text = str(error)
    if names := _GLOBAL.search(text):
        return f"it asks for {names.group(1)}, which is not a tensor"
    if "TorchScript" in text:
        return "it is a TorchScript program"
    if ".tar" in text:
        return "it is of torch's oldest format (tar), which that unpickler does not read"
    return "it cannot be read as torch's weights, and may be damaged"
