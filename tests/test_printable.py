"""Text from outside as it is shown."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, RowError, from_dict, to_dict
from engine.printable import (
    cut,
    encodable,
    escaped_json,
    is_text,
    plain_name,
    printable,
    printable_json,
    without_secrets,
)

ANY = st.text(st.characters(codec=None, exclude_categories=()))  # surrogates, too
PLAIN = "Übersicht 数据 naïve \u3000\u00a0 a\\nb 'x' [red] 🙂"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b31m \x7f \x00", r"\x9b31m \x7f \x00"),  # C1 controls act on a terminal as well
        ("evil\u202egpj.exe \u2066x\u2069", r"evil\u202egpj.exe \u2066x\u2069"),
        ("zero\u200bwidth\ufeff\u200d \u00ad", r"zero\u200bwidth\ufeff\u200d \xad"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        (os.fsdecode(b"caf\xe9.jsonl"), r"caf\xe9.jsonl"),
        ("half \ud800", r"half \ud800"),
        ("\U000e0041 \ue000", r"\U000e0041 \ue000"),
        (PLAIN, PLAIN),
        ("", ""),
    ],
    ids=["lines", "escapes", "controls", "bidi", "zero-width", "separators", "byte", "surrogate",
         "tags", "plain", "empty"],
)  # fmt: skip
def test_what_acts_on_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY)
def test_a_line_stays_one_line_of_valid_text(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


@given(st.dictionaries(ANY, st.lists(ANY) | st.none() | st.integers(), max_size=3))
def test_json_reads_back_as_it_was(value: dict[str, object]) -> None:
    shown = printable_json(value)
    shown.encode()
    assert json.loads(shown) == value
    assert printable(shown, len(shown)) == shown
    assert escaped_json(shown) == shown


def test_json_lines_stay_lines() -> None:
    lines = '{"a":"\u202e"}\n{"a":"\x9b"}\n'
    assert escaped_json(lines) == '{"a":"\\u202e"}\n{"a":"\\u009b"}\n'


@given(st.binary())
def test_a_name_becomes_valid_text(name: bytes) -> None:
    text = os.fsdecode(name)
    encodable(text).encode()
    assert plain_name(text).isprintable() or not plain_name(text).isascii()
    assert len(plain_name(text)) == len(text)
    assert is_text(text) == (encodable(text) == text)
    assert printable(plain_name(text)) == plain_name(text)


def test_of_a_long_name_both_ends_are_shown() -> None:
    shown = printable("a" * 500_000 + "b" * 500_000, 300)
    assert shown == "a" * 200 + " [... 999,700 characters ...] " + "b" * 100
    assert cut("short", 5) == "short"


def test_errors_are_of_one_line_and_a_hint() -> None:
    error = EngineError("a\nb\x1b[2J: no such file", "name\r it otherwise")
    assert str(error) == "a\\nb\\x1b[2J: no such file\nhint: name\\r it otherwise"
    assert str(from_dict(to_dict(error))) == str(error)
    row = RowError("x\n.jsonl", 3, "null", "it is null", column="c\x1b")
    assert row.path == "x\n.jsonl"  # what is compared stays as it is
    assert "x\\n.jsonl: row 3" in str(row)
    assert "\x1b" not in str(row)
    assert len(str(EngineError("x" * 10**6))) < 5000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:zq@host/a.jsonl: no", "https://...@host/a.jsonl: no"),
        ("'https://zq@host'", "'https://...@host'"),
        ("https:/user:zq@host/a", "https:/...@host/a"),  # as a Path has it
        ("s3://b/k?X-Amz-Signature=zq&a=b 'c'", "s3://b/k?... 'c'"),
        ("https://u:z@q@h/p?token=zq#x, http://zq@h", "https://...@h/p?..., http://...@h"),
        ("hf://datasets/o/n@main/a.jsonl", "hf://datasets/o/n@main/a.jsonl"),
        ("abfss://box@account.dfs.core.windows.net/k", "abfss://box@account.dfs.core.windows.net/k"),
        ("s3://b/part-?.parquet, a: b@c, C:/x", "s3://b/part-?.parquet, a: b@c, C:/x"),
        ("pip install x; ssh me@host:/a", "pip install x; ssh me@host:/a"),
    ],
)  # fmt: skip
def test_an_address_loses_what_may_be_a_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
    assert EngineError(text, text).hint == shown
