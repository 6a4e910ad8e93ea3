"""Settings that are given as text, as templates of a scheduler do, are those of the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes import make_bundle, open_bundle, texts, write_parquet

import engine
from engine.errors import SettingsError
from engine.pipeline import Bundle

VALUES: dict[str, Any] = {
    "limit": 30, "split_size": 1 << 20, "window": 16, "batch_tokens": 64, "dedupe": False,
    "lock": False, "stall_timeout": 60, "max_rejects": -1, "check_parts": True, "top_k": 2,
    "overwrite": False, "max_length": 8,
}  # fmt: skip
TEXTS: dict[str, Any] = {
    "limit": "30", "split_size": "1MB", "window": "16", "batch_tokens": "64", "dedupe": "false",
    "lock": "no", "stall_timeout": "60", "max_rejects": "-1", "check_parts": "true", "top_k": "2",
    "overwrite": "false", "max_length": "8",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle", "text-classification"))


def test_a_run_is_the_same_run(bundle: Bundle, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "rows.parquet", texts(50), 0)
    first = engine.run(bundle, corpus, tmp_path / "out", **VALUES)
    again = engine.run(bundle, corpus, tmp_path / "out", **TEXTS)
    assert (first.rows_out, again.splits_skipped) == (30, 1)
    planned = [engine.plan(bundle, corpus, tmp_path / "out", **given) for given in (VALUES, TEXTS)]
    assert planned[0] == planned[1]
    assert planned[0].refused == ""
    own = {name: TEXTS[name] for name in ("batch_tokens", "dedupe", "max_length", "top_k")}
    answered = bundle.answer(pa.table({"text": texts(50)}), **own)
    assert answered.table.slice(0, 30).equals(first.table())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": "thirty"}, "limit is 'thirty'"),
        ({"limit": "3.5"}, "limit is '3.5'"),
        ({"window": "0"}, "window is 0"),
        ({"split_size": "one"}, "split_size is 'one'"),
        ({"dedupe": "maybe"}, "dedupe is 'maybe'"),
        ({"stall_timeout": "soon"}, "stall_timeout is 'soon'"),
        ({"top_k": "two"}, "top_k is 'two'"),
    ],
)
def test_a_text_that_says_no_value_is_refused_by_name(
    bundle: Bundle, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    corpus = write_parquet(tmp_path / "rows.parquet", texts(5), 0)
    with pytest.raises(SettingsError, match=message):
        engine.run(bundle, corpus, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
