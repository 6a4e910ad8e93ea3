"""Notes that no longer apply are not printed."""

from __future__ import annotations

import dataclasses

import pytest

from engine.bundle import format as bundle_format
from engine.core.config import RunConfig
from engine.demo import BUNDLE
from engine.runner.report import notes


@pytest.mark.parametrize(
    "note",
    [
        "no prefix is put before the texts; the checkpoint has one for each of the tasks a, b",
        "the checkpoint names no prefix for translation_a_to_b: none is put before the texts",
    ],
)
def test_that_no_prefix_is_put_is_said_of_runs_without_one(note: str) -> None:
    bundle = dataclasses.replace(bundle_format.load(BUNDLE).description, notes=(note, "other"))
    config = RunConfig(keep=("id",))
    assert notes(bundle, config, "cpu", [], {}, [], {}) == (note, "other")
    config = dataclasses.replace(config, options={"prefix": "translate: "})
    assert notes(bundle, config, "cpu", [], {}, [], {}) == ("other",)
