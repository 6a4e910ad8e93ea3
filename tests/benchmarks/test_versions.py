"""One checkout of the engine beside another."""

from __future__ import annotations

from pathlib import Path

import pytest
from versions import ADAPTERS, HERE, adapter_of

from engine.errors import SettingsError


def test_this_checkout_takes_part_by_its_adapter() -> None:
    assert adapter_of(HERE.parent) == HERE / "peers/engine.py"


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_found_where_it_is_or_was(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert adapter_of(tmp_path) == tmp_path / name


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no adapter of the engine"):
        adapter_of(tmp_path)
