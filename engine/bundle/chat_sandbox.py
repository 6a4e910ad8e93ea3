"""The process that renders a chat template, which comes with a checkpoint and is not trusted.

Jinja's immutable sandbox keeps a template from Python's inside. It does not keep one from running
for ever or from filling the memory, so that `chat_template` renders in this process: each chat has
a number of steps, the process a limit of memory, and after its start it can neither open a file or
socket nor start a process. The environment has no secrets.

    run -> process   JSON, a line each: what `Sandbox` takes, then a chat each time
    process -> run   {} once the template is compiled, or {"failed": why}; then for each chat
                     {"text": prompt}, or {"failed": why}

JSON, not pickles: this end is the one that is not trusted.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.core.system_calls import limits

# Lines of Python that one chat may take: some thousand messages in the longest templates.
STEPS = 2_000_000
# Bytes that a template may take beyond what the process has at its start.
MEMORY = 384 << 20
# Characters of a prompt at most: as many, and four times those of its messages.
CHARACTERS = 1 << 20
# Bits of a product of whole numbers at most: larger ones take time that no step counts.
BITS = 1 << 12
# Where Jinja says that a template's code stands.
_TEMPLATE_FILES = ("<template>", "<unknown>")
# transformers finds with it where the last message ends.
_LAST = "CONTINUE_FINAL_MESSAGE_TAG "

Message = Mapping[str, str]


_FEATURES = "{{ lipsum(n=1) }}{{ messages | tojson }}{{ strftime_now('%d %b') }}{{ tools.x.y }}"


class _OverBudget(BaseException):
    """Ends a template. Jinja handles Exception, and not this."""


class _Generation(jinja2.ext.Extension):
    """transformers' block {% generation %}, which marks what an assistant wrote."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's declaration

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_content")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> str:
        return str(caller())


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with products and powers of bounded size."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > BITS:
            raise _OverBudget("the chat template computes a number of too many digits")
        if operator == "*" and _length(left, right) > CHARACTERS:
            raise _OverBudget(f"the chat template gives more than {CHARACTERS:,} characters")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: Any, right: Any) -> int:
    """Bits of a product or power of whole numbers; 0 of others."""
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    if operator == "*":
        return left.bit_length() + right.bit_length()
    return left.bit_length() * abs(right) if abs(left) > 1 else 0


def _length(left: Any, right: Any) -> int:
    """Items of a text or list that is repeated; 0 of others."""
    for items, times in ((left, right), (right, left)):
        if isinstance(items, (str, list, tuple)) and isinstance(times, int):
            return len(items) * times
    return 0


class Sandbox:
    """A compiled template.

    Args:
        source: The template.
        tokens: The tokenizer's special tokens by their names in templates, such as bos_token.
        variables: What else the template may read, such as enable_thinking.
        date: ISO date or time that strftime_now formats; "" for none.

    Raises:
        jinja2.TemplateError: It cannot be compiled.
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, Any],
        variables: Mapping[str, Any],
        date: str,
        steps: int = STEPS,
    ) -> None:
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _Clock(date)
        self._source, self._variables = source, {**tokens, **variables}
        self._steps = steps
        self._template = environment.from_string(source)

    def render(self, messages: Sequence[Message]) -> dict[str, str]:
        """The prompt as {"text": ...}, or {"failed": why}, without any text of the messages."""
        try:
            return {"text": self._prompt(messages)}
        except _OverBudget as error:
            return {"failed": str(error)}
        except MemoryError:
            return {"failed": f"the chat template takes more than {MEMORY >> 20} MiB"}
        except RecursionError:
            return {"failed": "the chat template calls itself too often"}
        except Exception as error:  # a template can raise anything
            return {"failed": self._reason(error)}

    def _prompt(self, messages: Sequence[Message]) -> str:
        """As the pipeline of transformers: a last message of the assistant is continued."""
        if messages[-1]["role"] != "assistant":
            return self._rendered(messages, True)
        last = messages[-1]["content"]
        marked = [*messages[:-1], {**messages[-1], "content": last + _LAST}]
        whole = self._rendered(marked, False)
        if last.strip() not in whole or _LAST.strip() not in whole:
            raise jinja2.TemplateError(_NOT_CONTINUED)
        end = whole.rindex(_LAST.strip())
        spaced = whole.startswith(_LAST, end)
        return whole[:end] if spaced else whole[:end].rstrip()

    def _rendered(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        most = CHARACTERS + 4 * sum(len(text) for m in messages for text in m.values())
        pieces, length = [], 0
        random.seed(0)  # `lipsum` and the filter `random` give each chat the same
        with _steps(self._steps):
            for piece in self._template.generate(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            ):
                length += len(piece)
                if length > most:
                    raise _OverBudget(f"the chat template gives more than {most:,} characters")
                pieces.append(piece)
        return "".join(pieces)

    def _reason(self, error: Exception) -> str:
        """What a template failed with. Its words are given only where they are the template's."""
        words = str(error) or type(error).__name__
        known = words in (_NOT_CONTINUED, _NO_DATE) or words in self._source
        where = f" in line {line}" if (line := _line(error)) else ""
        return f"the chat template fails{where}: {words if known else type(error).__name__}"


_NOT_CONTINUED = "it does not give the assistant's last message, which was to be continued"
_NO_DATE = "it asks for the date, and the run has none"


class _Clock:
    """`strftime_now` of a date that does not change."""

    def __init__(self, date: str) -> None:
        self._now = datetime.fromisoformat(date) if date else None

    def __call__(self, format: str) -> str:
        if self._now is None:
            raise jinja2.TemplateError(_NO_DATE)
        return self._now.strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter: Jinja's own escapes what stands for something in HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _line(error: BaseException) -> int:
    """The line of the template in which an error was raised; 0 where it is not known."""
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename in _TEMPLATE_FILES:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@contextmanager
def _steps(most: int) -> Iterator[None]:
    """Raise `_OverBudget` after as many lines of Python."""
    left = most

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _OverBudget(f"the chat template takes more than {most:,} steps")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _shut_in() -> None:
    """From here on: no new file, socket or process, and so much memory."""
    if not (resource := limits()):
        return
    used = re.search(r"VmSize:\s+(\d+) kB", _status())
    if used:
        most = (int(used[1]) << 10) + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))


def _status() -> str:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _tell(message: Mapping[str, str]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """The process."""
    settings = json.loads(sys.stdin.buffer.readline())
    # What Jinja and Python load late could not be loaded later.
    Sandbox(_FEATURES, {}, {}, "2026-01-31").render([{"role": "user", "content": "é"}])
    _shut_in()
    try:
        sandbox = Sandbox(**settings)
    except jinja2.TemplateSyntaxError as error:
        _tell({"failed": f"line {error.lineno}: {error.message}"})
        return
    except Exception as error:  # as the constants in it are computed
        _tell({"failed": type(error).__name__})
        return
    _tell({})
    for line in sys.stdin.buffer:
        _tell(sandbox.render(json.loads(line)))
