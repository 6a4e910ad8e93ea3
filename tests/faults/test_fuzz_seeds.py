"""The seeds of the fuzzing, each through its oracle, without the fuzzer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from faults.fuzzing import SEEDS, TARGETS

FILES = sorted(file for name in TARGETS for file in (SEEDS / name).iterdir())


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}-{file.name}" for file in FILES])
def test_an_oracle_has_nothing_to_say_of_a_seed(file: Path) -> None:
    importlib.import_module(f"faults.{file.parent.name}").check(file.read_bytes())


def test_every_target_has_seeds() -> None:
    for name in TARGETS:
        assert any(file.parent.name == name for file in FILES)
