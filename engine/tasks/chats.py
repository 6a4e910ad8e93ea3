"""Chats as the input of text-generation: texts or lists of messages become prompts."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle.chat_template import ChatTemplate, Refusal, chosen, read_source
from engine.bundle.format import ModelConfig
from engine.core import json_text
from engine.core.rejects import Rejects
from engine.core.settings import as_texts, option
from engine.core.types import Rows
from engine.errors import SettingsError
from engine.tasks.task import Context

_DATE = r"\d{4}-\d\d-\d\d"
BAD_CHAT, TEMPLATE = "bad_chat", "chat_template"


def _date(name: str, value: object) -> str:
    if not isinstance(value, str) or (value and not re.fullmatch(_DATE, value)):
        raise SettingsError(f"{name} is {value!r}", "a date such as 2026-01-31")
    return value


def _variables(name: str, value: object) -> tuple[str, ...]:
    texts = as_texts(name, value)
    if wrong := next((text for text in texts if not re.fullmatch(r"(?s)[^\W\d]\w*=.*", text)), ""):
        raise SettingsError(f"{name} is {wrong!r}", "a name and a value, as enable_thinking=false")
    return texts


@dataclass(frozen=True, kw_only=True)
class Chatting:
    """Options for chats."""

    chat: bool = option(
        "the text is a message of the user, or a list of messages with role and content: make the "
        "prompt by the checkpoint's chat template; the answer is the assistant's text alone"
    )
    system: str = option("with chat: the system's message, for chats that have none")
    chat_template: str = option(
        "with chat: one of the checkpoint's templates by name, or a file with another",
        read=read_source,
    )
    chat_date: str = option(
        "with chat: the date that templates take for today, as 2026-01-31", read=_date
    )
    chat_variables: tuple[str, ...] = option(
        "with chat: what the template may read besides, as enable_thinking=false", read=_variables
    )


DEFAULTS: Mapping[str, object] = {
    "chat": False,
    "system": "",
    "chat_template": "",
    "chat_date": "",
    "chat_variables": (),
}


def holds_chats(options: Chatting) -> bool:
    """A `chats` for the task: whether its column may hold lists of messages."""
    return options.chat


def check(model_config: ModelConfig, options: Chatting) -> None:
    """Raise SettingsError where the options for chats contradict each other or the checkpoint."""
    if not options.chat:
        for name in DEFAULTS:
            if getattr(options, name) != DEFAULTS[name]:
                raise SettingsError(f"{name} is given without chat", "add --chat")
        return
    source = chosen(model_config.chat_templates, options.chat_template)
    if "strftime_now" in source and not options.chat_date:
        raise SettingsError(
            "the chat template puts the date of the day into its prompts, so that the same row "
            "would have another answer tomorrow",
            "give the day to take with --chat-date, such as --chat-date 2026-01-31",
        )


def of(options: Any) -> Chatting:
    """The options for chats alone."""
    return Chatting(**{name: getattr(options, name) for name in DEFAULTS})


def template(model_config: ModelConfig, options: Chatting) -> ChatTemplate:
    """The template that the options choose; its process starts when it is used.

    Raises:
        SettingsError: There is no such template.
    """
    pairs = (text.partition("=")[::2] for text in options.chat_variables)
    return ChatTemplate(
        chosen(model_config.chat_templates, options.chat_template),
        model_config.special_tokens,
        {name: _value(text) for name, text in pairs},
        options.chat_date,
    )


def _value(text: str) -> Any:
    """JSON, such as true or 3, or else the text itself."""
    try:
        return json_text.parse(text)
    except ValueError:
        return text


def render(rows: Rows, context: Context) -> Rows:
    """Rows with their prompts in place of their chats; those that have none are rejects."""
    assert context.chat_template
    chats = [_messages(value) for value in rows.texts[0].to_pylist()]
    faults = [_fault(chat) for chat in chats]
    good = [n for n, fault in enumerate(faults) if not fault]
    system = context.options.system
    prompts = context.chat_template.render([_with_system(chats[n], system) for n in good])
    for n, prompt in zip(good, prompts, strict=True):
        if isinstance(prompt, Refusal):
            faults[n] = (TEMPLATE, prompt.reason)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    return _without(rows, texts, faults)


def _messages(value: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chat as the template reads it; a field that is null is one that is not there."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return [{k: v for k, v in message.items() if v is not None} for message in value]


def _with_system(chat: list[dict[str, Any]], system: str) -> list[dict[str, Any]]:
    """The chat, with a message of the system before it where there is none."""
    if not system or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": system}, *chat]


def _fault(chat: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Code and reason of a chat that is none."""
    if not chat:
        return BAD_CHAT, "the chat has no messages"
    for number, message in enumerate(chat, 1):
        for name in ("role", "content"):
            if name not in message:
                return BAD_CHAT, f"message {number} of the chat has no {name}"
    return None


def _without(rows: Rows, prompts: Sequence[str], faults: Sequence[tuple[str, str] | None]) -> Rows:
    """The rows without faults, and the others among the rejects, in the order of their numbers."""
    numbers = np.arange(len(rows)) if rows.numbers is None else rows.numbers
    bad = [(int(numbers[n]), *fault) for n, fault in enumerate(faults) if fault]
    before = rows.rejects
    good = pa.array([fault is None for fault in faults], pa.bool_())
    chats = rows.texts[0].filter(pc.invert(good)).to_pylist() if rows.reject_text else []
    added = Rejects(
        np.array([row for row, _, _ in bad], np.int64),
        tuple(code for _, code, _ in bad),
        tuple(message for _, _, message in bad),
        texts=tuple(json.dumps(chat, ensure_ascii=False)[:10_000] for chat in chats),
    )
    return dataclasses.replace(
        rows,
        texts=(pa.array(prompts, pa.string()), *(text.filter(good) for text in rows.texts[1:])),
        kept=None if rows.kept is None else rows.kept.filter(good),
        rejects=before.joined(added),
        numbers=numbers[good.to_numpy(zero_copy_only=False)],
    )
