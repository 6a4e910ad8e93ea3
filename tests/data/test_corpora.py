"""Every corpus of the table gives the rows, the rejects and the notes that it has to give."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from all_corpora import ALL
from corpora import Corpus
from support.fakes import (
    END,
    FIRST_WORD,
    LABELS,
    UNKNOWN,
    WORDS,
    logits_of,
    make_bundle,
    open_bundle,
)

import engine
from engine import errors
from engine.pipeline import Bundle
from engine.runner import results


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(make_bundle(tmp_path_factory.mktemp("b") / "b", "text-classification"))


@pytest.mark.parametrize("corpus", ALL, ids=lambda corpus: corpus.name)
def test_a_corpus_gives_what_the_table_says(corpus: Corpus, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    inputs = corpus.write(folder)
    settings = {"on_error": "reject", "device": "cpu", **corpus.settings, "keep": corpus.keep}
    if corpus.error:
        kind, message, hint = corpus.error
        with pytest.raises(getattr(errors, kind)) as error:
            engine.run(bundle, inputs, tmp_path / "out", **settings)
        assert type(error.value).__name__ == kind
        assert message.format(folder=folder) in error.value.message
        assert hint.format(folder=folder) in error.value.hint
        return
    report = engine.run(bundle, inputs, tmp_path / "out", **settings)
    answers = report.table()
    kept = answers.drop_columns(["label", "score"])
    names = list(dict.fromkeys(name for row in corpus.rows for name in row))
    if corpus.rows:
        assert sorted(kept.column_names) == sorted(names)
    expected = [{name: row.get(name) for name in names} for row in corpus.rows]
    assert [plain(row) for row in rows_of(kept)] == [plain(row) for row in expected]
    assert {n: str(kept.schema.field(n).type) for n in corpus.types} == dict(corpus.types)
    check_answers(answers)
    found = [
        (str(Path(bad["file"]).relative_to(folder)), bad["row"], bad["code"])
        for bad in results.rejects(report.out)
    ]
    assert found == list(corpus.rejects)
    assert report.rows_in == len(corpus.rows) + len(corpus.rejects)
    assert list(report.notes) == [note.format(folder=folder) for note in corpus.notes]


def test_the_table_has_120_corpora_each_with_a_name_of_its_own() -> None:
    assert len({corpus.name for corpus in ALL}) == len(ALL) >= 120


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Nanoseconds are whole numbers here, since Python's dates do not hold them."""
    columns = {
        name: table[name].cast(pa.int64())
        if pa.types.is_timestamp(table[name].type) and table[name].type.unit == "ns"
        else table[name]
        for name in table.column_names
    }
    values = {name: column.to_pylist() for name, column in columns.items()}
    return [{name: values[name][row] for name in values} for row in range(table.num_rows)]


def plain(value: Any) -> Any:
    """A value that equals another where both are of one type, and NaN equals NaN."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else ("float", value, math.copysign(1, value))
    return type(value).__name__, value


def check_answers(answers: pa.Table) -> None:
    """Each row has the answer for its own text."""
    if "text" not in answers.column_names:
        return
    for row in answers.select(["text", "label"]).to_pylist():
        words = re.findall(r"\w+|[^\w\s]+", row["text"])
        ids = [FIRST_WORD + WORDS.index(w) if w in WORDS else UNKNOWN for w in words]
        assert row["label"] == LABELS[int(np.argmax(logits_of((*ids[:31], END))))]
