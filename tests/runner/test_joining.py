"""One file as an output: whole or not there, continued, and never over somebody's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import data
from engine.demo import BUNDLE
from engine.errors import InputError, OtherRunError, OutputError, SettingsError
from engine.runner import joining, results
from engine.runner.verify import verify

SETTINGS: dict[str, Any] = {"keep": "id", "on_error": "reject"}
NAMES = ["o.arrow", "o.feather", "o.parquet", "o.PQ", "o.jsonl", "o.ndjson", "o.csv"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "b.jsonl").write_text('{"id": 1, "text": "uno"}\n{broken\n{"id": 2, "text": "dos"}\n')
    (folder / "a.jsonl").write_text('{"id": 3, "text": "tres"}\n')
    (folder / "c.jsonl").write_text("")
    return folder


def read(file: Path) -> list[dict[str, Any]]:
    kind = {".feather": "arrow", ".PQ": "parquet", ".ndjson": "jsonl"}.get(file.suffix, file.suffix)
    return data.dataset([file], kind.strip("."), None).to_table().to_pylist()


@pytest.mark.parametrize("name", NAMES)
def test_the_format_follows_from_the_ending(tmp_path: Path, corpus: Path, name: str) -> None:
    file = tmp_path / name
    report = engine.run(BUNDLE, corpus, file, **SETTINGS)
    assert read(file) == engine.open(file).to_table().to_pylist() == report.table().to_pylist()
    assert [row["id"] for row in read(file)] == [3, 1, 2]
    assert (report.out, report.files) == (str(file), (name,))
    assert any(f".{name}.run" in note for note in report.notes)
    assert [row["row"] for row in results.rejects(file)] == [1]
    assert verify(file).problems == ()
    before = file.stat()
    again = engine.run(BUNDLE, corpus, file, **SETTINGS)
    assert again.rows_computed == 0
    assert file.stat() == before, "nothing has changed, so nothing is written"


def test_a_changed_input_and_a_lost_file_are_written_again(tmp_path: Path, corpus: Path) -> None:
    file = tmp_path / "out.parquet"
    engine.run(BUNDLE, corpus, file, **SETTINGS)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify(file).problems == ("out.parquet: its bytes have changed since it was written",)
    for damage in (file.unlink, lambda: file.write_bytes(whole[:-1])):
        damage()
        assert engine.run(BUNDLE, corpus, file, **SETTINGS).rows_computed == 0
        assert file.read_bytes() == whole
    (corpus / "a.jsonl").write_text('{"id": 9, "text": "tres"}\n')
    assert engine.run(BUNDLE, corpus, file, **SETTINGS).rows_computed == 1
    assert [row["id"] for row in read(file)] == [9, 1, 2]


def test_a_stop_leaves_no_file_and_the_next_start_goes_on(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.csv"
    whole = results.batches

    def breaking(*arguments: Any) -> Any:
        yield from whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(joining.results, "batches", breaking)
    with pytest.raises(KeyboardInterrupt):
        engine.run(BUNDLE, corpus, file, **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.csv.run", "corpus"]
    monkeypatch.undo()
    assert engine.run(BUNDLE, corpus, file, **SETTINGS).rows_computed == 0
    assert [row["id"] for row in read(file)] == [3, 1, 2]


def test_somebodys_file_and_an_input_are_not_written_over(tmp_path: Path, corpus: Path) -> None:
    file = tmp_path / "out.csv"
    file.write_text("mine")
    with pytest.raises(OtherRunError, match="is there already") as caught:
        engine.run(BUNDLE, corpus, file, **SETTINGS)
    assert "--overwrite" in caught.value.hint
    assert file.read_text() == "mine"
    engine.run(BUNDLE, corpus, file, overwrite=True, **SETTINGS)
    assert len(read(file)) == 3
    source = corpus / "a.jsonl"
    for inputs in (corpus, source):
        with pytest.raises(InputError, match="is an input and the output"):
            engine.run(BUNDLE, inputs, source, overwrite=True, **SETTINGS)
    assert json.loads(source.read_text())["id"] == 3


def test_a_file_in_the_folder_of_its_corpus_is_no_input_of_the_next_start(corpus: Path) -> None:
    file = corpus / "z.jsonl"
    for _ in range(2):
        assert engine.run(BUNDLE, corpus, file, **SETTINGS).rows_out == 3


def test_a_file_of_answers_is_the_corpus_of_another_run_where_it_is_named(
    tmp_path: Path, corpus: Path
) -> None:
    file = corpus / "z.jsonl"
    engine.run(BUNDLE, corpus, file, **SETTINGS)
    for number, inputs in enumerate((corpus, f"{corpus}/*")):
        report = engine.run(BUNDLE, inputs, tmp_path / str(number), **SETTINGS)
        assert report.rows_out == 3
        assert "not read in the inputs: 1 outputs of other runs" in report.notes
    again = engine.run(BUNDLE, corpus, file, **SETTINGS)
    assert not any("outputs of other runs" in note for note in again.notes)
    for name in "abc":
        (corpus / f"{name}.jsonl").unlink()
    with pytest.raises(InputError) as caught:
        engine.run(BUNDLE, corpus, tmp_path / "chain", **SETTINGS)
    assert caught.value.hint == f"name the output of a run itself to read it: {file}"
    chain = engine.run(
        BUNDLE, file, tmp_path / "chain", text="translation_text", keep="id", result_prefix="next_"
    )
    assert chain.rows_out == 3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("o.csv", {"format": "parquet"}, r"out is o\.csv, and format is parquet"),
        ("o.csv", {"compression": "lz4"}, "compression is lz4, and csv"),
        ("o.json", {}, r"no file with the ending \.json"),
        ("o.jsonl.gz", {}, r"no file with the ending \.gz"),
        ("-", {}, "only the command line"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, corpus: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        engine.run(BUNDLE, corpus, name if name == "-" else tmp_path / name, **SETTINGS, **settings)
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_the_same_format_may_be_named_and_a_folder_is_a_folder(
    tmp_path: Path, corpus: Path
) -> None:
    engine.run(BUNDLE, corpus, tmp_path / "o.parquet", format="parquet", **SETTINGS)
    assert (tmp_path / "o.parquet").is_file()
    (tmp_path / "run.csv").mkdir()
    engine.run(BUNDLE, corpus, tmp_path / "run.csv", **SETTINGS)
    assert (tmp_path / "run.csv" / "_SUCCESS").is_file()
    engine.run(BUNDLE, corpus, tmp_path / "v1.5", **SETTINGS)
    assert (tmp_path / "v1.5" / "_SUCCESS").is_file()


def test_other_settings_are_refused_as_in_a_folder(tmp_path: Path, corpus: Path) -> None:
    file = tmp_path / "o.parquet"
    engine.run(BUNDLE, corpus, file, **SETTINGS)
    before = file.read_bytes()
    with pytest.raises(OtherRunError, match="window"):
        engine.run(BUNDLE, corpus, file, window=7, **SETTINGS)
    assert file.read_bytes() == before
    engine.run(BUNDLE, corpus, file, window=7, overwrite=True, **SETTINGS)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        engine.run(BUNDLE, corpus, tmp_path / "plain" / "o.csv", **SETTINGS)
