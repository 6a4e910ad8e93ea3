"""Messages of Protocol Buffers, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.confined_process import RefusedError
from engine.runtime.wire import Message, field, fields, parts

NUMBERS = st.integers(1, 2**29 - 1)
VALUES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.binary())


@given(st.lists(st.tuples(NUMBERS, VALUES)))
def test_what_is_written_is_read(written: list[tuple[int, int | str | bytes]]) -> None:
    content = b"".join(field(number, value) for number, value in written)
    found = list(fields(Message(content)))
    assert b"".join(bytes(one.whole) for one in found) == content
    for (number, value), one in zip(written, found, strict=True):
        assert one.number == number
        if isinstance(value, int):
            assert one.value is None
            assert one.integer == value % 2**64
        else:
            assert bytes(one.value or b"") == (value.encode() if isinstance(value, str) else value)
    assert len(list(parts(Message(content)))) == sum(not isinstance(v, int) for _, v in written)


@given(st.binary())
def test_any_bytes_are_fields_or_refused(content: bytes) -> None:
    try:
        found = list(fields(Message(content)))
    except RefusedError:
        return
    assert sum(len(one.whole) for one in found) >= len(content)


@pytest.mark.parametrize("size", [1, 4, 8])
def test_a_message_that_is_cut_short_is_refused(size: int) -> None:
    content = field(1, "a text of a message")[:-size]
    with pytest.raises(RefusedError, match="cut short"):
        list(fields(Message(content)))
