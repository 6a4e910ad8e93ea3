"""Rows with seeds of their own: an answer that goes with its row wherever that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fakes import FakeBackend, make_bundle, texts
from support.fakes import open_bundle as opened

from engine.errors import ColumnError, InputError
from engine.pipeline import Bundle
from engine.runner import coordinator
from engine.tasks import decoding

DRAWING: dict[str, Any] = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 6}
TASKS = ("text2text-generation", "translation", "text-generation")


@pytest.fixture(scope="module", params=TASKS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "causal" if request.param == "text-generation" else "other"
    return make_bundle(tmp_path_factory.mktemp(name) / "bundle", request.param)


def open_bundle(folder: Path) -> Bundle:
    return opened(folder, FakeBackend(causal="causal" in folder.parent.name))


def test_a_seed_goes_with_its_row(bundle: Path) -> None:
    rows = list(zip(texts(12), range(100, 112), strict=True))
    model = open_bundle(bundle)
    answers = model(rows, **DRAWING).to_pylist()
    assert model(rows[::-1], **DRAWING).to_pylist() == answers[::-1]
    assert model(rows[5:6], **DRAWING).to_pylist() == answers[5:6]
    # The number of a row that is the first of its file has no part in it.
    for text, seed in rows[:3]:
        (row,) = model([text], seed=seed, **DRAWING).to_pylist()
        assert row == answers[seed - 100]
    assert model([(text, str(seed)) for text, seed in rows], **DRAWING).to_pylist() == answers
    assert model([(text, f"row-{seed}") for text, seed in rows], **DRAWING).to_pylist() != answers


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "texts"])
def test_a_column_of_seeds(bundle: Path, tmp_path: Path, kind: str) -> None:
    keys = [str(n) if kind == "texts" else n for n in range(7, 47)]
    columns = {"text": texts(40), "key": keys}
    path = tmp_path / ("rows.jsonl" if kind == "jsonl" else "rows.parquet")
    if kind == "jsonl":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table(columns), path)
    report = coordinator.run(
        open_bundle(bundle), [path], tmp_path / "out", text=("text", "key"), keep=("key",),
        format="parquet", window=16, **DRAWING,
    )  # fmt: skip
    found = pq.read_table(tmp_path / "out" / report.files[0])
    assert found["key"].to_pylist() == keys
    wanted = open_bundle(bundle)(list(zip(*columns.values(), strict=True)), **DRAWING)
    assert found.drop_columns(["key"]).to_pylist() == wanted.to_pylist()


def test_what_is_no_seed_is_refused_by_its_number(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="item 1 of the list has float as seed"):
        open_bundle(bundle)([("a", 1), ("b", 1.5)])
    pq.write_table(pa.table({"text": ["a"], "key": [0.5]}), tmp_path / "rows.parquet")
    with pytest.raises(ColumnError, match="column 'key' holds double, not text or whole numbers"):
        coordinator.run(
            open_bundle(bundle), [tmp_path / "rows.parquet"], tmp_path / "out",
            text=("text", "key"),
        )  # fmt: skip


def test_numbers_and_texts_as_seeds() -> None:
    numbers = decoding._seeds(pa.array([0, 5, -1, 2**63 - 1]))
    assert numbers.tolist() == [0, 5, 2**64 - 1, 2**63 - 1]
    spelled = decoding._seeds(pa.array(["0", "5", "-1", str(2**63 - 1)]))
    assert spelled.tolist() == numbers.tolist()
    hashed = decoding._seeds(pa.array(["a", "b", "", "5 ", "٣"]))
    assert len(set(hashed.tolist())) == 5
    assert hashed.dtype == np.uint64
