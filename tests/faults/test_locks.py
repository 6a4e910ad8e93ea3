"""One of two runs of a folder writes, and one that has lost it changes nothing: in short."""

from __future__ import annotations

import pytest
from faults import locks

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("way", locks.WAYS)
def test_one_of_a_pair_writes_and_a_run_that_lost_its_lock_changes_nothing(way: str) -> None:
    counts = locks.measure(way, pairs=3, takeovers=3, rows=200, seed=2)
    assert set(counts["pairs"]) <= {"right", "in turn"}
    assert set(counts["takeovers"]) <= {"right", "in turn", "first had finished"}
