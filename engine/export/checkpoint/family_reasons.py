"""Families without an export: why, and what to take in their place."""

from __future__ import annotations

from collections.abc import Mapping

_LONG = "for long texts export a LongT5 checkpoint"
_SPEECH = "it reads or writes speech"
_TEXT = "export a checkpoint that reads text alone"
_SEVERAL = "for translation export a Marian, NLLB or M2M100 checkpoint"

# Model type -> why it has no export, and a hint.
REASONS: Mapping[str, tuple[str, str]] = {
    "led": ("its encoder attends in windows, which Optimum does not export", _LONG),
    "bigbird_pegasus": ("its encoder attends to random blocks, which a graph cannot", _LONG),
    "pegasus_x": ("its encoder attends in blocks, which Optimum does not export", _LONG),
    "switch_transformers": (
        "its feed-forward layers are mixtures of experts",
        "export a T5 or FLAN-T5 checkpoint",
    ),
    "nllb-moe": (
        "its feed-forward layers are mixtures of experts",
        "export a dense NLLB checkpoint, which is of type m2m_100",
    ),
    "fsmt": ("its sides have vocabularies of their own, split by Moses' rules", _SEVERAL),
    "blenderbot-small": (
        "its decoder adds positions after its first norm, which the step graph does not",
        "export a Blenderbot checkpoint",
    ),
    **dict.fromkeys(
        ("prophetnet", "xlm-prophetnet"),
        (
            "its decoder predicts several tokens at once, which the step graph does not",
            "export a BART or Pegasus checkpoint",
        ),
    ),
    "encoder-decoder": (
        "it joins two models, whose decoder has no step graph behind an encoder",
        "export a BART, T5 or Pegasus checkpoint",
    ),
    "t5gemma": ("its decoder has no step graph", "export a T5, UMT5 or Gemma checkpoint"),
    "gptsan-japanese": ("its decoder has no step graph", "export an mT5 or UMT5 checkpoint"),
    **dict.fromkeys(
        ("seamless_m4t", "seamless_m4t_v2"),
        (_SPEECH, "for text alone export an NLLB or M2M100 checkpoint"),
    ),
    **dict.fromkeys(
        ("granite_speech", "qwen2_audio", "voxtral", "whisper", "speech_to_text", "moonshine"),
        (_SPEECH, _TEXT),
    ),
}

# Encoders that Optimum names, but whose rows cannot be batched, or whose graph is of one length.
ENCODERS: Mapping[str, str] = {
    "convbert": "its convolutions mix the padding of a batch into the rows",
    "mobilebert": "a token's embedding has a share of the next one's, which may be padding",
    "nystromformer": "its landmarks are means over the padding of a batch, too",
    "big_bird": "its attention is of another kind for long rows, which one graph cannot hold",
}
