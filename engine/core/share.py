"""A share of a run: which of its parts one of several machines computes.

Share i of n has every n-th split from the i-th, in the order of the files' names below the given
inputs and of the splits within a file: on each machine the same, wherever the corpus is mounted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import SettingsError

if TYPE_CHECKING:
    from engine.core.types import Split

_TEXT = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")


@dataclass(frozen=True, slots=True)
class Share:
    """Number `number`, from 1, of `count` shares."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def file_stem(self) -> str:
        """What the names of its files begin with."""
        return f"{self.number}-of-{self.count}"

    def of(self, splits: Sequence[Split]) -> tuple[Split, ...]:
        """Its splits of a corpus, in the corpus's order."""
        own = set(dealt(splits)[self.number - 1 :: self.count])
        return tuple(split for split in splits if split in own)


def read_share(name: str, value: object) -> str:
    """A share as a setting keeps it, such as 2/8, or "" for none; for `Setting.read`.

    Raises:
        SettingsError: The value names no share.
    """
    if value == "" or (isinstance(value, str) and share_of(value)):
        return str(value).strip()
    raise SettingsError(
        f"{name} is {value!r}", "which share of how many, counted from 1, such as 2/8"
    )


def share_of(text: str) -> Share | None:
    """The share that a text names, or None."""
    match = _TEXT.fullmatch(text.strip())
    if match is None or int(match[1]) > int(match[2]):
        return None
    return Share(int(match[1]), int(match[2]))


def dealt(splits: Sequence[Split]) -> list[Split]:
    """The splits of a corpus in the order in which shares are dealt them."""
    return sorted(splits, key=lambda split: (split.file.name, split.ordinal))


def listing_digest(parts: Sequence[str]) -> str:
    """What two shares must agree on: the names of all parts, in the order in which they are dealt.

    Args:
        parts: These names.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()
