"""A device as a value: the CPU, or one GPU. Requests such as "auto" are not devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engine.errors import SettingsError

# Requests: a GPU where one works; and every GPU.
AUTO, ALL = "auto", "cuda:all"

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Device:
    """What computes; its text is "cpu" or "cuda:0".

    Attributes:
        kind: cpu or cuda.
        index: Number of the GPU in the driver's order; 0 for the CPU.
    """

    kind: Kind
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """From "cpu", "cuda" (the first GPU) or "cuda:N".

        Raises:
            SettingsError: The text is none of these.
        """
        match = re.fullmatch(r"(?:cpu|(cuda)(?::(\d+))?)", text)
        if not match:
            raise SettingsError(f"{text!r} is not a device", "cpu, cuda or cuda:0")
        return cls("cuda", int(match[2] or 0)) if match[1] else CPU

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.is_gpu else "cpu"


CPU = Device("cpu")
