"""The sandbox of chat templates: what it renders, and what it does not let a template do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints.chat_templates import CHATS, TEMPLATES, chat

from engine.bundle import chat_template
from engine.bundle.chat_sandbox import Sandbox
from engine.bundle.chat_template import ChatTemplate, Refusal
from engine.core import helper_process, vendor_telemetry
from engine.errors import BundleError, SettingsError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<a>"]}
SECRET = "the secret words"
ONE = chat(("user", SECRET))


def rendered(source: str, messages: Any = ONE, **settings: Any) -> str | Refusal:
    template = ChatTemplate(source, TOKENS, **settings)
    try:
        return template.render([messages])[0]
    finally:
        template.close()


def reason(source: str, **settings: Any) -> str:
    answer = rendered(source, **settings)
    assert isinstance(answer, Refusal), answer
    assert SECRET not in answer.reason
    return answer.reason


@pytest.fixture(scope="module", params=sorted(TEMPLATES))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[ChatTemplate, Any]]:
    """A template, and transformers' function that renders it."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = TEMPLATES[request.param]

    def theirs(messages: Any) -> str | None:
        last = messages[-1]["role"] == "assistant"
        try:
            texts, _ = utils.render_jinja_template(
                conversations=[messages],
                chat_template=source,
                add_generation_prompt=not last,
                continue_final_message=last,
                **TOKENS,
            )
        except Exception:  # a template's own, or that the last message is not found again
            return None
        return str(texts[0])

    template = ChatTemplate(source, TOKENS)
    yield template, theirs
    template.close()


def test_prompts_equal_transformers(pair: tuple[ChatTemplate, Any]) -> None:
    template, theirs = pair
    prompts = template.render(CHATS)
    assert [p if isinstance(p, str) else None for p in prompts] == [theirs(c) for c in CHATS]
    assert sum(isinstance(p, str) for p in prompts) > len(CHATS) // 2


messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "system", "tool"]),
        st.text(max_size=12) | st.sampled_from(["</s>", " \n x ", "{{ 1 }}", "[/INST]"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(messages)
def test_random_chats_equal_transformers(pair: tuple[ChatTemplate, Any], chat: Any) -> None:
    template, theirs = pair
    (prompt,) = template.render([chat])
    assert (prompt if isinstance(prompt, str) else None) == theirs(chat)


def test_what_a_template_may_read() -> None:
    text = rendered(
        "{{ bos_token }}{{ additional_special_tokens[0] }}{{ tools }}{{ documents }}"
        "{{ add_generation_prompt }}{{ thinking | tojson }}{{ strftime_now('%d %b %Y') }}"
        "{{ {'b': '<é>', 'a': 1} | tojson(indent=1, sort_keys=true) }}{{ nothing }}",
        variables={"thinking": False},
        date="2026-01-31",
    )
    assert text == '<s><a>NoneNoneTruefalse31 Jan 2026{\n "a": 1,\n "b": "<é>"\n}'


ENDLESS = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "steps",
    "{% for i in range(99999) %}{{ messages | map(attribute='content') | list }}{% endfor %}": "",
    "{% macro f() %}{% for i in range(9) %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}": "itself",
    "{% for i in range(10**9) %}x{% endfor %}": "OverflowError",
    "{{ 'a' * 10**10 }}": "characters",
    "{{ messages[0].content * 10**9 }}": "characters",
    "{{ 10**9 * messages[0].content }}": "characters",
    "{{ 7 ** (10**10 + messages | length) }}": "too many digits",
    "{{ (-2) ** 99999 }}": "too many digits",
    "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}"
    "{% endfor %}{{ ns.x }}": "too many digits",
    "{{ messages[0].content | center(3000000000) }}": "384 MiB",
    "{{ '%3000000000d' % 1 }}": "384 MiB",
    "{{ '{:>3000000000}'.format('x') }}": "384 MiB",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x }}": "384 MiB",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}{{ ns.x }}": "384 MiB",
    "{% for i in range(99999) %}{{ messages | tojson(indent=4000) }}{% endfor %}": "characters",
    "{{ 'x' * 2000000 }}": "characters",
}


@pytest.mark.parametrize("source", ENDLESS)
def test_what_would_run_or_grow_without_end_is_stopped(source: str) -> None:
    assert ENDLESS[source] in reason(source)


def test_a_single_call_without_end_is_given_up_and_the_next_chat_is_rendered() -> None:
    copies = "{{ ([[1] * 100] * 30000) | sum(start=[]) | length }}"
    source = f"{{% if messages[0].content == 'go' %}}{copies}{{% endif %}}ok"
    template = ChatTemplate(source, {}, seconds=1.0)
    first, second, third = template.render([ONE, chat(("user", "go")), ONE])
    template.close()
    assert first == third == "ok"
    assert second == Refusal("the chat template takes longer than 1 seconds")


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{0.__class__.__mro__}'.format_map({'0': messages}) }}",
    "{{ (messages | map('format') | first).__class__ }}{{ ''|attr('__class__') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__call__.__func__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source: str) -> None:
    answer = rendered(source)
    assert isinstance(answer, Refusal) or answer == "", answer


def test_the_process_can_open_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the sandbox had a hole."""
    pytest.importorskip("resource")
    known = {"LC_CTYPE", *vendor_telemetry.SWITCHES}  # `import engine` sets the latter
    hole = (
        "import engine.bundle.chat_sandbox as c, os, socket, subprocess\n"
        f"known = {known!r}\n"
        "def attempt(what):\n"
        "    try: return what() and 'done'\n"
        "    except OSError: return 'refused'\n"
        f"calls = [lambda: open('/etc/hosts'), lambda: open({str(tmp_path / 'new')!r}, 'w'),\n"
        "    lambda: socket.socket(), lambda: subprocess.run(['true'])]\n"
        "c.Sandbox.render = lambda self, m: m[0]['content'] == 'é' or {\n"
        "    'text': ' '.join(map(attempt, calls)) + str(sorted(set(os.environ) - known))}\n"
        "c.main()"
    )
    monkeypatch.setenv("HF_TOKEN", "secret")
    *start, code = helper_process.command("engine.bundle.chat_sandbox")
    own = code.replace("from engine.bundle.chat_sandbox import main\nmain()\n", hole)
    assert own != code
    monkeypatch.setattr(chat_template, "command", lambda module: [*start, own])
    names = "['PYTHONDONTWRITEBYTECODE', 'PYTHONHASHSEED']"
    assert rendered("x") == f"refused refused refused refused{names}"
    assert not list(tmp_path.iterdir())


def test_reasons_are_the_templates_words_and_never_the_users() -> None:
    words = "Roles must alternate"
    assert reason(f"a\nb{{{{ raise_exception('{words}') }}}}") == (
        f"the chat template fails in line 2: {words}"
    )
    assert reason("{{ raise_exception('no ' + messages[0].content) }}") == (
        "the chat template fails in line 1: TemplateError"
    )
    assert reason("\n\n{{ messages[0].content.a.b }}") == (
        "the chat template fails in line 3: UndefinedError"
    )
    assert "line 1: TypeError" in reason("{{ messages + 1 }}")
    assert "no date" not in reason("{{ strftime_now('%d') }}")
    assert "asks for the date" in reason("{{ strftime_now('%d') }}")


@pytest.mark.parametrize(
    ("source", "why"),
    [("a\n{% for %}", "line 2: "), ("{% foo %}", "unknown tag 'foo'"), ("{{ x | nil }}", "nil")],
)
def test_a_template_that_cannot_be_compiled(source: str, why: str) -> None:
    with pytest.raises(BundleError, match="cannot be compiled") as error:
        rendered(source)
    assert why in error.value.message
    assert "--chat-template" in error.value.hint


def test_chance_gives_each_chat_the_same() -> None:
    source = "{{ range(1000) | random }} {{ lipsum(n=1) }}"
    sandbox = Sandbox(source, {}, {}, "")
    assert sandbox.render(ONE) == sandbox.render(ONE) == Sandbox(source, {}, {}, "").render(ONE)


def test_a_process_that_ends_is_started_again() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    assert template.render([ONE]) == [SECRET]
    process: Any = template._process
    os.kill(process._process.pid, 9)
    process._process.wait()
    assert template.render([ONE, ONE]) == [
        Refusal("the chat template has ended its process"),
        SECRET,
    ]
    template.close()


def test_the_template_that_is_chosen(tmp_path: Path) -> None:
    named = {"default": "a", "tools": "b"}
    assert chat_template.chosen(named, "") == "a"
    assert chat_template.chosen(named, "tools") == "b"
    assert chat_template.chosen(named, "{{ x }}") == "{{ x }}"
    with pytest.raises(SettingsError, match="neither a name") as error:
        chat_template.chosen(named, "tool")
    assert "default, tools" in error.value.hint
    with pytest.raises(SettingsError, match="none of them the default") as error:
        chat_template.chosen({"rag": "a", "tools": "b"}, "")
    assert error.value.hint.startswith("--chat-template rag")
    with pytest.raises(SettingsError, match="no chat template"):
        chat_template.chosen({}, "")
    file = tmp_path / "mine.jinja"
    file.write_text("no braces\n", encoding="utf-8")
    assert chat_template.read_source("chat_template", str(file)) == "no braces\n"
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="cannot be read as a text"):
        chat_template.read_source("chat_template", str(file))
