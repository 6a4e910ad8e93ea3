"""Numbers of new tokens that may depend on the length of a text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.token_limit import TokenLimit
from engine.errors import SettingsError


@pytest.mark.parametrize(
    ("value", "setting", "of_ten"),
    [
        (48, 48, 48),
        ("48", 48, 48),
        ("x", "x", 10),
        ("2x", "2x", 20),
        ("1.5x+10", "1.5x+10", 25),
        ("10 + 1.5 x", "1.5x+10", 25),
        ("0.33x", "0.33x", 3),
        ("1.1x", "1.1x", 11),
        ("50-x", "50-x", 40),
        ("-x+50", "50-x", 40),
        ("+x+1", "x+1", 11),
        ("3-x", "3-x", 1),
        ("1x-9", "x-9", 1),
        ("-2x", "-2x+0", 1),
    ],
)
def test_what_is_read(value: int | str, setting: int | str, of_ten: int) -> None:
    limit = TokenLimit.of(value)
    assert limit.setting == setting
    assert limit.of_rows(np.array([10]), least=1).tolist() == [of_ten]


@pytest.mark.parametrize(
    "value", ["", "x+x", "1+1", "2y", "x5", "1.5", "x+1.5", "--x", "x+", "٣x", "-5", "0x", 0, 1.5]
)
def test_what_is_refused_by_name(value: object) -> None:
    with pytest.raises(SettingsError, match="max_new_tokens is") as caught:
        TokenLimit.of(value)
    assert caught.value.hint
    for good in ("1.5x+10", "2x", "100-x"):
        assert TokenLimit.of(good).setting == good


@given(st.integers(-400, 400).filter(bool), st.integers(-500, 500), st.lists(st.integers(1, 999)))
def test_a_setting_is_read_as_the_limit_it_was_made_from(
    hundredths: int, constant: int, lengths: list[int]
) -> None:
    limit = TokenLimit(hundredths / 100, constant)
    again = TokenLimit.of(limit.setting)
    rows = np.array(lengths, np.int64)
    assert again.setting == limit.setting
    assert again.of_rows(rows).tolist() == limit.of_rows(rows).tolist()
    exact = [max(0, (hundredths * n + 100 * constant) // 100) for n in lengths]
    assert limit.of_rows(rows).tolist() == exact
