"""The answers of a run in an object store. The store is moto's server."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fakes import make_bundle, open_bundle
from support.object_stores import BUCKET, Store, server, store
from support.runs import corpus

from engine.errors import ColumnError
from engine.runner import coordinator
from engine.summary import summarize

__all__ = ["corpus", "server", "store"]


def test_a_run_in_a_store_is_summarized_as_a_local_one(
    tmp_path: Path, corpus: Path, store: Store
) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    url = f"s3://{BUCKET}/a/out"
    found = []
    for out in (tmp_path / "out", url):
        coordinator.run(bundle, corpus, out, keep=("id", "text"), on_error="reject", window=16)
        found.append(repr(summarize(out, colour="id", examples=3)))
    assert found[0] == found[1]
    with pytest.raises(ColumnError, match=url) as error:
        summarize(url, colour="texts")
    assert "did you mean 'text'?" in error.value.hint
