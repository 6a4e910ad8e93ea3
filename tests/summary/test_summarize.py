"""What is shown of a run's answers, by task, in any format and however far the run has come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.fakes import FakeBackend, make_bundle, open_bundle, texts, write_jsonl
from support.written_runs import write_run

import engine
from engine.core.rejects import Rejects
from engine.errors import ColumnError, InputError, OutputError, SettingsError
from engine.pages.blocks import Bars, Grid, Histogram, Lines, Section, Table
from engine.summary import summarize

random = np.random.default_rng(7)


def section(sections: list[Section], title: str) -> Section:
    return next(one for one in sections if one.title == title)


def block(found: Section, kind: type) -> Any:
    return next(one for one in found.blocks if isinstance(one, kind))


def facts(found: Section) -> dict[str, Any]:
    return {
        row[0]: row[1]
        for one in found.blocks
        if isinstance(one, Table) and not one.head
        for row in one.rows
    }


def label_table(rows: int, **more: Any) -> pa.Table:
    labels = [("good", "fair", "bad")[i % 3] if i % 10 else None for i in range(rows)]
    scores = [None if label is None else i / rows for i, label in enumerate(labels)]
    columns = {"id": range(rows), "label": labels, "score": pa.array(scores, pa.float32())}
    return pa.table({"text": [f"secret {i}" for i in range(rows)], **more, **columns})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "csv"])
def test_labels_in_any_format(tmp_path: Path, kind: str) -> None:
    truths = ["good", "fair", "fair"] * 100
    table = label_table(300, **{"the.truth": truths, "the": ["x"] * 300})
    found = summarize(
        write_run(tmp_path / "out", table, parts=[120, 120], kind=kind), truth="the.truth"
    )
    assert facts(found[0]) == {"rows": 300, "null answers": "30 (10.00%)"}
    labels = block(section(found, "Labels"), Bars)
    assert labels.names == ["bad", "fair", "good"]
    assert labels.values == [90, 90, 90]
    scores = section(found, "Scores")
    histogram, lines = block(scores, Histogram), block(scores, Lines)
    assert (sum(histogram.counts), histogram.edges[0], histogram.edges[-1]) == (270, 0, 1)
    assert {name: sum(rows) for name, rows in lines.series.items()} == dict.fromkeys(
        labels.names, 90
    )
    assert sum(map(np.array, lines.series.values())).tolist() == histogram.counts
    against = section(found, "Against the.truth")
    assert facts(against)["accuracy"] == pytest.approx(2 / 3)
    grid = block(against, Grid)
    assert (grid.rows, grid.columns) == (["fair", "good", "bad"], ["fair", "good", "bad"])
    assert grid.counts == [[90, 0, 90], [0, 90, 0], [0, 0, 0]]
    assert sum(row[1] for row in block(section(found, "Calibration"), Table).rows[:0]) == 0
    assert block(section(found, "Calibration"), Lines).x[0] == 0.05
    assert "secret" not in repr(found)


def test_the_same_whatever_the_parts_and_formats(tmp_path: Path) -> None:
    table = label_table(500, truth=["good", "bad"] * 250)
    shown = [
        repr(summarize(write_run(tmp_path / kind, table, kind=kind, parts=parts), truth="truth"))
        for kind, parts in (("parquet", []), ("arrow", [7, 7, 300]), ("csv", [499]), ("jsonl", [1]))
    ]
    assert len(set(shown)) == 1


def test_a_prefix_tells_answers_from_kept_columns(tmp_path: Path) -> None:
    kept = {"label": ["a", "b"], "score": [7, 8]}
    table = pa.table({**kept, "p_label": ["a", "a"], "p_score": [1.0, 0.5]})
    out = write_run(tmp_path / "out", table, prefix="p_")
    found = summarize(out, truth="label", examples=1)
    assert facts(section(found, "Against label"))["accuracy"] == 0.5
    wrong = block(section(found, "Examples: wrong and most sure"), Table)
    assert wrong.head == ("row", "label", "score", "label of the answer", "score of the answer")
    assert wrong.rows == [("0.jsonl, row 1", "b", 8, "a", 0.5)]


def test_a_part_of_a_run_and_nothing(tmp_path: Path) -> None:
    table = label_table(30)
    unfinished = summarize(write_run(tmp_path / "a", table, finished=False))
    assert "not finished" in unfinished[0].note
    assert facts(unfinished[0])["rows"] == 30
    assert facts(summarize(write_run(tmp_path / "b", table.slice(0, 0)))[0])["rows"] == 0
    for kind in ("jsonl", "csv", "arrow"):
        out = write_run(tmp_path / kind, table.slice(0, 0), parts=[0], kind=kind)
        assert len(summarize(out, truth="id", examples=3)) == 1
    nulls = pa.table({"label": pa.nulls(3, pa.string()), "score": pa.nulls(3, pa.float32())})
    assert facts(summarize(write_run(tmp_path / "n", nulls))[0])["null answers"] == "3 (100.00%)"
    with pytest.raises(OutputError, match="not the output of a run"):
        summarize(tmp_path)


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    table = label_table(30, truth=["good"] * 30, gold=[b"x"] * 30)
    out = write_run(tmp_path / "out", table)
    with pytest.raises(ColumnError, match="no kept column 'trut'") as error:
        summarize(out, truth="trut")
    assert "did you mean 'truth'?" in error.value.hint
    with pytest.raises(ColumnError, match="binary"):
        summarize(out, truth="gold")
    with pytest.raises(SettingsError, match="not drawn as points"):
        summarize(out, colour="truth")
    with pytest.raises(ColumnError, match="no kept column 'label'"):
        summarize(out, truth="label")
    one = pa.struct([("mask", pa.int32()), ("score", pa.float32()), ("token_str", pa.string())])
    masks = pa.table({"t": ["x"], "candidates": pa.array([[]], pa.list_(one))})
    with pytest.raises(SettingsError, match="tokens are not compared"):
        summarize(write_run(tmp_path / "masks", masks), truth="t")


def test_generated_texts(tmp_path: Path) -> None:
    table = pa.table(
        {
            "generated_text": ["a b c d a b c d a", "x", "", None, "e f g h"],
            "output_tokens": pa.array([9, 1, 0, None, 4], pa.int32()),
            "finish_reason": ["length", "stop", "stop", None, "stop"],
            "prompt_tokens": pa.array([3, 1, 5, None, 8], pa.int32()),
        }
    )
    found = summarize(write_run(tmp_path / "out", table), examples=1)
    lengths = section(found, "Output lengths")
    assert facts(lengths) == {"texts": 4, "empty ones": "1 (25.00%)"}
    rows = {row[0]: row[1:] for row in block(lengths, Table).rows}
    assert rows["tokens"][:3] == (4, 3.5, 0)
    assert rows["tokens for each token of the prompt"][1] == pytest.approx((3 + 1 + 0.5) / 4)
    assert block(section(found, "How texts end"), Bars).names == ["stop", "length"]
    repetition = section(found, "Repetition")
    assert block(repetition, Table).rows[0][:4] == ("repeated share", 2, 1 / 6, 0)
    longest = block(section(found, "Examples: longest"), Table)
    assert longest.rows[0][:3] == ("0.jsonl, row 0", "a b c d a b c d a", 9)


def test_how_much_shorter_texts_are_than_what_was_read(tmp_path: Path) -> None:
    texts_, kind = [["ab", "abcd"], ["", "x"], None], pa.list_(pa.string())
    table = pa.table(
        {
            "body": ["x" * 8, "x" * 4, ""],
            "summary_text": pa.array(texts_, kind),
            "output_tokens": pa.array([[1, 2], [0, 1], None], pa.list_(pa.int32())),
            "finish_reason": pa.array([["stop", "stop"], ["stop", "length"], None], kind),
        }
    )
    inputs = [{"name": "body", "holds": "text", "needed": True}]
    found = summarize(write_run(tmp_path / "out", table, inputs=inputs))
    lengths = {row[0]: row[1:] for row in block(section(found, "Output lengths"), Table).rows}
    assert lengths["characters for each of the input"][:2] == (4, pytest.approx(1 / 4))
    assert lengths["tokens"][:2] == (4, 1)
    assert block(section(found, "How texts end"), Bars).values == [3, 1]
    assert "xxxx" not in repr(found)


def test_examples_show_rows_and_bad_ones(tmp_path: Path) -> None:
    bad = Rejects(np.array([1, 4]), ("empty", "too_long"), ("is empty", "is long"),
                  texts=("", "z" * 500))  # fmt: skip
    table = pa.table({"text": ["t" * 900, "b", "c"], "label": ["x", "y", "x"],
                      "score": pa.array([0.9, 0.5, 0.7], pa.float32())})  # fmt: skip
    found = summarize(write_run(tmp_path / "out", table, rejects=bad), examples=2)
    least = block(section(found, "Examples: least sure"), Table)
    assert [row[0] for row in least.rows] == ["0.jsonl, row 2", "0.jsonl, row 3"]
    assert least.head == ("row", "text", "label", "score")
    rejected = block(section(found, "Examples: rejected"), Table)
    assert rejected.head == ("row", "code", "message", "text")
    assert rejected.rows[1][:3] == ("0.jsonl, row 4", "too_long", "is long")
    assert len(rejected.rows[1][3]) < 450
    assert all(len(str(cell)) < 450 for one in found for b in one.blocks
               if isinstance(b, Table) for row in b.rows for cell in row)  # fmt: skip


def test_entities(tmp_path: Path) -> None:
    kind = pa.list_(
        pa.struct(
            [("entity_group", pa.string()), ("score", pa.float32()), ("word", pa.string()),
             ("start", pa.int32()), ("end", pa.int32())]
        )
    )  # fmt: skip

    def one(group: str, start: int, end: int, score: float) -> dict[str, Any]:
        return {"entity_group": group, "score": score, "word": "secret", "start": start, "end": end}

    rows = [[one("PER", 0, 4, 0.9), one("LOC", 6, 8, 0.5)], [], None, [one("PER", 2, 5, 0.8)]]
    truths = [[one("PER", 0, 4, 1), one("ORG", 6, 8, 1)], [one("PER", 1, 2, 1)], [], None]
    table = pa.table({"gold": pa.array(truths, kind), "entities": pa.array(rows, kind)})
    for kind_ in ("parquet", "csv", "jsonl", "arrow"):
        found = summarize(write_run(tmp_path / kind_, table, kind=kind_, parts=[1]), truth="gold")
        own = section(found, "Entities")
        assert dict(zip(block(own, Bars).names, block(own, Bars).values, strict=True)) == {
            "PER": 2, "LOC": 1
        }  # fmt: skip
        assert facts(own)["rows without one"] == "1 (33.33%)"
        rows_ = {row[0]: row[1:] for one in section(found, "Against gold").blocks
                 if isinstance(one, Table) and one.head for row in one.rows}  # fmt: skip
        assert rows_ == {
            "all": (3, 2, 1, 0.5, 1 / 3, pytest.approx(0.4)),
            "PER": (2, 1, 1, 1, 0.5, pytest.approx(2 / 3)),
            "LOC": (0, 1, 0, 0, None, 0),
            "ORG": (1, 0, 0, None, 0, 0),
        }
        assert "secret" not in repr(found)
    shown = summarize(write_run(tmp_path / "shown", table), examples=2)
    assert [row[1] for row in block(section(shown, "Examples: longest"), Table).rows] == [2, 1]
    least = [row[1] for row in block(section(shown, "Examples: least sure"), Table).rows]
    assert least == pytest.approx([0.5, 0.8])
    assert "secret PER 0.9, secret LOC 0.5" in repr(shown)


@pytest.mark.parametrize("several", [False, True])
def test_answers_to_questions(tmp_path: Path, several: bool) -> None:
    answers, scores = ["in May", "", "he", None], [0.9, 0.8, 0.5, None]
    columns = {"answer": pa.array(answers), "score": pa.array(scores, pa.float32()),
               "start": pa.array([3, 0, 5, None], pa.int32()),
               "end": pa.array([9, 0, 7, None], pa.int32())}  # fmt: skip
    if several:
        columns = {
            f"{name}s": pa.array([v and [v.as_py(), v.as_py()] if v.is_valid else None
                                  for v in values], pa.list_(values.type))
            for name, values in columns.items()
        }  # fmt: skip
    out = write_run(tmp_path / "out", pa.table({"gold": ["in May", "x", "he", "y"], **columns}))
    found = summarize(out, truth="gold", examples=1)
    own = section(found, "Answers to questions")
    assert facts(own) == {"rows": 3, "empty answers": "1 (33.33%)"}
    assert [row[1:3] for one in own.blocks if isinstance(one, Table) and one.head
            for row in one.rows] == [(2, 4.0)]  # fmt: skip
    assert facts(section(found, "Against gold"))["accuracy"] == pytest.approx(2 / 3)


def test_masks(tmp_path: Path) -> None:
    kind = pa.list_(
        pa.struct(
            [("mask", pa.int32()), ("score", pa.float32()), ("token", pa.int32()),
             ("token_str", pa.string()), ("sequence", pa.string())]
        )
    )  # fmt: skip

    def one(mask: int, score: float, token: str) -> dict[str, Any]:
        return {"mask": mask, "score": score, "token": 1, "token_str": token, "sequence": "secret"}

    rows = [[one(0, 0.5, "cat"), one(0, 0.25, "dog"), one(1, 0.75, "dog"), one(1, 0.25, "x")],
            [], [one(0, 1.0, "dog")]]  # fmt: skip
    found = summarize(write_run(tmp_path / "out", pa.table({"candidates": pa.array(rows, kind)})))
    tokens = block(section(found, "Tokens"), Bars)
    assert (tokens.names, tokens.values) == (["dog", "cat"], [2, 1])
    spreads = {row[0]: row[1:] for row in block(section(found, "Scores"), Table).rows}
    bits = [1.5, 0.75 * np.log2(4 / 3) + 0.5, 0]
    assert spreads["entropy in bits"][:2] == (3, pytest.approx(np.mean(bits)))
    assert spreads["masks of a row"][1] == 1
    assert "secret" not in repr(found)


def test_labels_of_a_column_of_the_input_are_not_shown(tmp_path: Path) -> None:
    labels, scores = [["mine", "yours"], ["his"]], [[0.7, 0.3], [1.0]]
    table = pa.table({"labels": labels, "scores": pa.array(scores, pa.list_(pa.float32()))})
    inputs = [{"name": "text", "holds": "text", "needed": True},
              {"name": "mine", "holds": "texts", "needed": False}]  # fmt: skip
    hidden = summarize(write_run(tmp_path / "a", table, inputs=inputs))
    assert "mine" not in repr(hidden)
    assert facts(section(hidden, "Labels"))["different labels"] == 2
    assert "mine" in repr(summarize(write_run(tmp_path / "b", table, inputs=inputs[:1])))


TITLES = {
    "feature-extraction": "Norms",
    "text-classification": "Labels",
    "translation": "Output lengths",
    "summarization": "Repetition",
    "text2text-generation": "Output lengths",
    "text-generation": "How texts end",
    "zero-shot-classification": "Labels",
    "rerank": "Order",
}


@pytest.mark.parametrize("task", TITLES)
@pytest.mark.parametrize("out", ["one.parquet", "csv"])
def test_every_task(tmp_path: Path, task: str, out: str) -> None:
    backend = FakeBackend(causal=task == "text-generation")
    bundle = open_bundle(make_bundle(tmp_path / "bundle", task), backend)
    rows = [*texts(40), None]
    columns: dict[str, Any] = {"options": {}}
    lines = write_jsonl(tmp_path / "in.jsonl", rows)
    if task == "zero-shot-classification":
        columns["options"] = {"candidate_labels": ["w1", "w2"]}
    if task == "rerank":
        columns["text"] = ["again", "text"]
        pairs = [{"id": i, "text": text, "again": "w1"} for i, text in enumerate(rows)]
        lines.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    options = columns.pop("options")
    if out == "csv":
        columns["format"] = "csv"
    engine.run(bundle, lines, tmp_path / out, keep=["id", "text"], on_error="reject",
               **columns, **options)  # fmt: skip
    found = summarize(tmp_path / out, examples=2)
    assert section(found, TITLES[task]).blocks
    assert facts(found[0])["rows"] == 40
    assert "Examples: rejected" in [one.title for one in found]


def test_what_is_no_answer_of_a_task(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", pa.table({"mine": ["x"]}))
    with pytest.raises(ColumnError, match="no answers of a known task"):
        summarize(out)
    nothing = label_table(3, truth=pa.nulls(3))
    found = summarize(write_run(tmp_path / "null", nothing), truth="truth")
    assert section(found, "Against truth").note == "No answered row has a value of truth."


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_damaged_part_is_named(tmp_path: Path, kind: str) -> None:
    out = write_run(tmp_path / "out", label_table(300), parts=[100], kind=kind)
    part = sorted(out.glob("part-*"))[1]
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=part.name):
        summarize(out)
