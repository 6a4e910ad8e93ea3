"""Footers of Parquet that contradict themselves are refused: no crash, and no other values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults.reading_rows import read_all
from faults.sandbox import OK, REFUSED, call_apart

from engine.data.columnar import row_group_starts
from engine.errors import InputError


def _flipped(content: bytes, place: int, mask: int) -> bytes:
    return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.parquet"
    table = pa.table(
        {
            "text": [f"word {n}" for n in range(9)],
            "whole": np.arange(9),
            "float": np.arange(9) / 7,
            "half": pa.array(np.arange(9), pa.float32()),
            "lists": [[n, n + 1] for n in range(9)],
        }
    )
    pq.write_table(table, path, write_page_checksum=True, row_group_size=4)
    return path


def test_flips_in_a_footer_end_in_rows_or_a_refusal(file: Path) -> None:
    """Every 67th bit, so that those of each byte of a description are tried in some."""
    content = file.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for number in range(8 * start, 8 * (len(content) - 8), 67):
        file.write_bytes(_flipped(content, number // 8, 1 << number % 8))
        outcome = call_apart(read_all, file, seconds=60)
        assert outcome.state in (OK, REFUSED), (number, outcome)


def test_statistics_of_another_column_are_refused(tmp_path: Path, file: Path) -> None:
    """A size of a list of levels, the sign of which pyarrow's process would end of."""
    content = file.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    states = []
    for place in range(start, len(content) - 8):
        if content[place] == 0x29:  # a list of two numbers of 64 bits
            file.write_bytes(_flipped(content, place, 0x20))
            states += [call_apart(f, file, seconds=60) for f in (read_all, row_group_starts)]
    assert {outcome.state for outcome in states} <= {OK, REFUSED}
    assert any("histogram" in str(outcome.value) for outcome in states)


@pytest.mark.parametrize("noted", [pa.float64(), pa.int64(), pa.float32()])
@pytest.mark.parametrize("stored", [pa.float64(), pa.int32(), pa.int64(), pa.float32()])
def test_numbers_of_another_kind_than_noted_are_refused(
    tmp_path: Path, noted: pa.DataType, stored: pa.DataType
) -> None:
    paths = {}
    for kind in (noted, stored):
        paths[kind] = tmp_path / f"{kind}.parquet"
        table = pa.table({"text": ["a", "b"], "x": pa.array([1, 2], kind)})
        pq.write_table(table, paths[kind])
    note = pq.ParquetFile(paths[noted]).metadata.metadata[b"ARROW:schema"]
    table, path = pq.read_table(paths[stored]), tmp_path / "both.parquet"
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"ARROW:schema": note})
    whole = pa.types.is_integer(noted) and pa.types.is_integer(stored)
    if noted == stored or whole:
        assert [row[1] for row in read_all(path).rows.values()] == [("a", 1), ("b", 2)]
        return
    with pytest.raises(InputError, match=f"a column of {noted}, and has one of {stored}"):
        read_all(path)
