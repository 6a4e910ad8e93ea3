"""The files with a checkpoint's weights: one, or the shards that an index names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.errors import ExportError


@dataclass(frozen=True)
class Kind:
    """How a kind of weights is named.

    Attributes:
        whole: The file that holds all weights.
        shards: A pattern of the usual names of shards.
        index: The file that names the shard of each weight.
        ending: Of every such file.
    """

    whole: str
    shards: str
    index: str
    ending: str

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of all its files."""
        return (self.whole, self.shards, self.index)


SAFETENSORS = Kind(
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    ".safetensors",
)
PICKLES = Kind(
    "pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json", ".bin"
)
_POINTER = b"version https://git-lfs"
_COMPLETE = (
    "fetch the missing files, or save the checkpoint once more with save_pretrained, "
    "which writes them all"
)


def stored(folder: Path, kind: Kind) -> tuple[Path, ...]:
    """The files that transformers reads: the whole one, or else the shards of the index.

    Raises:
        ExportError: The index cannot be read.
    """
    if (folder / kind.whole).is_file():
        return (folder / kind.whole,)
    if (folder / kind.index).is_file():
        return tuple(folder / name for name in shards(folder, kind))
    return ()


def shards(folder: Path, kind: Kind) -> list[str]:
    """The names of the shards in the order of the names; none where there is no index.

    Raises:
        ExportError: The index cannot be read, or names what is no file beside it.
    """
    file = folder / kind.index
    if not file.is_file():
        return []
    try:
        content: Any = json_text.parse(file.read_text(encoding="utf-8"))
        by_weight: Mapping[str, str] = content["weight_map"]
        names = sorted(set(by_weight.values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportError(
            f"{file}: not an index of weights: {type(error).__name__}", _COMPLETE
        ) from error
    for name in names:
        if not isinstance(name, str) or "/" in name or not name.endswith(kind.ending):
            raise ExportError(
                f"{file}: names {str(name)[:80]!r}, which is not a file of weights beside it",
                _COMPLETE,
            )
    return names


def check_whole(name: str, folder: Path, kind: Kind) -> None:
    """Check that no shard is missing, and that none is a mere pointer.

    Args:
        name: The checkpoint's, for messages.

    Raises:
        ExportError: A shard is missing, or shards have no index; or git has not fetched a file.
    """
    _check_fetched(name, stored(folder, kind))
    if (folder / kind.whole).is_file():
        return
    missing = [shard for shard in shards(folder, kind) if not (folder / shard).is_file()]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise ExportError(
            f"{name}: {kind.index} names {', '.join(missing[:4])}{more}, missing in {folder}",
            _COMPLETE,
        )
    alone = sorted(folder.glob(kind.shards))
    if alone and not (folder / kind.index).is_file():
        raise ExportError(
            f"{name}: {kind.index} is missing in {folder}, which has the shard {alone[0].name}",
            _COMPLETE,
        )


def _check_fetched(name: str, files: Iterable[Path]) -> None:
    """Refuse what git leaves in a clone in place of a large file."""
    for file in files:
        if not file.is_file():
            continue
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise ExportError(
                    f"{name}: {file.name} is a pointer of Git LFS, not the weights",
                    "run git lfs pull in that folder, or fetch the checkpoint once more",
                )
