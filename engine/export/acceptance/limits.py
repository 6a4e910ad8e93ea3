"""What a recipe's figures must be, beside fp32's, for its bundle to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.core import hardware

# The figure that compares a row's answer in a batch with its answer alone.
BATCH_EFFECT = "largest difference to the row alone"


@dataclass(frozen=True)
class Limit:
    """The bound of one figure.

    Attributes:
        name: The figure's.
        value: The bound.
        is_maximum: The figure must be at most `value`; otherwise at least `value`.
    """

    name: str
    value: float
    is_maximum: bool = False

    def holds(self, figure: float) -> bool:
        """Written so that NaN fails."""
        return figure <= self.value if self.is_maximum else figure >= self.value


def _limits(
    *, cosine: float, worst: float, same: float, shift: float, sure: float, text: float
) -> tuple[Limit, ...]:
    return (
        Limit("mean cosine", cosine),
        Limit("worst cosine", worst),
        Limit("same label where fp32 is sure", sure),
        Limit("same token where fp32 is sure", sure),
        Limit("same document where fp32 is sure", sure),
        Limit("same top token where fp32 is sure", sure),
        Limit("same span", same),
        Limit("same top token", same),
        Limit("mean score shift", shift, is_maximum=True),
        Limit("chrF", text),
    )


_INT8 = _limits(cosine=0.99, worst=0.95, same=0.93, shift=0.04, sure=0.97, text=60)
_INT4 = _limits(cosine=0.97, worst=0.85, same=0.85, shift=0.08, sure=0.95, text=40)
_FP16 = _limits(cosine=0.9995, worst=0.999, same=0.98, shift=0.005, sure=0.995, text=90)
# With fixed or per-token scales a row does not depend on its batch, to the bit: integers are exact;
# the kernels for AVX2 and AVX-512 add floats in the order of a row's own tokens, whatever stands
# beside them. Those of other CPUs may not in what int8 leaves in float32.
_PER_TOKEN = Limit(BATCH_EFFECT, 0.0 if "avx2" in hardware.cpu()[1] else 1e-4, is_maximum=True)

# By the recipe's name.
LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "int8": (*_INT8, _PER_TOKEN),
    "int8-static": (*_INT8, _PER_TOKEN),
    "int8-tensor": _INT8,
    "int8-weight": _INT8,
    "int4-weight": _INT4,
    "fp16": _FP16,
}
