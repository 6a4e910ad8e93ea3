"""What is settled before a run: its refusals leave nothing behind, and a machine's tuning is no
part of the answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.bundle import tuned
from engine.core import hardware
from engine.core.config import RunSettings
from engine.data import json_types, schema_cache
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import ColumnError, EngineError, InputError, OtherRunError, SettingsError
from engine.runner.coordinator import run
from engine.runner.verify import verify


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, first in (("a", 1), ("b", 40), ("c", 80)):
        table = pa.table(
            {"text": [spanish(n) for n in range(first, first + 20)], "label": [name] * 20}
        )
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def _tune(bundle: Path, batch_tokens: int) -> None:
    settings = tuned.Tuned(batch_tokens, 1, 1, hardware.cpu()[0], hardware.cores(), "corpus", 1.5)
    tuned.save(bundle, settings)


def _parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("part-*")}


def _cut_footer(corpus: Path) -> None:
    last = corpus / "c.parquet"
    last.write_bytes(last.read_bytes()[:-20])


def _drop_column(corpus: Path) -> None:
    pq.write_table(pa.table({"other": ["x"]}), corpus / "c.parquet")


def _change_type(corpus: Path) -> None:
    table = pa.table({"text": ["uno"], "label": [[1]]})
    pq.write_table(table, corpus / "c.parquet")


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize(
    ("spoil", "settings", "error"),
    [
        (_cut_footer, {}, InputError),
        (_drop_column, {}, ColumnError),
        (_change_type, {"keep": "label"}, ColumnError),
        (None, {"keep": "absent"}, ColumnError),
        (None, {"num_beams": 0}, SettingsError),
        (None, {"batch_tokens": -1}, SettingsError),
        (None, {"nothing": 1}, SettingsError),
        (None, {"device": "cuda:9"}, EngineError),
    ],
)
def test_a_refused_run_leaves_nothing_behind(
    corpus: Path, tmp_path: Path, made: bool, spoil: Any, settings: RunSettings, error: type
) -> None:
    out = tmp_path / "out"
    if made:
        out.mkdir()
    if spoil:
        spoil(corpus)
    with pytest.raises(error):
        run(BUNDLE, corpus, out, **settings)
    assert out.exists() == made
    assert not made or not list(out.iterdir())


def test_a_damaged_bundle_leaves_nothing_behind(corpus: Path, bundle: Path, tmp_path: Path) -> None:
    (bundle / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError):
        run(bundle, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_kept_column_named_as_a_result_is_refused_before_anything(
    corpus: Path, tmp_path: Path
) -> None:
    for file in corpus.iterdir():
        table = pq.read_table(file).rename_columns(["text", "translation_text"])
        pq.write_table(table, file)
    with pytest.raises(ColumnError, match="'translation_text' is also the name of a result"):
        run(BUNDLE, corpus, tmp_path / "out", keep="all")
    assert not (tmp_path / "out").exists()


def test_tuning_between_two_starts_changes_nothing(
    corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(bundle, corpus, out)
    before = _parts(out)
    _tune(bundle, 64)
    again = run(bundle, corpus, out)
    assert (again.splits_skipped, again.rows_computed) == (3, 0)
    assert any("batches have the default number of tokens" in note for note in again.notes)
    victim = next(out.glob("part-*"))
    victim.unlink()
    again = run(bundle, corpus, out)
    assert (again.splits_skipped, again.rows_computed) == (2, 20)
    assert _parts(out) == before
    assert verify(out).problems == ()


def test_a_folder_keeps_its_tuned_size_where_the_tuning_is_gone(
    corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    _tune(bundle, 64)
    out = tmp_path / "out"
    run(bundle, corpus, out)
    (bundle / "tuned.json").unlink()
    assert run(bundle, corpus, out).splits_skipped == 3
    record = json.loads((out / "_manifest/run.json").read_text())
    assert record["settings"]["batch_tokens"] == 64
    assert run(bundle, corpus, out, batch_tokens=64).splits_skipped == 3


def test_a_size_that_a_person_names_is_not_overruled(
    corpus: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(bundle, corpus, out)
    with pytest.raises(OtherRunError, match="batch_tokens 0 \\(now 64\\)"):
        run(bundle, corpus, out, batch_tokens=64)
    assert run(bundle, corpus, out, batch_tokens=64, overwrite=True).splits_skipped == 0


def test_another_runs_size_is_not_taken_over(corpus: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(bundle, corpus, out, batch_tokens=64)
    report = run(bundle, corpus, out, keep="label", overwrite=True)
    assert report.rows_computed == 60
    record = json.loads((out / "_manifest/run.json").read_text())
    assert record["settings"]["batch_tokens"] == 0


def test_a_resumed_run_passes_over_no_lines_again_and_takes_its_record_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_cache, "LEAST", 1)
    monkeypatch.setattr(schema_cache, "_SETTLED_NS", 0)
    corpus, out = tmp_path / "x.jsonl", tmp_path / "out"
    corpus.write_text(f'{{"text": "7", "id": 1}}\n{{"text": "8", "id": {2**64}}}')
    report = run(BUNDLE, corpus, out, keep="id")
    note = "whole numbers beyond 64 bits are kept as decimals: id (decimal128(38, 0))"
    assert note in report.notes
    record = out / "_manifest" / "schema.json"
    assert record.is_file()
    assert verify(out).problems == ()
    before = _parts(out)

    def fail(*args: object) -> None:
        raise AssertionError("passed over again")

    with monkeypatch.context() as patch:
        patch.setattr(json_types, "_widen", fail)
        assert run(BUNDLE, corpus, out, keep="id").splits_skipped == 1
    record.write_text("damaged")
    assert run(BUNDLE, corpus, out, keep="id").splits_skipped == 1
    assert run(BUNDLE, corpus, out, keep="id", overwrite=True, limit=1).rows_out == 1
    assert record.is_file()
    assert run(BUNDLE, corpus, out, keep="id", overwrite=True).rows_out == 2
    assert _parts(out) == before


def test_a_first_start_that_fails_leaves_no_record_of_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_cache, "LEAST", 1)
    monkeypatch.setattr(schema_cache, "_SETTLED_NS", 0)
    corpus, out = tmp_path / "x.jsonl", tmp_path / "out"
    corpus.write_text('{"text": 5, "id": 1}')
    with pytest.raises(InputError, match="column 'text', expected text, found whole number"):
        run(BUNDLE, corpus, out, keep="id")
    assert not out.exists()
