"""A converted output is the output of a run with that format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine
from engine.core.config import FORMATS
from engine.demo import BUNDLE
from engine.errors import InputError, OtherRunError, OutputError, SettingsError
from engine.runner import conversion, results
from engine.runner.conversion import convert
from engine.runner.verify import verify

TEXTS = ["uno", 'd"o,\ns', "tres", "cuatro", ""]
SETTINGS: dict[str, Any] = {"keep": "all", "on_error": "reject", "window": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with nested columns, a bad row, no rows at all, and rows of a later file."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        {"id": i, "text": text, "tags": [{"w": text, "n": i}] if i else None, "f": i / 3}
        for i, text in enumerate(TEXTS)
    ]
    lines = [*map(json.dumps, rows), "{broken"]
    (folder / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "empty.jsonl").write_text("")
    pq.write_table(pa.table({"id": [7], "text": ["seis"], "f": [2.0]}), folder / "z.parquet")
    return folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Path]:
    """A run with each format."""
    folder = tmp_path_factory.mktemp("outputs")
    for kind in FORMATS:
        engine.run(BUNDLE, corpus, folder / kind, format=kind, **SETTINGS)
    return {kind: folder / kind for kind in FORMATS}


def rows(out: Path) -> list[dict[str, Any]]:
    manifest = results.manifest_of(out)
    parts = [results.batches(manifest, entry) for entry in results.answered(manifest)]
    return [row for part in parts for batch in part for row in batch.to_pylist()]


def files(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.parent.name != "starts"
    }


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("of", FORMATS)
def test_every_format_becomes_every_other(
    tmp_path: Path, outputs: dict[str, Path], of: str, to: str
) -> None:
    new = tmp_path / "new"
    done = convert(outputs[of], new, to=to)
    assert (done.parts, done.parts_skipped, done.rows) == (3, 0, 6)
    assert rows(new) == rows(outputs[to])
    assert verify(new).problems == ()
    ids = [engine.open(out).to_table()["id"].to_pylist() for out in (new, outputs[to])]
    assert ids[0] == ids[1] == [0, 1, 2, 3, 4, 7]
    assert list(results.rejects(new)) == list(results.rejects(outputs[of])) != []
    wanted, left = files(outputs[to]), files(new)
    assert wanted.keys() == left.keys()
    for name in ("_SUCCESS", "_manifest/run.json", ".huggingface.yaml"):
        assert left[name] == wanted[name]


@pytest.mark.parametrize(
    ("of", "to"), [("arrow", "parquet"), ("arrow", "csv"), ("parquet", "jsonl")]
)
def test_the_bytes_are_those_of_a_run(
    tmp_path: Path, outputs: dict[str, Path], of: str, to: str
) -> None:
    convert(outputs[of], tmp_path / "new", to=to)
    parts = {name: content for name, content in files(tmp_path / "new").items() if "part-" in name}
    assert {n: c for n, c in parts.items() if not n.startswith("_manifest/part")} == {
        name: content
        for name, content in files(outputs[to]).items()
        if name.startswith(("part-", "_manifest/rejects"))
    }


@pytest.mark.parametrize("to", FORMATS)
def test_a_run_goes_on_with_a_conversion(
    tmp_path: Path, corpus: Path, outputs: dict[str, Path], to: str
) -> None:
    convert(outputs["arrow"], tmp_path / "new", to=to)
    report = engine.run(BUNDLE, corpus, tmp_path / "new", format=to, **SETTINGS)
    assert (report.splits_skipped, report.rows_computed) == (3, 0)
    other = "csv" if to != "csv" else "jsonl"
    with pytest.raises(OtherRunError, match="format"):
        engine.run(BUNDLE, corpus, tmp_path / "new", format=other, **SETTINGS)


def test_a_stopped_conversion_goes_on(
    tmp_path: Path, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, count = tmp_path / "new", 0
    whole = results.batches

    def breaking(*arguments: Any) -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in whole(*arguments):
            count += 1
            if count == 4:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(conversion.results, "batches", breaking)
    with pytest.raises(KeyboardInterrupt):
        convert(outputs["arrow"], new, to="parquet")
    with pytest.raises(OutputError, match="has not finished"):
        engine.open(new)
    monkeypatch.undo()
    assert convert(outputs["arrow"], new, to="parquet").parts_skipped == 2
    assert rows(new) == rows(outputs["parquet"])
    assert verify(new).problems == ()
    before = files(new)
    assert convert(outputs["arrow"], new, to="parquet").parts_skipped == 3
    assert files(new) == before


def test_a_conversion_follows_its_run(tmp_path: Path) -> None:
    """Files that are added, changed, renamed and removed reach a folder that is converted again."""
    corpus, out, new = (tmp_path / name for name in ("corpus", "out", "new"))
    corpus.mkdir()
    for name, text in {"a": "uno", "b": "dos", "c": "tres"}.items():
        (corpus / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    engine.run(BUNDLE, corpus, out, keep="text")
    convert(out, new, to="jsonl")
    (corpus / "a.jsonl").unlink()
    (corpus / "b.jsonl").rename(corpus / "d.jsonl")
    (corpus / "c.jsonl").write_text('{"text": "seis"}\n')
    engine.run(BUNDLE, corpus, out, keep="text")
    assert convert(out, new, to="jsonl").parts_skipped == 1
    assert [row["text"] for row in rows(new)] == ["seis", "dos"]
    assert rows(new) == rows(out)
    assert verify(new).problems == ()


@pytest.mark.parametrize("new", ["-", "o.csv", "o.PARQUET", "o.json"])
def test_a_conversion_makes_no_folder_with_the_name_of_a_file(
    tmp_path: Path, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"a conversion writes a folder|no file with the"):
        convert(outputs["arrow"], new, to="csv")
    with pytest.raises(SettingsError, match="a conversion writes only local folders"):
        convert(outputs["arrow"], f"s3://bucket/{new}", to="csv")
    assert list(tmp_path.iterdir()) == []


def test_what_a_conversion_refuses(tmp_path: Path, outputs: dict[str, Path]) -> None:
    out = outputs["arrow"]
    for new in (out, out / "new", out.parent, out / ".." / out.name):
        with pytest.raises(SettingsError, match=r"one folder|lie in each other"):
            convert(out, new, to="csv")
    with pytest.raises(SettingsError, match="'orc'") as caught:
        convert(out, tmp_path / "new", to="orc")
    assert "arrow, parquet, jsonl, csv" in caught.value.hint
    with pytest.raises(SettingsError, match="compression is zstd, and csv"):
        convert(out, tmp_path / "new", to="csv", compression="zstd")
    with pytest.raises(OutputError, match="not the output of a run"):
        convert(tmp_path, tmp_path / "new", to="csv")
    assert not (tmp_path / "new").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(OtherRunError, match=r"notes\.txt"):
        convert(out, foreign, to="csv", overwrite=True)
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]
    convert(out, tmp_path / "new", to="csv")
    with pytest.raises(OtherRunError, match="format") as other:
        convert(out, tmp_path / "new", to="jsonl")
    assert "--overwrite" in other.value.hint
    convert(out, tmp_path / "new", to="jsonl", overwrite=True)
    assert rows(tmp_path / "new") == rows(outputs["jsonl"])


def test_an_unfinished_or_damaged_run_is_refused(tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    engine.run(BUNDLE, corpus, out, **SETTINGS)
    success = (out / "_SUCCESS").read_bytes()
    (out / "_SUCCESS").unlink()
    with pytest.raises(OutputError, match="has not finished") as caught:
        convert(out, tmp_path / "new", to="csv")
    assert "run the same command again" in caught.value.hint
    (out / "_SUCCESS").write_bytes(success)
    part = next(out.glob("part-00000-a*"))
    content = part.read_bytes()
    part.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    with pytest.raises(OutputError, match="bytes have changed"):
        convert(out, tmp_path / "new", to="csv")
    assert not (tmp_path / "new" / "_SUCCESS").exists()
    part.unlink()
    with pytest.raises(OutputError, match="is missing"):
        convert(out, tmp_path / "new", to="csv")
    engine.run(BUNDLE, corpus, out, **SETTINGS)  # as the hint says
    convert(out, tmp_path / "new", to="csv")
    assert verify(tmp_path / "new").problems == ()


def test_a_type_that_a_format_lacks_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.arrow"
    table = pa.table({"text": ["uno"], "m": pa.array([{}], pa.struct([]))})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    engine.run(BUNDLE, file, tmp_path / "out", keep="m")
    with pytest.raises((OutputError, InputError), match="cannot be written"):
        convert(tmp_path / "out", tmp_path / "new", to="parquet")
    convert(tmp_path / "out", tmp_path / "lines", to="jsonl")
    assert rows(tmp_path / "lines")[0]["m"] == {}
