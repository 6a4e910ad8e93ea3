"""Files of a few KB that claim to be large are read bit by bit or refused, within little memory."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults.lying_files import PARQUET, arrow, lying_arrow, parquet
from faults.reading_rows import first_rows, read_all
from faults.sandbox import MIB, OK, REFUSED, call_apart

from engine.data import columnar
from engine.errors import InputError

READ = {"rows_2_40", "rows_2_62", "run_of_10_9", "run_of_10_9_of_a_kib", "run_of_2_30"}
"""What the texts' run length does hold."""


def test_the_file_without_a_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet())
    assert [text for text, _ in read_all(path).rows.values()] == ["text"] * 3


@pytest.mark.parametrize("name", sorted(PARQUET))
def test_parquet_that_claims_more_than_it_holds(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(PARQUET[name])
    assert path.stat().st_size < 4096
    outcome = call_apart(first_rows, path, 50_000, seconds=60)
    assert outcome.state == (OK if name in READ else REFUSED), outcome
    assert outcome.peak < 1024 * MIB
    if name not in READ:
        assert f"{path}: cannot be read as parquet" in outcome.value
    elif name != "run_of_2_30":
        assert outcome.value >= 50_000


@pytest.mark.parametrize("mib", [1, 16])
def test_a_long_text_that_each_row_refers_to_is_not_read_for_hundreds_of_rows_at_once(
    tmp_path: Path, mib: int
) -> None:
    texts = pa.DictionaryArray.from_arrays(np.zeros(600, np.int32), ["x" * (mib * MIB)])
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": texts}),
        path,
        compression="zstd",
        write_statistics=False,
        dictionary_pagesize_limit=1 << 30,
    )
    assert path.stat().st_size < 4096
    outcome = call_apart(first_rows, path, 20, seconds=60)
    assert outcome.state == OK, outcome
    assert outcome.peak < 1024 * MIB


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "stream"])
def test_arrow_with_a_large_number_in_the_place_of_a_small_one(
    tmp_path: Path, is_file: bool
) -> None:
    for place, content in islice(lying_arrow(arrow(is_file=is_file)), 0, None, 3):
        path = tmp_path / "a.arrow"
        path.write_bytes(content)
        outcome = call_apart(first_rows, path, 50_000, seconds=60)
        assert outcome.state in (OK, REFUSED), (place, outcome)
        assert outcome.peak < 1024 * MIB


@pytest.mark.parametrize("limit", sorted(columnar.THRIFT_LIMITS))
def test_the_limits_of_parquets_metadata_are_ours(tmp_path: Path, limit: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet())
    with (
        patch.dict(columnar.THRIFT_LIMITS, {limit: 1}),
        pytest.raises(InputError, match=r"cannot be read as parquet: .*size limit"),
    ):
        read_all(path)
