"""The embedded model, and a corpus for which every answer is known.

A small T5 that turns Spanish numerals in words into Portuguese. The right answer to every row
can be computed, so a corpus of any size tests that answers are exact.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).with_name("checkpoint")
"""The trained weights, as a Hugging Face checkpoint; in the repository, and not in a package."""

BUNDLE = Path(__file__).with_name("bundle")
"""The bundle exported from it with the recipe fp32."""
