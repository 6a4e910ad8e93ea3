"""A full or failing disk ends a run with an error, and the next start finishes it: in short."""

from __future__ import annotations

import pytest
from faults import full_disk

pytest.importorskip("onnxruntime")


def test_a_run_whose_disk_fails_says_so_and_can_be_continued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A folder that cannot be opened to be listed is for the long form.
    monkeypatch.delitem(full_disk.ERRORS, "openat")
    faults = full_disk.measure(calls=12, sizes=5, rows=100, seed=3)
    assert faults
    for kind, counts in faults.items():
        assert set(counts) <= {"error", "whole"}, kind
