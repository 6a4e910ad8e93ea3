from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine
import engine.runner.results
from engine.core.config import FORMATS
from engine.data.kinds import ENDINGS
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import ColumnError, InputError, OtherRunError, OutputError


def write(folder: Path) -> list[Path]:
    folder.mkdir()
    lines = {
        "b": '{"id": 1, "text": "uno"}\n{"id": 2, "text": null}\n',
        "a": '{"id": 3, "text": "dos"}\n',
    }
    for name, content in lines.items():
        (folder / f"{name}.jsonl").write_text(content)
    return [folder / "b.jsonl", folder / "a.jsonl"]


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_run_opens_as_its_answers_in_the_order_of_its_parts(tmp_path: Path, kind: str) -> None:
    inputs, out = write(tmp_path / "corpus"), tmp_path / "out"
    report = engine.run(BUNDLE, inputs, out, text="text", keep="id", on_error="reject", format=kind)
    assert report.table().equals(engine.open(out).to_table())
    assert sorted(report.table()["id"].to_pylist()) == [1, 3]
    assert report.table().num_rows == report.rows_out


def test_read_gives_all_answers_or_some_columns_of_them(tmp_path: Path) -> None:
    inputs, out = write(tmp_path / "corpus"), tmp_path / "out"
    engine.run(BUNDLE, inputs, out, text="text", keep="id", on_error="reject")
    answers = engine.read(out)
    assert isinstance(answers, pa.Table)
    assert answers.equals(engine.open(out).to_table())
    # In input order, as the parts are; the bad row has no answer.
    assert answers["id"].to_pylist() == engine.open(out).to_table()["id"].to_pylist()
    some = engine.read(out, columns=["translation_text", "id"])
    assert some.equals(answers.select(["translation_text", "id"]))
    with pytest.raises(ColumnError, match="no column 'translation'") as caught:
        engine.read(out, columns=["translation"])
    assert "did you mean 'translation_text'?" in caught.value.hint
    with pytest.raises(OutputError, match="not the output of a run"):
        engine.read(tmp_path)


def test_read_takes_one_file_too(tmp_path: Path) -> None:
    inputs, out = write(tmp_path / "corpus"), tmp_path / "answers.parquet"
    engine.run(BUNDLE, inputs, out, text="text", keep="id", on_error="reject")
    assert sorted(engine.read(out)["id"].to_pylist()) == [1, 3]


def test_an_output_is_an_input_without_its_rejects(tmp_path: Path) -> None:
    inputs, out = write(tmp_path / "corpus"), tmp_path / "out"
    first = engine.run(BUNDLE, inputs, out, text="text", keep="text", on_error="reject")
    again = engine.run(BUNDLE, out, tmp_path / "again", text="text")
    assert again.rows_in == first.rows_out == 2


def test_a_folder_that_holds_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not the output of a run"):
        engine.open(tmp_path)
    out = tmp_path / "out"
    engine.run(BUNDLE, write(tmp_path / "corpus"), out, text="text", on_error="reject")
    (out / "_SUCCESS").unlink()
    with pytest.raises(OutputError, match="has not finished") as caught:
        engine.open(out)
    assert "run the same command again" in caught.value.hint


def test_bad_rows_of_an_earlier_version_are_computed_again(tmp_path: Path) -> None:
    inputs, out = write(tmp_path / "corpus"), tmp_path / "out"
    engine.run(BUNDLE, inputs, out, text="text", on_error="reject")
    (file,) = (out / "_manifest/rejects").iterdir()
    earlier = out / "rejects" / f"{file.stem}.parquet"
    earlier.parent.mkdir()
    file.rename(earlier)
    record = out / "_manifest" / f"{file.stem}.json"
    name = earlier.relative_to(out).as_posix()
    record.write_text(record.read_text().replace(f"_manifest/rejects/{file.name}", name))
    report = engine.run(BUNDLE, inputs, out, text="text", on_error="reject")
    assert report.splits_skipped == 1
    assert not earlier.parent.exists()
    assert file.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_goes_over_what_another_has_written(tmp_path: Path, kind: str) -> None:
    """Its result column is the next one's text; rows come in input order, and nothing else does."""
    if f".{kind}" not in ENDINGS:
        pytest.skip(f"{kind} is not read")
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for name, first in {"b": 0, "a": 300}.items():  # each of several parts
        rows = [{"id": first + i, "text": spanish((first + i) % 50)} for i in range(300)]
        lines = [*map(json.dumps, rows), "{broken"]
        (corpus / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    first_run = engine.run(
        BUNDLE, corpus, out, keep="id", on_error="reject", format=kind, split_size=4000
    )
    assert first_run.splits > 3
    assert first_run.table()["id"].to_pylist() == [*range(300, 600), *range(300)]
    again = engine.run(BUNDLE, out, tmp_path / "again", text="translation_text", keep="id")
    assert again.rows_in == first_run.rows_out == 600
    assert again.table()["id"].to_pylist() == [*range(300, 600), *range(300)]
    (out / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="has not finished") as caught:
        engine.run(BUNDLE, out, tmp_path / "third", text="translation_text")
    assert "name its parts" in caught.value.hint
    parts = sorted(out.glob("part-*"))
    report = engine.run(BUNDLE, parts, tmp_path / "third", text="translation_text", keep="id")
    assert report.rows_in == 600


def test_an_output_without_rows_opens(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    for kind in FORMATS:
        file.write_text("{broken\n")
        out = tmp_path / kind
        engine.run(BUNDLE, file, out, keep="text", format=kind, on_error="reject", text="text")
        assert engine.open(out).to_table().num_rows == 0
        assert "translation_text" in engine.open(out).schema.names


LINES = [
    b'{"text": "uno"}',
    b'{"text": null, "id": 1}',
    b"{broken secret \xff",
    b'["secret"]',
    b'{"text": 5}',
    b'{"text": "\\ud800 secret"}',
    b"{" + b"x" * 20_000,
]


@pytest.mark.parametrize("wanted", [False, True])
def test_bad_rows_have_their_text_only_where_it_is_wanted(
    tmp_path: Path, wanted: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    table = pa.table({"text": pa.array([b"dos", b"secret \xff", None]).cast(pa.binary())})
    invalid = pa.Array.from_buffers(pa.string(), 3, table["text"].chunk(0).buffers())
    pq.write_table(pa.table({"text": invalid}), tmp_path / "b.parquet")
    inputs, out = [tmp_path / "a.jsonl", tmp_path / "b.parquet"], tmp_path / "out"
    settings = {"text": "text", "on_error": "reject"}
    if wanted:
        settings |= {"reject_text": True}
    report = engine.run(BUNDLE, inputs, out, **settings)
    rows = list(engine.runner.results.rejects(out))
    assert report.rows_rejected == len(rows) == 8
    texts = {(Path(row["file"]).name, row["row"]): row.get("text") for row in rows}
    if wanted:
        assert texts == {
            ("a.jsonl", 1): None,
            ("a.jsonl", 2): "{broken secret \ufffd",
            ("a.jsonl", 3): '["secret"]',
            ("a.jsonl", 4): '{"text": 5}',
            ("a.jsonl", 5): '{"text": "\\ud800 secret"}',
            ("a.jsonl", 6): LINES[6].decode()[:10_000],
            ("b.parquet", 1): "secret \ufffd",
            ("b.parquet", 2): None,
        }
        with pytest.raises(OtherRunError, match="reject_text true"):
            engine.run(BUNDLE, inputs, out, text="text", on_error="reject")
        with pytest.raises(InputError) as caught:
            engine.run(BUNDLE, inputs, tmp_path / "fail", text="text", reject_text=True)
        assert "secret" not in str(caught.value)
    else:
        assert set(texts.values()) == {None}
        assert all("secret" not in path.read_text() for path in out.rglob("*.json*"))
    assert "secret" not in json.dumps(report.to_dict()) + "".join(capfd.readouterr())
