"""What is shown of embeddings, whatever they are stored as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.written_runs import write_run

from engine.errors import ColumnError
from engine.pages.blocks import Histogram, Points, Section, Table
from engine.summary import embeddings, summarize

random = np.random.default_rng(23)
vectors = random.normal(size=(300, 64)).astype(np.float32)
vectors[200:220] = vectors[:20]
TITLES = ["Answers", "Norms", "Near-duplicates", "Principal components"]


def facts(found: Section) -> dict[str, Any]:
    return {row[0]: row[1] for b in found.blocks if isinstance(b, Table) and not b.head
            for row in b.rows}  # fmt: skip


def column(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    flat = pa.array(values.ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def stored(dtype: str) -> dict[str, pa.Array]:
    if dtype == "float16":
        return {"embedding": column(vectors.astype(np.float16))}
    if dtype == "int8":
        scale = np.abs(vectors).max(axis=1) / 127
        whole = np.rint(vectors / scale[:, None]).astype(np.int8)
        return {"embedding": column(whole), "scale": pa.array(scale)}
    if dtype == "binary":
        return {"embedding": column(np.packbits(vectors > 0, axis=1))}
    return {"embedding": column(vectors)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_embeddings(tmp_path: Path, dtype: str, kind: str) -> None:
    groups = pa.array([f"g{i % 25}" if i > 30 else None for i in range(300)])
    out = write_run(tmp_path / "out", pa.table({"topic": groups, **stored(dtype)}), kind=kind,
                    parts=[50, 50])  # fmt: skip
    found = summarize(out, colour="topic", examples=3)
    assert [one.title for one in found] == TITLES
    histogram = next(b for b in found[1].blocks if isinstance(b, Histogram))
    assert sum(histogram.counts) == 300
    figures = facts(found[2])
    assert figures["equal to an earlier one"] == "20 (6.67%)"
    assert figures["with another one at a cosine of 0.95 or more"] == "40 (13.33%)"
    assert figures["such pairs"] == 20
    alike = next(b for b in found[2].blocks if isinstance(b, Table) and b.head)
    assert len(alike.rows) == 10
    number = {f"{file}.jsonl, row {row}": start + row for file, start, rows in
              ((0, 0, 50), (1, 50, 0), (2, 50, 250)) for row in range(rows)}  # fmt: skip
    assert all(number[str(b)] - number[str(a)] == 200 for a, b, _ in alike.rows)
    points = next(b for b in found[3].blocks if isinstance(b, Points))
    assert len(points.x) == len(points.y) == len(points.groups) == 300
    assert len(set(points.groups)) == 16
    assert {"other", "no value"} <= set(points.groups)
    if dtype == "float32":
        centred = vectors.astype(float) - vectors.mean(axis=0, dtype=float)
        sizes = np.linalg.svd(centred, compute_uv=False)
        assert np.linalg.norm(points.x) == pytest.approx(sizes[0], rel=1e-5)
        assert np.linalg.norm(points.y) == pytest.approx(sizes[1], rel=1e-5)


def test_rows_without_a_direction_and_without_an_answer(tmp_path: Path) -> None:
    rows = [[1.0, 0.0], None, [0.0, 0.0], [float("nan"), 1.0], [2.0, 0.0], [0.0, 3.0]]
    table = pa.table({"embedding": pa.array(rows, pa.list_(pa.float32(), 2))})
    found = summarize(write_run(tmp_path / "out", table))
    assert facts(found[0])["null answers"] == "1 (16.67%)"
    assert facts(found[1]) == {"vectors that are 0 or have a NaN": 2}
    assert facts(found[2])["embeddings"] == 3
    one = table.slice(0, 1)
    assert [s.title for s in summarize(write_run(tmp_path / "one", one))] == TITLES[:2]


def test_chunks_and_tokens(tmp_path: Path) -> None:
    kind = pa.list_(pa.list_(pa.float32(), 2))
    rows = pa.array([[[1, 0], [0, 1]], [], [[1, 1], [1, 0], [2, 0]]], kind)
    table = pa.table({"of": ["a", "b", "c"], "embedding": rows})
    chunks = table.append_column("start", pa.array([[0, 1], [], [0, 1, 2]]))
    chunks = chunks.append_column("end", pa.array([[0, 1], [], [0, 1, 2]]))
    found = summarize(write_run(tmp_path / "chunks", chunks), colour="of")
    points = next(b for b in found[3].blocks if isinstance(b, Points))
    assert list(points.groups) == ["a", "a", "c", "c", "c"]
    assert facts(found[2])["such pairs"] == 3
    assert [s.title for s in summarize(write_run(tmp_path / "tokens", table))] == TITLES[:2]


def test_wide_embeddings_have_the_components_of_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_run(tmp_path / "out", pa.table({"embedding": column(vectors)}))
    every = summarize(out)[3]
    monkeypatch.setattr(embeddings, "WIDEST", 8)
    sampled = summarize(out)[3]
    assert every.note == sampled.note
    a, b = every.blocks[0], sampled.blocks[0]
    assert isinstance(a, Points)
    assert isinstance(b, Points)
    np.testing.assert_allclose(a.x, b.x, atol=1e-5)
    monkeypatch.setattr(embeddings, "POINTS", 10)
    few = summarize(out)[3].blocks[0]
    assert isinstance(few, Points)
    assert len(few.x) == 10


def test_a_column_of_bytes_colours_nothing(tmp_path: Path) -> None:
    table = pa.table({"raw": [b"x"] * 300, "embedding": column(vectors)})
    with pytest.raises(ColumnError, match="binary") as error:
        summarize(write_run(tmp_path / "out", table), colour="raw")
    assert "--colour" in error.value.hint
