"""The beams of a row read one source."""

from __future__ import annotations

import contextlib
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import onnx_bytes as ox
from support import small_bundles as bundles

from engine.bundle import format as bundle_format
from engine.core.confined_process import RefusedError
from engine.core.device import CPU
from engine.demo import BUNDLE
from engine.errors import BundleError, SettingsError
from engine.pipeline import Bundle
from engine.runtime.backend import OrtBackend
from engine.runtime.shared_sources import with_beams
from engine.runtime.wire import Message, fields

STEP = (BUNDLE / "step.onnx").read_bytes()
ROWS, SOURCE, CAPACITY = 5, 23, 12
OF_SOURCES = ("source_last", "cross.", "last.")


@pytest.fixture(scope="module")
def backend() -> OrtBackend:
    return OrtBackend(BUNDLE, bundle_format.load(BUNDLE).graphs_for(CPU), device=CPU)


def feeds_of(backend: OrtBackend, beams: int) -> dict[str, NDArray[Any]]:
    """Of a step in which all slots of a row have the same source."""
    decoder = bundle_format.load(BUNDLE).description.model_config.decoder
    assert decoder
    draw, slots = np.random.default_rng(beams), ROWS * beams
    lasts = draw.integers(0, SOURCE, ROWS).astype(np.int32)
    heads, size = decoder.heads, decoder.head_dim
    feeds: dict[str, NDArray[Any]] = {
        "tokens": draw.integers(0, decoder.vocabulary, slots),
        "lengths": draw.integers(0, CAPACITY - 1, slots).astype(np.int32),
        "total": np.array(CAPACITY, np.int32),
        "source_last": np.repeat(lasts, beams),
        "source_total": np.array(SOURCE, np.int32),
        "picks": np.array([3]),
        "scored": np.array(True),
        "whole_logits": np.array(True),
    }
    for n in range(decoder.layers):
        for part in ("key", "value"):
            shape = (ROWS, heads, SOURCE, size)
            cross = draw.standard_normal(shape).astype(np.float32)
            past = (slots, heads, CAPACITY, size)
            feeds[f"past.{n}.{part}"] = draw.standard_normal(past).astype(np.float32)
            feeds[f"cross.{n}.{part}"] = np.repeat(cross, beams, axis=0)
            last = cross[np.arange(ROWS), :, lasts].reshape(ROWS, 1, -1)
            feeds[f"last.{n}.{part}"] = np.repeat(last, beams, axis=0)
    return {name: feeds[name] for name in backend.graph("step").inputs}


def answered(
    backend: OrtBackend, beams: int, feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    values = backend.graph("step", beams).run(feeds, ["logits", "best", "best_scores"])
    return [backend.host(value).copy() for value in values]


@pytest.mark.parametrize("beams", [2, 3, 4, 5, 8, 17])
def test_a_shared_source_gives_the_same_to_the_bit(backend: OrtBackend, beams: int) -> None:
    feeds = feeds_of(backend, beams)
    expected = answered(backend, 1, {name: array.copy() for name, array in feeds.items()})
    shared = {
        name: array[::beams].copy() if name.startswith(OF_SOURCES) else array.copy()
        for name, array in feeds.items()
    }
    for one, other in zip(expected, answered(backend, beams, shared), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_graph_without_sources_stays_as_it_is() -> None:
    causal = ox.model(ox.graph([bundles.LOOKUP], bundles.INPUTS, [bundles.STATES], []))
    assert with_beams(causal, 4) is None


def test_sources_of_another_shape_are_refused() -> None:
    names = ["query", "key", "value", "cross.0.key", "cross.0.value", "source_last"]
    node = ox.node("GroupQueryAttention", names, ["out"], domain="com.microsoft")
    for dims in ([4, 2], ["slots", "heads", "capacity", 64], ["slots", 8, "capacity", "numbers"]):
        graph = ox.graph([node], [ox.value("cross.0.key", dims)])
        with pytest.raises(RefusedError, match="another shape"):
            with_beams(ox.model(graph), 4)
    short = ox.node("GroupQueryAttention", ["query", "source_last"], ["out"])
    with pytest.raises(RefusedError, match="another way"):
        with_beams(ox.model(ox.graph([short])), 4)


@given(st.integers(0, len(STEP) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_graph_is_rewritten_or_refused(place: int, byte: int, cut: bool) -> None:
    damaged = STEP[:place] if cut else STEP[:place] + bytes([byte]) + STEP[place + 1 :]
    with contextlib.suppress(RefusedError):
        if (written := with_beams(damaged, 4)) is not None:
            assert sum(len(one.whole) for one in fields(Message(written))) == len(written)


def test_a_step_is_opened_once_for_each_number_of_beams(backend: OrtBackend) -> None:
    assert backend.graph("step", 3).session is backend.graph("step", 3).session
    assert backend.graph("step", 3).session is not backend.graph("step").session
    stoppable, stop = backend.stoppable()
    assert stoppable.graph("step", 3).session is backend.graph("step", 3).session
    stop()


def test_a_bundle_is_loaded_for_its_own_beams_or_those_asked_for() -> None:
    own = Bundle.load(BUNDLE).backend
    asked = Bundle.load(BUNDLE, num_beams=4).backend
    assert own.loaded["step"].session is own.graph("step").session
    assert asked.loaded["step"].session is asked.graph("step", 4).session


def test_a_step_that_nobody_asked_for_gives_way() -> None:
    backend = Bundle.load(BUNDLE, num_beams="4").backend
    first = weakref.ref(backend.loaded["step"].session)
    assert backend.graph("step").session is backend.loaded["step"].session
    assert first() is None
    backend.graph("step", 4)
    assert backend.graph("step").session is backend.loaded["step"].session
    for beams in (-1, 1025, "many"):
        with pytest.raises(SettingsError, match="num_beams is"):
            Bundle.load(BUNDLE, num_beams=beams)


def test_a_step_that_has_changed_meanwhile_is_not_opened(tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy)
    bundle = Bundle.load(copy)
    before = bundle(["el tren"], num_beams=1)
    (copy / "step.onnx").write_bytes(STEP)
    with pytest.raises(BundleError, match=r"step\.onnx: has been changed"):
        bundle(["el tren"], num_beams=4)
    assert bundle(["el tren"], num_beams=1) == before
