"""A short form of `foreign_corpora`."""

from __future__ import annotations

from faults.foreign_corpora import CHECKED, faults_of, measure


def test_no_damaged_file_ends_the_process_or_is_read_as_another() -> None:
    figures = measure(64)
    assert faults_of(figures) == []
    assert all(figures[kind].get("refused") for kind in CHECKED)
