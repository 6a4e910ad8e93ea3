"""The short form of `stores_reading`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from engine.data import object_files


@pytest.fixture
def as_before() -> Iterator[None]:
    names = ("SMALL", "LARGEST", "_cache")
    values = {name: getattr(object_files, name) for name in names}
    environment = dict(os.environ)
    yield
    for name, value in values.items():
        setattr(object_files, name, value)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("as_before")
def test_connections_cut_at_random_give_the_same_rows() -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from faults.stores_reading import points

    corpus, whole, *cut = points(10)
    assert [point.problem for point in (whole, *cut)] == [""] * 11
    assert sum(point.cuts for point in cut) > 10
    assert whole.bytes < 1.4 * corpus.bytes, "bytes are downloaded once, but for what is in flight"
