"""Names from outside on the terminal: whatever they hold, a line stays a line, and all is read."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from engine.cli import interrupt, main, progress, terminal
from engine.core.telemetry import Progress
from engine.demo import BUNDLE

pytest.importorskip("onnxruntime")

ODD = b"c\xff\x1b[31m\n\xe2\x80\xae[red]"
COLUMN = "id\r\x1b[1m\u202e"
TABLE = pa.table({"text": ["uno", "dos"], COLUMN: [1, 2]})


@pytest.fixture(autouse=True)
def signals_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interrupt, "install", lambda: None)
    monkeypatch.setattr(interrupt, "_state", {})
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


class Printed:
    """What a command printed, checked to be safe for a terminal."""

    def __init__(self, out: bytes, err: bytes, code: object) -> None:
        self.out, self.err, self.code = out.decode(), err.decode(), code
        for line in f"{self.out}\n{self.err}".splitlines():
            unsafe = [c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs")]
            assert not unsafe, line
        assert "Traceback" not in self.err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]):  # type: ignore[no-untyped-def]
    def run(*arguments: object) -> Printed:
        capfdbinary.readouterr()
        words = [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["engine", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return Printed(*capfdbinary.readouterr(), end.value.code)

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A file of each kind, with an odd name in an odd folder."""
    folder = os.fsencode(tmp_path) + b"/in/k\xfe\n=v\xff\x1b[1m"
    os.makedirs(folder)
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in TABLE.to_pylist())
    with pa.OSFile(folder + b"/p" + ODD + b".parquet", "wb") as file:
        pq.write_table(TABLE, file, row_group_size=1)
    name = folder + b"/a" + ODD + b".arrow"
    with pa.OSFile(name, "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    for name, content in {
        b"j.jsonl": rows + b'{"text": 3}\n',
        b"g.jsonl.gz": gzip.compress(rows),
        b"z.jsonl.zst": pa.compress(rows, "zstd", asbytes=True),
        b"c.csv": b"text\nuno\n",
        b"n.xyz\x1b[31m": b"",
    }.items():
        Path(os.fsdecode(folder + b"/" + ODD + name)).write_bytes(content)
    return tmp_path / "in"


def test_files_and_columns_of_any_name_are_read_and_shown_escaped(
    call, corpus: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    out = os.fsencode(tmp_path) + b"/out\xff\n\x1b[2J"
    settings = ["--on-error", "reject", "--keep", f"{COLUMN},_file", "--split-size", "64"]
    run = ("run", BUNDLE, corpus, "-o", out, *settings)
    plan = call(*run, "--dry-run")
    assert plan.code == 0
    assert r"out\xff\n\x1b[2J" in plan.out
    assert r"k\xfe\n=v\xff\x1b[1m/" in plan.out
    assert r"not read: 1 .xyz\x1b[31m" in plan.out
    assert r"id\r\x1b[1m\u202e (int64)" in plan.out
    done = call(*run)
    assert done.code == 3, done.err
    assert "12 rows in, 11 answered, 1 rejected" in done.out

    report = json.loads(call(*run, "--json").out)
    assert report["out"] == os.fsdecode(out)
    assert report["splits_skipped"] == report["splits"] == 8
    assert all(name.isprintable() for name in report["files"])
    assert {n for n in os.listdir(os.fsdecode(out)) if n.startswith("part-")} == {*report["files"]}
    (bad,) = map(json.loads, call("rejects", out).out.splitlines())
    assert os.fsencode(bad["file"]).endswith(ODD + b"j.jsonl")
    assert call("verify", out).code == 0
    rows = [json.loads(line) for line in call("head", out, "-n", "20").out.splitlines()]
    assert len(rows) == 11
    assert {COLUMN, "_file"} <= rows[0].keys()
    assert all(row["_file"].startswith("k\\xfe\n=v\\xff\x1b[1m/") for row in rows)
    assert r"id\r\x1b[1m\u202e: int64" in call("inspect", out).out
    new = os.fsencode(tmp_path) + b"/new\xff"
    assert "11 rows in 8 parts" in call("convert", out, "--to", "parquet", "-o", new).out
    single = os.fsencode(tmp_path) + b"/one\xff\n.jsonl"
    assert call("run", BUNDLE, corpus, "-o", single, *settings).code == 3
    assert len(Path(os.fsdecode(single)).read_bytes().splitlines()) == 11


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("run", "mo\x1b[2J\ndel", "{in}", "-o", "{out}"), r"mo\x1b[2J\ndel"),
        (("run", BUNDLE, "no\n\u202esuch.jsonl", "-o", "{out}"), r"no\n\u202esuch.jsonl"),
        (("run", BUNDLE, "{in}", "-o", "{out}", "--text", "t\x1b[1m"), r"t\x1b[1m"),
        (("run", BUNDLE, "{in}", "-o", "{out}", "--keep", "k\ra"), r"k\ra"),
        (("run", BUNDLE, "{in}", "-o", "{out}", "--device", "cu\x1bda"), r"cu\x1bda"),
        (("run", "--\x1b[31mno", "x"), r"--\x1b[31mno"),
        (("in\x1b[31mspect",), r"in\x1b[31mspect"),
        (("--\x1b[31m",), r"--\x1b[31m"),
        (("verify", b"no\xff\n"), r"no\xff\n"),
        (("inspect", "no\u200bthing"), r"no\u200bthing"),
        (("head", "no\x9bthing"), r"no\x9bthing"),
        (("rejects", "no\x07thing"), r"no\x07thing"),
        (("export", "own\ner/na\x1b[me", "-o", "{out}"), r"own\ner/na\x1b[me"),
        (("bench", "no\x1bthing"), r"no\x1bthing"),
        (("run", BUNDLE, "{in}", "-o", "{out}", "--limit", "1\x1b"), r"--limit is '1\x1b'"),
        (("inspect", "x" * 200_000), "characters ..."),
    ],
    ids=range(16),
)
def test_an_error_shows_what_it_names_escaped(call, corpus, tmp_path, arguments, shown) -> None:  # type: ignore[no-untyped-def]
    places = {"{in}": corpus, "{out}": tmp_path / "out"}
    done = call(*(places.get(a, a) if isinstance(a, str) else a for a in arguments))
    assert done.code in (1, 2)
    assert shown in done.err
    assert len(done.err) < 10_000


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl.gz", "csv", "json"])
def test_a_broken_file_of_any_name_is_named_escaped(call, tmp_path: Path, ending: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "in").mkdir()
    name = os.fsencode(tmp_path) + b"/in/" + ODD + b"." + ending.encode()
    Path(os.fsdecode(name)).write_bytes(b'{"te\x1b[31mxt": \n,,\xff"')
    done = call("run", BUNDLE, tmp_path / "in", "-o", tmp_path / "out")
    assert done.code in (1, 2)
    assert r"c\xff\x1b[31m\n\u202e[red]." in done.err


def test_a_bundle_shows_what_it_holds_escaped(call, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bundle = tmp_path / "bun\x1b[1mdle"
    shutil.copytree(BUNDLE, bundle)
    description = json.loads((bundle / "bundle.json").read_text())
    description["notes"] = ["read\x1b]0;me\x07\nnote: this is fine"]
    (bundle / "bundle.json").write_text(json.dumps(description))
    assert r"notes: read\x1b]0;me\x07\nnote: this is fine" in call("inspect", bundle).out
    (tmp_path / "a.jsonl").write_text('{"text": "uno"}\n')
    done = call("run", bundle, tmp_path / "a.jsonl", "-o", tmp_path / "out")
    assert r"note: read\x1b]0;me\x07\nnote: this is fine" in done.out
    undecodable = tmp_path / os.fsdecode(b"b\xff")
    shutil.copytree(BUNDLE, undecodable)
    refused = call("run", undecodable, tmp_path / "a.jsonl", "-o", tmp_path / "out2")
    assert r"b\xff: its name is not valid UTF-8" in refused.err
    assert "hint: rename the folder" in refused.err


def test_a_bar_shows_markup_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    state = Progress(0.5, 1, 0, 1, 1, 0, 1, 1.0, stuck="[red]x[/red]\x1b[2J\n[bold]")
    with progress.shown(quiet=False) as update:
        update(state)
    err = capsys.readouterr().err
    assert r"[red]x[/red]\x1b[2J\n[bold]" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)


def test_a_stream_without_an_encoding_for_it_writes_an_escape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w", encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.accept_any_text()
        terminal.show("naïve 数")
    assert (tmp_path / "out").read_text("latin-1") == "naïve \\u6570\n"


def test_only_one_module_of_the_command_line_prints() -> None:
    for file in Path(terminal.__file__).parent.glob("*.py"):
        if file.name != "terminal.py":
            assert not re.search(r"typer\.echo|\bprint\(|sys\.std\w+\.write\(", file.read_text())
