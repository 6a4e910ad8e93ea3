"""Chats to prompts, by a checkpoint's chat template."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.helper_process import command
from engine.core.system_calls import ENVIRONMENT, NEW_GROUP, Incoming
from engine.errors import BackendError, BundleError, SettingsError

Message = Mapping[str, str]
DEFAULT = "default"
# A chat takes about a millisecond. What takes as long as this is one call of a template that
# computes without end, which no number of steps can stop.
SECONDS = 30.0
_FILE_BYTES = _REPLY_BYTES = 1 << 28


@dataclass(frozen=True)
class Refusal:
    """Why a chat has no prompt, without any text of it."""

    reason: str


class ChatTemplate:
    """A template that renders in a process of its own (`chat_sandbox`), started when it is needed.

    May be used from many threads.

    Args:
        source: The template.
        tokens: The tokenizer's special tokens by their names in templates.
        variables: What else the template may read.
        date: ISO date that the template takes for today; "" for none.
        seconds: After which a chat is given up and the process ended.
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, Any],
        variables: Mapping[str, Any] = {},
        date: str = "",
        seconds: float = SECONDS,
    ) -> None:
        names = ("source", "tokens", "variables", "date")
        self._settings = dict(
            zip(names, (source, dict(tokens), dict(variables), date), strict=True)
        )
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def render(self, chats: Sequence[Sequence[Message]]) -> list[str | Refusal]:
        """The prompt of each chat, or why it has none.

        Raises:
            BundleError: The template cannot be compiled.
            BackendError: The process cannot be started.
        """
        with self._lock:
            return [self._rendered(chat) for chat in chats]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process:
                self._process.end()
                self._process = None

    def _rendered(self, chat: Sequence[Message]) -> str | Refusal:
        process = self._process = self._process or self._started()
        try:
            reply = process.ask(chat, self._seconds)
        except _SilentError as silence:
            process.end()
            self._process = None
            return Refusal(str(silence))
        text = reply.get("text")
        return text if isinstance(text, str) else Refusal(str(reply.get("failed"))[:500])

    def _started(self) -> _Process:
        process = _Process()
        try:
            reply = process.ask(self._settings, 2 * self._seconds)
        except _SilentError as silence:
            process.end()
            raise BackendError(
                f"the process for the chat template could not begin: {silence}",
                "look at the template: engine run without --chat does not need it",
            ) from silence
        if "failed" in reply:
            process.end()
            raise BundleError(
                f"the chat template cannot be compiled: {str(reply['failed'])[:500]}",
                "give another one with --chat-template FILE",
            )
        return process


class _SilentError(Exception):
    """A process that gave no answer, and why."""


class _Process:
    def __init__(self) -> None:
        # Nothing of this process's environment but what a process needs.
        needed = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            command("engine.bundle.chat_sandbox"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            creationflags=NEW_GROUP,
            env={**needed, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
        )
        assert self._process.stdout
        self._incoming = Incoming(self._process.stdout.fileno())
        self.end = weakref.finalize(self, _end, self._process)

    def ask(self, message: object, seconds: float) -> dict[str, Any]:
        """The answer to a message.

        Raises:
            _SilentError: There is none, in time or at all.
        """
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            line = b"".join(_line(self._incoming, time.monotonic() + seconds))
            reply = json.loads(line)
        except TimeoutError as error:
            raise _SilentError(
                f"the chat template takes longer than {seconds:g} seconds"
            ) from error
        except (OSError, ValueError) as error:
            raise _SilentError("the chat template has ended its process") from error
        return reply if isinstance(reply, dict) else {}


def _line(incoming: Incoming, deadline: float) -> Iterator[bytes]:
    """The bytes of the next line, as they come; all that there are where the pipe ends."""
    size = 0
    while size < _REPLY_BYTES:
        if not incoming.has_come(deadline - time.monotonic()):
            raise TimeoutError
        block = incoming.read()
        yield block
        size += len(block)
        if not block or block.endswith(b"\n"):
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream:
            try:
                stream.close()
            except OSError:
                continue  # what was written and not read
    process.wait()


def read_source(name: str, value: object) -> str:
    """A setting's template: a name, a template, or a file that holds one; for `Setting.read`.

    Raises:
        SettingsError: The file cannot be read.
    """
    if not isinstance(value, str):
        raise SettingsError(f"{name} is {value!r}", "a name of the bundle's, or a file")
    if "{" in value or "\n" in value or not value or not Path(value).is_file():
        return value
    try:
        with open(value, encoding="utf-8", newline=None) as file:
            return file.read(_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{name}: {value} cannot be read as a text: {type(error).__name__}",
            "give a .jinja file",
        ) from error


def chosen(templates: Mapping[str, str], choice: str) -> str:
    """The template to render: one of the bundle's by name, or `choice` itself.

    Raises:
        SettingsError: There is no such template; the hint lists those that there are.
    """
    if choice in templates or (not choice and DEFAULT in templates):
        return templates[choice or DEFAULT]
    if "{" in choice or "\n" in choice:
        return choice
    named = ", ".join(sorted(templates))
    if choice:
        what = f"chat_template {choice!r} is neither a name of the checkpoint's nor a file"
    elif templates:
        what = f"the checkpoint has several chat templates ({named}), none of them the default"
    else:
        what = "the checkpoint has no chat template, which --chat needs"
    hint = f"--chat-template {min(templates)}" if templates else "--chat-template FILE"
    raise SettingsError(what, f"{hint}; known: {named}" if templates else hint)
