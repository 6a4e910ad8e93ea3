"""An oracle of bundle.json: whatever it holds is a description, or a `MismatchError`."""

from __future__ import annotations

from faults.fuzzing import run

from engine.bundle import description_checks, format, typed_json
from engine.bundle.description import Description

NAMES = (
    *("task", "architecture", "recipe", "model_config", "source", "proof", "graphs", "files"),
    *("max_length", "decoder", "languages", "search", "bad_words_ids", "end_ids", "start_id"),
    *("layers", "heads", "kv_heads", "vocabulary", "max_new_tokens", "early_stopping", "ids"),
    *("sha256", "bytes", "tokenizer.json", "role", "device", "file", "50-x", "never", "step"),
    *("labels", "entailment", "special_tokens", "chat_templates", "min_new_tokens", "prompts"),
)
WORDS = (
    *(f'"{name}"'.encode() for name in NAMES),
    *(b"1e999", b"NaN", b"-1", b"9" * 30, b"\\ud800", b"null", b"true", b"[[", b"{}", b"0.5"),
)


def check(content: bytes) -> None:
    """Raise anything but what a wrong description may raise."""
    message = _message(content)
    assert message.isprintable(), "a message that is not printable"
    assert len(message) < 2000, "a message of unlimited length"


def _message(content: bytes) -> str:
    """What is wrong with a description, or ""."""
    try:
        value = typed_json.parse(content)
        description = typed_json.read(Description, value, description_checks.BOUNDS)
        description_checks.check(description, format.RESERVED, format.TOKENIZER)
        description.to_json().encode()
    except typed_json.MismatchError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    run("fuzz_bundle")
