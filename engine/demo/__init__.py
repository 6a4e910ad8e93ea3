"""The embedded model, and a corpus whose every answer is known.

A small T5 that turns Spanish numerals in words into Portuguese. Because the truth of every row can
be computed, the same corpus at any size is the project's instrument for exactness.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).with_name("checkpoint")
"""The trained weights, as a Hugging Face checkpoint."""

BUNDLE = Path(__file__).with_name("bundle")
"""The same, exported: recipe fp32."""
