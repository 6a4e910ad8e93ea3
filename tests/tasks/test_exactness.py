"""The promises about answers, held on the embedded model with the real onnxruntime."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine
from engine.bundle.tokenizer import Tokenizer
from engine.demo import BUNDLE, corpus
from engine.demo.demonstration import demonstrate
from engine.demo.numerals import LIMIT, held_out, portuguese, spanish


@pytest.fixture(scope="module")
def translate() -> engine.Bundle:
    return engine.Bundle.load(BUNDLE)


def table(out: Path, report: engine.Report) -> pa.Table:
    return pa.concat_tables([pa.ipc.open_file(out / f).read_all() for f in report.files])


def test_numerals_are_those_of_num2words() -> None:
    num2words = pytest.importorskip("num2words").num2words
    drawn = random.Random(0).sample(range(LIMIT), 2000)
    for n in [*range(1100), *range(0, LIMIT, 9973), LIMIT - 1, *drawn]:
        assert spanish(n) == num2words(n, lang="es")
        assert portuguese(n) == num2words(n, lang="pt")


def test_the_embedded_model_knows_numbers_that_it_never_saw(translate: engine.Bundle) -> None:
    unseen = [n for n in random.Random(1).sample(range(LIMIT), 20_000) if held_out(n)][:1500]
    answers = translate([spanish(n) for n in unseen])["translation_text"].to_pylist()
    right = sum(a == portuguese(n) for a, n in zip(answers, unseen, strict=True))
    assert right / len(unseen) >= 0.99


def test_batched_equals_one_by_one_equals_shuffled(translate: engine.Bundle) -> None:
    texts = [spanish(n) for n in random.Random(2).sample(range(LIMIT), 200)]
    batched = translate(texts).to_pylist()
    assert [translate([text]).to_pylist()[0] for text in texts[:60]] == batched[:60]
    order = random.Random(3).sample(range(len(texts)), len(texts))
    shuffled = translate([texts[i] for i in order]).to_pylist()
    assert shuffled == [batched[i] for i in order]


def test_a_limit_of_new_tokens_is_marked(translate: engine.Bundle) -> None:
    answers = translate(["uno", "novecientos noventa y nueve mil"], max_new_tokens=4).to_pylist()
    assert [a["finish_reason"] for a in answers] == ["stop", "length"]
    assert answers[1]["output_tokens"] == 4


def test_demo_answers_every_good_row_and_rejects_every_bad_one(tmp_path: Path) -> None:
    found = demonstrate(tmp_path, rows=2500)
    assert found.accuracy >= 0.99
    assert found.rejects_right
    assert found.in_order
    report = found.report
    assert report.rows_in == 2500 == report.rows_out + report.rows_rejected
    assert report.rows_rejected == sum(
        len(shard.faults) for shard in corpus.write(tmp_path / "again", 2500)
    )


def test_a_finished_demo_runs_anew_and_gives_the_same_bytes(tmp_path: Path) -> None:
    first = demonstrate(tmp_path, rows=60)
    before = [(tmp_path / "results" / f).read_bytes() for f in first.report.files]
    second = demonstrate(tmp_path, rows=60)
    assert second.report.splits_skipped == 0
    assert [(tmp_path / "results" / f).read_bytes() for f in second.report.files] == before


def test_workers_and_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    corpus.write(tmp_path / "in", 600)
    parts = []
    for workers, threads in ((1, 1), (2, 1), (3, 1), (1, 2)):
        out = tmp_path / f"{workers}-{threads}"
        report = engine.run(
            BUNDLE, tmp_path / "in", out, on_error="reject", keep="id", workers=workers,
            threads=threads, window=100, batch_tokens=512,
        )  # fmt: skip
        parts.append([(out / f).read_bytes() for f in report.files])
    assert parts[0] == parts[1] == parts[2] == parts[3]


def test_parquet_and_arrow_output_hold_the_same(tmp_path: Path) -> None:
    texts = [spanish(n) for n in range(50)]
    pq.write_table(pa.table({"id": range(50), "words": texts}), tmp_path / "n.parquet")
    tables = []
    for kind, codec in (("arrow", "zstd"), ("arrow", "none"), ("parquet", "lz4")):
        out = tmp_path / f"{kind}-{codec}"
        report = engine.run(
            BUNDLE, tmp_path / "n.parquet", out, text="words", keep="id", format=kind,
            compression=codec,
        )  # fmt: skip
        file = out / report.files[0]
        tables.append(pq.read_table(file) if kind == "parquet" else table(out, report))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[0]["translation_text"].to_pylist() == [portuguese(n) for n in range(50)]


def test_the_list_and_the_corpus_get_the_same_answers(
    tmp_path: Path, translate: engine.Bundle
) -> None:
    texts = [spanish(n) for n in random.Random(4).sample(range(LIMIT), 150)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "n.parquet")
    report = engine.run(translate, tmp_path / "n.parquet", tmp_path / "out")
    assert table(tmp_path / "out", report).equals(translate(texts))


def test_rows_over_the_length_are_cut_and_counted(tmp_path: Path) -> None:
    texts = ["uno", "uno " * 400]
    pq.write_table(pa.table({"text": texts}), tmp_path / "n.parquet")
    report = engine.run(BUNDLE, tmp_path / "n.parquet", tmp_path / "out", max_length=16)
    assert report.truncated == 1
    assert any("cut at 16 tokens" in note for note in report.notes)


@pytest.mark.parametrize("columns", [1, 2])
def test_rows_that_are_cut_are_found_where_the_library_does_not_tell(columns: int) -> None:
    """As of tokenizers 0.23.1 on."""
    texts = [("uno " * n).strip() for n in range(20)] + ["x" * n for n in range(20)]
    given = [pa.array(texts), pa.array(texts[::-1])][:columns]
    tokenizer = Tokenizer(Path(BUNDLE) / "tokenizer.json", 12)
    ids, _, wanted = tokenizer.encode(given, type_ids=False)
    rows = texts if columns == 1 else list(zip(texts, texts[::-1], strict=True))
    found = tokenizer._exceeding(rows, ids.lengths)
    assert 0 < wanted.sum() < len(texts)
    assert found.tolist() == wanted.tolist()


def test_strange_texts_are_answered(translate: engine.Bundle) -> None:
    texts = [
        "",
        " ",
        "\t\n",
        "🤖🤖",
        "é" * 300,
        "\u202eabc",
        "\u200b",
        "</s>",
        "\x00",
        "a" * 20_000,
    ]
    assert translate(texts, max_new_tokens=3).num_rows == len(texts)


def test_embeddings_do_not_depend_on_the_batch(tiny_bundles: Path) -> None:
    embed = engine.Bundle.load(tiny_bundles / "embedder")
    texts = ["one", "two words", "a rather longer text than the others " * 3] * 5
    batched = np.stack(embed(texts)["embedding"].to_numpy(zero_copy_only=False))
    single = np.stack([embed([t])["embedding"].to_pylist()[0] for t in texts])
    assert np.abs(batched - single).max() < 1e-5
