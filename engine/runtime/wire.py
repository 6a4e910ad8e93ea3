"""Protocol Buffers, of which an ONNX file is one: fields of a number, a kind and a value.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from engine.core.confined_process import RefusedError

Message = memoryview


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: Its number.
        value: Its bytes; None where it is a number.
        integer: That number, 0 where it is none or no whole one.
        whole: The bytes that it takes up in its message.
    """

    number: int
    value: Message | None
    integer: int
    whole: Message


def fields(message: Message) -> Iterator[Field]:
    """The fields of a message.

    Raises:
        RefusedError: It is cut short, or is no message.
    """
    place, end = 0, len(message)
    while place < end:
        start, value, integer = place, None, 0
        tag, place = _varint(message, place)
        tag &= 2**32 - 1  # as readers do that take it for 32 bits
        kind = tag & 7
        if kind == 0:
            integer, place = _varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            size, place = _varint(message, place)
            if size > end - place:
                raise RefusedError("is cut short, or is no ONNX model")
            value = message[place : place + size]
            place += size
        else:
            raise RefusedError("is no ONNX model")
        yield Field(tag >> 3, value, integer, message[start:place])


def parts(message: Message) -> Iterator[tuple[int, Message]]:
    """Number and bytes of those fields that are no numbers."""
    for one in fields(message):
        if one.value is not None:
            yield one.number, one.value


def field(number: int, value: bytes | str | int) -> bytes:
    """A field as bytes: a number, a text, or another message."""
    if isinstance(value, int):
        return _encoded(number << 3) + _encoded(value % 2**64)
    content = value.encode() if isinstance(value, str) else value
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _varint(message: Message, place: int) -> tuple[int, int]:
    """A number of up to ten groups of seven bits, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise RefusedError("is cut short, or is no ONNX model")
        group = message[place]
        place += 1
        number |= (group & 127) << shift
        if group < 128:
            return number, place
    raise RefusedError("is no ONNX model")


def _encoded(number: int) -> bytes:
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])
