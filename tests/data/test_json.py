"""Whole files of JSON and compressed ones: the same rows as JSON lines, and none lost."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import corpus_files

from engine import data
from engine.core.types import Column
from engine.data import json_layout, line_chunks
from engine.data.json_layout import ARRAY, LINES, OBJECTS
from engine.errors import InputError

few = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def zst(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zst,
}
Read = tuple[list[tuple[int, Any]], list[tuple[int, str]]]


def read(path: Path, content: bytes | None = None, *, split_size: int = 1 << 30) -> Read:
    """Numbers and all columns of good rows; numbers and codes of bad ones."""
    if content is not None:
        path.write_bytes(content)
    files = corpus_files([path])
    columns = data.settle(files, [Column("text")], ["all"])
    good: list[tuple[int, Any]] = []
    bad: list[tuple[int, str]] = []
    for split in data.split_files(files, split_size):
        for rows in data.read(split, columns, window=10):
            assert rows.kept is not None
            assert rows.numbers is not None
            good += zip(rows.numbers.tolist(), rows.kept.to_pylist(), strict=True)
            bad += zip(rows.rejects.rows.tolist(), rows.rejects.codes, strict=True)
    return good, bad


ROWS = [{"text": f'{i} \\ " [] {{}} , \n é', "m": {"k": [{"z": i}]}} for i in range(5)]
SPELLED = {
    "array": json.dumps(ROWS),
    "pretty array": json.dumps(ROWS, indent=2),
    "array with CRLF": json.dumps(ROWS, indent=2).replace("\n", "\r\n"),
    "array with tabs": json.dumps(ROWS, indent="\t", ensure_ascii=False) + "\n\n",
    "array with a mark": "\ufeff" + json.dumps(ROWS, indent=1),
    "array after spaces": "\n  \n" + json.dumps(ROWS),
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS) + "\n",
    "pretty objects, glued": "".join(json.dumps(row, indent=2) for row in ROWS),
    "glued objects": "".join(map(json.dumps, ROWS)),
    "objects with spaces between": " ".join(map(json.dumps, ROWS)),
    "mixed objects": "\n".join(json.dumps(row, indent=i % 2 or None) for i, row in enumerate(ROWS)),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "lines with CRLF": "\r\n".join(map(json.dumps, ROWS)) + "\r\n",
}


@pytest.mark.parametrize("ending", ["json", "jsonl", "ndjson"])
@pytest.mark.parametrize("form", SPELLED)
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_every_layout_of_json_gives_the_same_rows(
    tmp_path: Path, form: str, ending: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", chunk)
    content = SPELLED[form].encode()
    assert read(tmp_path / f"x.{ending}", content) == (list(enumerate(ROWS)), [])


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("form", ["array", "pretty objects", "lines"])
def test_every_compression_of_json_gives_the_same_rows(
    tmp_path: Path, form: str, name: str
) -> None:
    packed = PACK[name](SPELLED[form].encode())
    for ending in ("json", "jsonl", "ndjson"):
        assert read(tmp_path / f"x.{ending}.{name}", packed) == (list(enumerate(ROWS)), [])


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4)
texts = st.text('{}[],:"\\\n\t é', max_size=6)
values = st.recursive(
    texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("k"), inner, max_size=1),
    max_leaves=4,
)


@few
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"text": st.text('{}[],:"\\\n\t é', max_size=6)}, optional={"m": values}
        )
        | scalars,
        max_size=8,
    ),
    indent=st.sampled_from([None, 0, 3, "\t"]),
    chunk=st.sampled_from([1, 2, 5, 64]),
)
def test_an_array_has_the_rows_and_rejects_of_its_elements_as_lines(
    tmp_path: Path, rows: list[Any], indent: Any, chunk: int
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_chunks, "_layout", lambda kind, head: LINES)
        expected = read(tmp_path / "lines.jsonl", lines.encode())
        patch.setattr(line_chunks, "_layout", lambda kind, head: ARRAY)
        patch.setattr(line_chunks, "CHUNK", chunk)
        content = json.dumps(rows, indent=indent).encode()
        assert read(tmp_path / "array.json", content) == expected
        objects = [row for row in rows if isinstance(row, dict)]
        patch.setattr(line_chunks, "_layout", lambda kind, head: OBJECTS)
        content = "\n".join(json.dumps(row, indent=indent) for row in objects).encode()
        assert [row for _, row in read(tmp_path / "objects.json", content)[0]] == [
            row for _, row in expected[0]
        ]


@few
@given(content=st.text('{}[],:"\\ \na1', max_size=24), chunk=st.sampled_from([1, 3, 99]))
def test_broken_json_is_told_from_good_json(tmp_path: Path, content: str, chunk: int) -> None:
    """Where the whole is JSON, each element is a line of its own; else some line is no JSON, or
    the file is refused."""
    text = f"[{content}]"
    blocks = [text[at : at + chunk].encode() for at in range(0, len(text), chunk)]
    try:
        lines = b"".join(json_layout.as_lines(tmp_path, blocks, ARRAY)).decode()
    except InputError:
        lines = "{"
    rows = [row for row in lines.split("\n") if row]
    try:
        parsed = [json.loads(row) for row in rows]
    except ValueError:
        parsed = None
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    assert parsed == expected


BAD = {
    "a wrong value": ('{"text": tru}', "broken_json"),
    "a wrong value beside objects": ('{"text": "w", "m": [{"a": tru}, {"b": 1,}]}', "broken_json"),
    "quotation marks within a text": ('{"text": "he said "hi" there"}', "broken_json"),
    "a line end in a text": ('{"text": "a\nb"}', "broken_json"),
    "nothing": (" ", "broken_json"),
    "null": ("null", "not_object"),
    "a text": ('"w"', "not_object"),
    "a list": ('["w", {"text": "w"}]', "not_object"),
    "no text": ('{"other": 1}', "null_text"),
    "a number": ('{"text": 5}', "not_text"),
    "a wrong escape": (r'{"text": "\x"}', "broken_json"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_bad_element_is_a_reject_and_its_neighbours_are_rows(
    tmp_path: Path, what: str, at: int
) -> None:
    element, code = BAD[what]
    elements = ['{"text": "a"}', '{"text": "b"}']
    elements.insert(at, element)
    good, bad = read(tmp_path / "x.json", ("[\n" + ",\n".join(elements) + "\n]").encode())
    if what == "nothing" and at == 0:
        return  # what begins with a comma is no array
    assert bad == [(at, code)]
    assert [(n, row["text"]) for n, row in good] == [
        (n, one[-3]) for n, one in enumerate(elements) if n != at
    ]


REFUSED = {
    '[{"text":"a"}\n {"text":"b"}]': "no comma before an element, at byte 15",
    '[{"text":"a"},\n {"text":"b"}': "ends within object 1 .* at byte 28",
    '[{"text":"a"},\n {"text":"b': "ends within object 1 .* at byte 26",
    '[{"text":"a"},\n': "ends within object 1 .* at byte 15",
    '[{"text":"a"}': "ends within object 0",
    '{\n"text":"a"}\n{"text":': "ends within object 1 .* at byte 22",
    '[{"text":"a"}]\n[{"text":"b"}]': "a second array at byte 15",
    '[{"text":"a"}] x': "something outside of the array at byte 15",
    '[{"text":"a"}}, {"text":"c"}]': "something outside of the array at byte 13",
    '[{"text":["a"}, {"text":"c"}]': "ends within object 0",
    '[{"text":"a"}, {"text": "he}, {"text":"b"}, {"text":"c"}]': "ends within object 1",
    '[{"text":"a"}, {"text": "he}, {"text":"b}, {"text":"c"}]': "object 1 .* its end is unclear",
    '[{"text":"a"}, {"text": "he", {"text":"b"}, {"text":"c"}]': "ends within object 1",
    '[{"text":"a"}, {"text": "he", {"text":"b"}}, {"text":"c"}]': "object 1 .* its end is unclear",
    '{\n"text":"a"}\nnull\n{"text":"c"}': "something between the objects at byte 14",
    '{\n"text":"a"},\n{"text":"c"}': "something between the objects at byte 13",
    '{\n"text":"a"}}\n{"text":"c"}': "something between the objects at byte 13",
}


@pytest.mark.parametrize("content", REFUSED)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_where_the_end_of_an_object_cannot_be_told_the_file_is_refused(
    tmp_path: Path, content: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = json_layout.layout_of(content.encode(), whole=True)
    if layout == LINES:
        layout = OBJECTS
    monkeypatch.setattr(line_chunks, "_layout", lambda kind, head: layout)
    monkeypatch.setattr(line_chunks, "CHUNK", chunk)
    with pytest.raises(InputError, match=REFUSED[content]) as caught:
        read(tmp_path / "x.json", content.encode())
    assert str(tmp_path / "x.json") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "rows"),
    [("", 0), ("[]", 0), (" [ \n ]\n", 0), ("\n\n", 0), ("{}", 0), ('{"text": "w"}', 1)],
)
def test_files_of_no_rows_and_of_one(tmp_path: Path, content: str, rows: int) -> None:
    good, _ = read(tmp_path / "x.json", content.encode())
    assert len(good) == rows


@pytest.mark.parametrize(
    ("layout", "content"), [("array", b'[{"a":1 2}]'), ("objects", b'{"a":1 2}')]
)
def test_a_block_of_spaces_keeps_numbers_apart(layout: str, content: bytes) -> None:
    blocks = [*content.partition(b" ")]
    lines = b"".join(json_layout.as_lines(Path("f"), blocks, layout))
    assert lines.strip() == b'{"a":1 2}'


def test_an_array_is_one_split_and_lines_called_json_are_cut(tmp_path: Path) -> None:
    rows = [{"text": f"w{i}"} for i in range(400)]
    for name, content in {
        "array.json": json.dumps(rows),
        "objects.json": "\n".join(json.dumps(row, indent=1) for row in rows),
        "lines.json": "\n".join(map(json.dumps, rows)),
    }.items():
        (tmp_path / name).write_text(content)
        splits = list(data.split_files(corpus_files([tmp_path / name]), 1000))
        assert (len(splits) > 1) == (name == "lines.json")
        assert read(tmp_path / name, split_size=1000) == (list(enumerate(rows)), [])


def test_an_object_longer_than_the_head_is_told_from_lines(tmp_path: Path) -> None:
    long = json.dumps({"text": "w " * 600_000, "n": [1, 2]}, indent=1)
    assert len(read(tmp_path / "x.json", f"{long}\n{long}".encode())[0]) == 2
    lines = json.dumps({"text": "w " * 600_000}) + '\n{"text": "b"}\n'
    assert len(read(tmp_path / "x.json", lines.encode())[0]) == 2


@pytest.mark.parametrize("name", ["bz2", "xz"])
def test_a_stream_that_ends_early_or_goes_on_with_junk_is_refused(
    tmp_path: Path, name: str
) -> None:
    pack, path = PACK[name], tmp_path / f"x.jsonl.{name}"
    member = pack(b'{"text": "w"}\n' * 500)
    assert len(read(path, member + member + pack(b"") + member)[0]) == 1500
    for cut in (1, 4, 9, len(member) // 2, len(member) - 1):
        for content in (member[:-cut], member + member[:-cut]):
            with pytest.raises(InputError, match=path.name):
                read(path, content)
    damaged = bytearray(member)
    damaged[2] ^= 1
    for content in (b"", member + b"junk", member + bytes(damaged), bytes(damaged)):
        with pytest.raises(InputError, match=path.name):
            read(path, content)


def test_an_xz_file_may_have_padding_between_its_streams(tmp_path: Path) -> None:
    member = lzma.compress(b'{"text": "w"}\n')
    padded = member + b"\0" * 4 + member + b"\0" * 8
    assert len(read(tmp_path / "x.jsonl.xz", padded)[0]) == 2


def test_json_beside_a_corpus_is_read_where_it_has_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"text": "w"}]')
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    (tmp_path / "version.json").write_text('"1.0"')
    discovery = data.discover([tmp_path])
    assert [file.name for file in discovery.files] == ["rows.json"]
    assert discovery.unread == {".json": 2}
    assert data.find_files([tmp_path / "dataset_info.json"])
