"""Plain text: a row for each line, whatever ends it."""

from __future__ import annotations

import bz2
import lzma
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import corpus_files

from engine import data
from engine.core.types import Column
from engine.data import line_chunks, text_lines
from engine.errors import ColumnError


def read(path: Path, *, split_size: int = 1 << 30) -> tuple[dict[int, str], dict[int, str]]:
    """The good rows and the codes of the bad ones, by number."""
    files = corpus_files([path])
    columns = data.settle(files, [Column("text")], ["all"])
    good: dict[int, str] = {}
    bad: dict[int, str] = {}
    for split in data.split_files(files, split_size):
        for rows in data.read(split, columns, window=10):
            assert rows.numbers is not None
            good |= dict(zip(rows.numbers.tolist(), rows.texts[0].to_pylist(), strict=True))
            bad |= dict(zip(rows.rejects.rows.tolist(), rows.rejects.codes, strict=True))
    return good, bad


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(
        st.text("ab é\t\r\u2028\x0b", max_size=5).map(lambda t: t.rstrip("\r")), max_size=9
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    last=st.booleans(),
    chunk=st.sampled_from([3, 7, 1 << 20]),
    long=st.sampled_from([2, 1 << 20]),
    split_size=st.sampled_from([4, 1 << 30]),
)
def test_each_line_is_a_row(
    tmp_path: Path,
    lines: list[str],
    newline: str,
    mark: str,
    last: bool,
    chunk: int,
    long: int,
    split_size: int,
) -> None:
    content = mark + newline.join(lines) + (newline if last and lines else "")
    (tmp_path / "x.txt").write_bytes(content.encode())
    if lines and not last and not lines[-1]:
        lines = lines[:-1]  # nothing behind the last end of a line is no line
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_chunks, "CHUNK", chunk)
        patch.setattr(text_lines, "LONG", long)
        good, bad = read(tmp_path / "x.txt", split_size=split_size)
    assert (good, bad) == (dict(enumerate(lines)), {})


def test_a_line_that_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"a\n\xff\xfe b\n\nc")
    assert read(tmp_path / "x.txt") == ({0: "a", 2: "", 3: "c"}, {1: "invalid_utf8"})


def test_a_line_that_cannot_be_held_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "LARGEST", 20)
    monkeypatch.setattr(line_chunks, "CHUNK", 8)
    (tmp_path / "x.txt").write_bytes(b"a\n" + b"x" * 50 + b"\nb\nc")
    assert read(tmp_path / "x.txt") == ({0: "a", 2: "b", 3: "c"}, {1: "too_long"})


@pytest.mark.parametrize("name", ["bz2", "xz"])
def test_compressed_text_is_read(tmp_path: Path, name: str) -> None:
    pack = bz2.compress if name == "bz2" else lzma.compress
    (tmp_path / f"x.txt.{name}").write_bytes(pack(b"a\nb\n"))
    assert read(tmp_path / f"x.txt.{name}") == ({0: "a", 1: "b"}, {})


def test_its_column_is_called_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\n")
    with pytest.raises(ColumnError, match="no column 'body'") as caught:
        data.settle(corpus_files([tmp_path / "x.txt"]), [Column("body")], [])
    assert caught.value.hint == "--text one of: 'text'"


def test_texts_about_a_corpus_are_none_of_it(tmp_path: Path) -> None:
    for name in ("README.txt", "LICENSE.txt", "license-mit.txt", "sha256sums.txt", "rows.txt"):
        (tmp_path / name).write_text("a\n")
    discovery = data.discover([tmp_path])
    assert [file.name for file in discovery.files] == ["rows.txt"]
    assert discovery.unread == {".txt": 4}
