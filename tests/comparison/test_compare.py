"""Two outputs compared: how rows are paired, what is counted, and what a message says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import engine
from engine.cli import app
from engine.comparison import pairing
from engine.demo import BUNDLE
from engine.errors import ColumnError, InputError, SettingsError

random = np.random.default_rng(3)


def write(path: Path, columns: dict[str, Any]) -> Path:
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    elif path.suffix == ".csv":
        pcsv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def labels(rows: int) -> dict[str, Any]:
    return {
        "id": list(range(rows)),
        "label": [f"l{i % 5}" for i in range(rows)],
        "score": [0.5 + i % 7 / 20 for i in range(rows)],
    }


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "csv"])
def test_rows_are_found_by_key_in_any_format_and_order(tmp_path: Path, ending: str) -> None:
    ours = labels(1000)
    order = random.permutation(1000)
    theirs = {name: [values[i] for i in order] for name, values in ours.items()}
    theirs["label"] = ["other" if i % 100 == 7 else f"l{i % 5}" for i in order]
    theirs["prediction"] = theirs.pop("label")
    a = write(tmp_path / "a.parquet", ours)
    b = write(tmp_path / f"b.{ending}", theirs)
    found = engine.compare(a, b, key="id", mapping={"label": "prediction"})
    assert (found.kind, found.rows, found.agreement) == ("labels", 1000, 0.99)
    assert found.agreement_of_all == 0.99
    assert sorted(int(row["row"]) for row in found.differ_most) == list(range(7, 1000, 100))
    assert found.interval[0] < 0.99 < found.interval[1]


def test_partitions_on_disk_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = labels(3000) | {"part": [f"p{i % 3}" for i in range(3000)]}
    theirs = {name: values[::-1] for name, values in ours.items()}
    theirs["label"] = ["x" if i < 30 else one for i, one in enumerate(theirs["label"])]
    a, b = (write(tmp_path / f"{n}.parquet", c) for n, c in (("a", ours), ("b", theirs)))
    whole = engine.compare(a, b, key=["part", "id"])
    monkeypatch.setattr(pairing, "_PARTITION", 500)
    split = engine.compare(a, b, key=["part", "id"])
    for name in ("rows", "agreement", "interval", "unpaired"):
        assert getattr(whole, name) == getattr(split, name)
    assert split.figures["kappa"] == whole.figures["kappa"]
    assert split.agreement == 0.99


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    answers = ["a", "b", "c", "d", "d", "x", None]
    a = write(tmp_path / "a.parquet", {"id": [1, 2, 3, 4, 4, None, 6], "label": answers})
    b = write(tmp_path / "b.jsonl", {"id": [1, 3, 4, 5, 6, 7, 7], "label": list("acdefgg")})
    found = engine.compare(a, b, key="id")
    assert found.rows == 2  # 1 and 3
    unpaired = found.unpaired
    assert (unpaired.only_a, unpaired.only_b, unpaired.without_key) == (1, 1, 1)
    assert (unpaired.duplicates_a, unpaired.duplicates_b) == (2, 2 + 1)
    assert unpaired.duplicate_keys == 2
    assert (found.null_a, found.null_b) == (1, 0)
    assert found.agreement == 1
    # 1 and 3 of 1, 2, 3, 4, 5, 6 and 7.
    assert found.agreement_of_all == 2 / 7


def test_order_is_only_trusted_where_it_is_known(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", labels(10))
    b = write(tmp_path / "b.parquet", labels(10))
    with pytest.raises(SettingsError, match="not two runs of one corpus") as error:
        engine.compare(a, b)
    assert "--key" in error.value.hint
    assert engine.compare(a, b, by_order=True).agreement == 1
    with pytest.raises(SettingsError, match="different numbers of rows"):
        engine.compare(a, write(tmp_path / "c.parquet", labels(9)), by_order=True)


def test_rows_that_say_where_they_came_from_need_no_key(tmp_path: Path) -> None:
    ours = labels(20) | {"_file": ["f"] * 20, "_row": list(range(20))}
    theirs = {name: values[::-1] for name, values in ours.items()}
    a, b = (write(tmp_path / f"{n}.parquet", c) for n, c in (("a", ours), ("b", theirs)))
    found = engine.compare(a, b)
    assert (found.paired_by, found.agreement) == ("_file, _row", 1)


def test_texts(tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    ours, theirs = ["the cat sat", "a dog", "x"], ["the cat sits", "a dog", "yes"]
    a = write(tmp_path / "a.parquet", {"id": [1, 2, 3], "generated_text": ours, "gold": theirs})
    b = write(tmp_path / "b.csv", {"id": [1, 2, 3], "output": theirs})
    found = engine.compare(a, b, key="id", mapping={"generated_text": "output"}, truth="gold")
    assert (found.kind, found.agreement) == ("texts", pytest.approx(1 / 3))
    expected = sacrebleu.corpus_chrf(theirs, [ours]).score
    assert found.figures["chrf"] == pytest.approx(expected, rel=1e-12)
    assert (found.truth["accuracy_b"], found.truth["chrf_b"]) == (1, 100)
    assert "the cat" not in json.dumps(found.to_dict())
    shown = engine.compare(a, b, key="id", mapping={"generated_text": "output"}, examples=1)
    assert [("a" in row) for row in shown.differ_most] == [True, False]
    assert shown.differ_most[0]["b"]["generated_text"] == "yes"


def test_embeddings(tmp_path: Path) -> None:
    first = random.normal(size=(500, 16)).astype(np.float32)
    second = first + random.normal(size=(500, 16)).astype(np.float32) / 10
    kinds = pa.list_(pa.float32(), 16), pa.list_(pa.float64())
    a, b = (
        write(tmp_path / f"{n}.parquet", {"id": range(500), "embedding": pa.array(list(v), k)})
        for n, v, k in (("a", first, kinds[0]), ("b", second, kinds[1]))
    )
    found = engine.compare(a, b, key="id")
    one, other = first.astype(float), second.astype(float)
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / size
    assert found.agreement == pytest.approx(cosines.mean(), rel=1e-12)
    assert found.figures["worst_cosine"] == pytest.approx(cosines.min(), rel=1e-12)
    assert found.differ_most[0]["row"] == str(cosines.argmin())
    c = write(tmp_path / "c.parquet", {"id": range(500), "embedding": list(first[:, :8])})
    with pytest.raises(InputError, match="of 16 and of 8 numbers"):
        engine.compare(a, c, key="id")


def test_spans_scores_and_candidates(tmp_path: Path) -> None:
    columns = {"id": [1, 2], "answer": ["Rome", "x"], "score": [0.5, 0.5], "start": [0, 3],
               "end": [4, 4]}  # fmt: skip
    a = write(tmp_path / "a.parquet", columns)
    b = write(tmp_path / "b.parquet", columns | {"answer": ["Rome", "xy"], "end": [4, 6]})
    found = engine.compare(a, b, key="id")
    assert (found.kind, found.agreement) == ("spans", 0.5)
    assert found.figures["overlap_f1"] == pytest.approx((1 + 2 / 4) / 2)
    a = write(tmp_path / "s.parquet", {"id": [1, 2], "score": [0.5, 0.25]})
    b = write(tmp_path / "t.parquet", {"id": [1, 2], "score": [0.5, 0.5]})
    found = engine.compare(a, b, key="id")
    assert (found.kind, found.agreement) == ("scores", 0.5)
    assert found.figures["largest_score_shift"] == 0.25
    cells = [[{"token": 5, "score": 0.9}, {"token": 6, "score": 0.1}], []]
    c = write(tmp_path / "c.parquet", {"id": [1, 2], "candidates": cells})
    assert engine.compare(c, c, key="id").agreement == 1


def test_truths(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    gold = [f"l{i}" for i in random.integers(0, 4, 400)]
    sides = [[g if random.random() < p else "l0" for g in gold] for p in (0.9, 0.7)]
    a = write(tmp_path / "a.parquet", {"id": range(400), "label": sides[0], "gold": gold})
    b = write(tmp_path / "b.parquet", {"id": range(400), "label": sides[1]})
    found = engine.compare(a, b, key="id", truth="gold").truth
    for name, side in zip("ab", sides, strict=True):
        assert found[f"accuracy_{name}"] == metrics.accuracy_score(gold, side)
        expected = metrics.f1_score(gold, side, average="macro")
        assert found[f"macro_f1_{name}"] == pytest.approx(expected, rel=1e-12)
    right = [[x == y for x, y in zip(gold, side, strict=True)] for side in sides]
    assert found["only_a_right"] == sum(x and not y for x, y in zip(*right, strict=True))
    assert 0 <= found["mcnemar"]["p_exact"] < 0.01
    with pytest.raises(ColumnError, match="no column 'golf'"):
        engine.compare(a, b, key="id", truth="golf")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs over one corpus: whole, of other settings, with rows that only one rejects, a file."""
    folder = tmp_path_factory.mktemp("runs")
    texts = ["uno", "dos", "tres", "cuarenta y dos", "cien", "mil", "siete", "doce"] * 4
    write(folder / "in/a.parquet", {"id": range(32), "text": texts})
    write(folder / "in/b.parquet", {"id": range(32, 64), "text": texts})
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "short": {"max_new_tokens": 2},
        "strict": {"max_row_bytes": 8},
        "one.parquet": {},
    }
    for name, settings in ways.items():
        engine.run(BUNDLE, [folder / "in"], folder / name, on_error="reject", keep=["id"],
                   **settings)  # fmt: skip
    return {name: folder / name for name in ways}


def test_two_runs_of_one_corpus_need_no_key(runs: dict[str, Path]) -> None:
    same = engine.compare(runs["whole"], runs["one.parquet"])
    assert (same.rows, same.agreement, same.paired_by) == (64, 1, "order")
    assert same.sides["a"]["rows"] == 64
    assert same.sides["a"]["bytes"] > 0
    short = engine.compare(runs["whole"], runs["short"])
    assert 0 < short.agreement < 1
    by_key = engine.compare(runs["whole"], runs["short"], key="id")
    assert (by_key.agreement, by_key.figures) == (short.agreement, short.figures)


def test_a_run_s_answers_are_compared_and_not_what_it_has_kept(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    texts = ["uno", "cuarenta y dos", "tres mil uno", "siete"]
    kept = {"answer": ["a"] * 4, "label": ["b"] * 4, "translation_text": ["um", "x", "x", "x"]}
    corpus = write(tmp_path / "in.parquet", {"text": texts, **kept})
    for name, settings in {"whole": {}, "short": {"max_new_tokens": 1}}.items():
        engine.run(BUNDLE, corpus, tmp_path / name, text="text", keep=["answer", "label"],
                   **settings)  # fmt: skip
        engine.run(BUNDLE, corpus, tmp_path / f"{name}-own", text="text", result_prefix="own_",
                   keep=list(kept), **settings)  # fmt: skip
    for ending in ("", "-own"):
        found = engine.compare(tmp_path / f"whole{ending}", tmp_path / f"short{ending}")
        assert (found.kind, found.rows) == ("texts", 4)
        assert found.agreement < 1
    mixed = engine.compare(tmp_path / "whole", tmp_path / "whole-own", truth="translation_text")
    assert (mixed.kind, mixed.agreement) == ("texts", 1)
    assert 0 < mixed.truth["chrf_a"] == mixed.truth["chrf_b"] < 100


def test_a_truth_that_is_named_as_other_answers_are_is_no_answer(tmp_path: Path) -> None:
    ranked = {"labels": [["x", "y"], ["y", "x"]], "scores": [[0.9, 0.1], [0.8, 0.2]]}
    other = {"labels": [["y", "x"], ["y", "x"]], "scores": [[0.6, 0.4], [0.8, 0.2]]}
    truth = {"id": [1, 2], "label": ["x", "y"]}
    a, b = (write(tmp_path / f"{n}.parquet", truth | c) for n, c in (("a", ranked), ("b", other)))
    found = engine.compare(a, b, key="id", truth="label")
    assert found.agreement == 0.5
    assert (found.truth["accuracy_a"], found.truth["accuracy_b"]) == (1, 0.5)


def test_rows_that_one_run_rejected_are_missing(runs: dict[str, Path]) -> None:
    found = engine.compare(runs["whole"], runs["strict"])
    assert (found.rows, found.unpaired.only_a, found.agreement) == (56, 8, 1)
    assert found.agreement_of_all == 56 / 64
    back = engine.compare(runs["strict"], runs["whole"])
    assert (back.rows, back.unpaired.only_b, back.agreement) == (56, 8, 1)


def test_runs_of_other_corpora_need_a_key(runs: dict[str, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "in.parquet", {"id": range(3), "text": ["uno", "dos", "tres"]})
    engine.run(BUNDLE, [other], tmp_path / "out", keep=["id"])
    with pytest.raises(SettingsError, match="not over the same splits of one corpus"):
        engine.compare(runs["whole"], tmp_path / "out")
    found = engine.compare(runs["whole"], tmp_path / "out", key="id")
    assert (found.rows, found.unpaired.only_a, found.agreement) == (3, 61, 1)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_the_command_prints_and_gates(runs: dict[str, Path]) -> None:
    same = call(runs["whole"], runs["one.parquet"], "--min-agreement", "1")
    assert same.exit_code == 0
    assert "64 rows compared by order" in same.stdout
    assert "chrf" in same.stdout
    gated = call(runs["whole"], runs["short"], "--min-agreement", "0.99")
    assert gated.exit_code == 4
    assert "less than --min-agreement 0.99" in gated.stderr
    found = json.loads(call(runs["whole"], runs["short"], "--json").stdout)
    assert found["kind"] == "texts"
    assert found["agreement_of_all"] < 0.99
    assert call(runs["whole"], runs["strict"], "--min-agreement", "0.9").exit_code == 4


def test_wrong_words_are_refused_with_a_hint(runs: dict[str, Path], tmp_path: Path) -> None:
    wrong = call(runs["whole"], runs["short"], "--min-agreement", "99")
    assert "not from 0 to 1" in str(wrong.exception)
    wrong = call(runs["whole"], runs["short"], "--map", "label")
    assert "write OURS=THEIRS" in str(wrong.exception)
    wrong = call(runs["whole"], runs["short"], "--map", "label=nothing")
    assert "neither output has a column 'nothing'" in str(wrong.exception)
    wrong = call(runs["whole"], runs["short"], "--key", "idd")
    assert "no column 'idd'" in str(wrong.exception)
    wrong = call(runs["whole"], write(tmp_path / "l.parquet", labels(3)), "--key", "id")
    assert "no answers in common" in str(wrong.exception)
    wrong = call(runs["whole"], tmp_path / "none")
    assert wrong.exit_code == 1


def test_outputs_without_a_common_row_are_said_to_have_none(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", labels(10))
    b = write(tmp_path / "b.parquet", {**labels(10), "id": list(range(10, 20))})
    said = CliRunner().invoke(app, ["compare", str(a), str(b), "--key", "id"])
    assert "note: no row of one side is a row of the other by id" in said.stdout
