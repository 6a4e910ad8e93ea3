"""A checkpoint's chat templates, and what they read of its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint.hub import Checkpoint

# Where processors kept theirs before they had a file of its own; the pipeline does not look there.
LEGACY = "chat_template.json"
DEFAULT = "default"


def read(checkpoint: Checkpoint, tokenizer: Any, note: Callable[[str], None]) -> dict[str, Any]:
    """Fields of `ModelConfig`: the templates by name, and the special tokens by theirs.

    transformers has read them into the tokenizer: of tokenizer_config.json, where there is one or a
    list of named ones, of chat_template.jinja and of additional_chat_templates/.

    Raises:
        ExportError: A template is not a text.
    """
    templates = tokenizer.chat_template
    if not templates and (older := checkpoint.read_json(LEGACY).get("chat_template")):
        templates = older
        note(f"the chat template comes from {LEGACY}, which transformers' pipeline does not read")
    if not templates:
        return {}
    named = templates if isinstance(templates, dict) else {DEFAULT: templates}
    if not all(isinstance(text, str) for text in named.values()):
        raise ExportError(
            f"{checkpoint.name}: its chat template is not a text",
            "mend chat_template in tokenizer_config.json, or take it out",
        )
    others = f" ({', '.join(sorted(named))}: --chat-template NAME)" if len(named) > 1 else ""
    note(f"the checkpoint has a chat template{others}: a run of chats takes it with --chat")
    return {"chat_templates": named, "special_tokens": dict(tokenizer.special_tokens_map)}
