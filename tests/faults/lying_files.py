"""Small Parquet and Arrow files whose metadata claims more than they hold.

The Parquet files are written byte by byte, in Thrift's compact protocol: no library writes such.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence

import pyarrow as pa

_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_PLAIN, _DICTIONARY, _RLE = 0, 2, 3
_UNCOMPRESSED, _SNAPPY = 0, 1


def _varint(number: int) -> bytes:
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    return bytes([*pieces, number])


def _number(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _text(value: bytes) -> bytes:
    return _varint(len(value)) + value


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    """A struct of (id, type, content), by id."""
    content, before = b"", 0
    for number, kind, value in fields:
        content += bytes([(number - before) << 4 | kind]) + value
        before = number
    return content + b"\0"


def _list(kind: int, values: Sequence[bytes], claimed: int | None = None) -> bytes:
    size = len(values) if claimed is None else claimed
    head = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + _varint(size)
    return head + b"".join(values)


def _page(kind: int, content: bytes, values: int, encoding: int, claimed: int | None) -> bytes:
    """A page, of so many bytes before its compression as claimed."""
    header = [(1, _I32, _number(values)), (2, _I32, _number(encoding))]
    if kind == 0:
        header += [(3, _I32, _number(_RLE)), (4, _I32, _number(_RLE))]
    size = len(content) if claimed is None else claimed
    head = _struct(
        (1, _I32, _number(kind)),
        (2, _I32, _number(size)),
        (3, _I32, _number(len(content))),
        (7 if kind else 5, _STRUCT, _struct(*header)),
    )
    return head + content


def parquet(
    rows: int = 3,
    run: int | None = None,
    text: bytes = b"text",
    texts: int = 1,
    page_size: int | None = None,
    text_size: int | None = None,
    columns: int | None = None,
    name_size: int | None = None,
) -> bytes:
    """A file with the column `text`, of one text that a dictionary holds.

    Args:
        rows: As the metadata claims.
        run: How often the text comes; as there are rows unless given.
        text: The text.
        texts: Texts that the dictionary claims to have.
        page_size: Bytes of the page before its compression, as claimed.
        text_size: Bytes of the text as claimed.
        columns: Columns as the list in the metadata claims.
        name_size: Bytes of the column's name as claimed.
    """
    values = min(rows, (1 << 31) - 1)
    entry = struct.pack("<I", len(text) if text_size is None else text_size) + text
    dictionary = _page(2, entry, texts, _PLAIN, None)
    run_length = _varint((values if run is None else run) << 1)
    data = _page(0, b"\x01" + run_length + b"\x00", values, 8, page_size)
    start = 4
    codec = _UNCOMPRESSED if page_size is None else _SNAPPY
    size = _number(len(dictionary) + len(data))
    column = _struct(
        (1, _I32, _number(6)),
        (2, _LIST, _list(_I32, [_number(_PLAIN), _number(8)])),
        (3, _LIST, _list(_BINARY, [_text(b"text")])),
        (4, _I32, _number(codec)),
        (5, _I64, _number(rows)),
        (6, _I64, size),
        (7, _I64, size),
        (9, _I64, _number(start + len(dictionary))),
        (11, _I64, _number(start)),
    )
    group = _struct(
        (1, _LIST, _list(_STRUCT, [_struct((2, _I64, _number(start)), (3, _STRUCT, column))])),
        (2, _I64, size),
        (3, _I64, _number(rows)),
    )
    name = _text(b"text") if name_size is None else _varint(name_size) + b"text"
    root = _struct((4, _BINARY, _text(b"schema")), (5, _I32, _number(1)))
    leaf = _struct((1, _I32, _number(6)), (3, _I32, _number(0)), (4, _BINARY, name),
                   (6, _I32, _number(0)))  # fmt: skip
    footer = _struct(
        (1, _I32, _number(1)),
        (2, _LIST, _list(_STRUCT, [root, leaf], columns)),
        (3, _I64, _number(rows)),
        (4, _LIST, _list(_STRUCT, [group])),
    )
    tail = footer + struct.pack("<I", len(footer)) + b"PAR1"
    return b"PAR1" + dictionary + data + tail


PARQUET = {
    "rows_2_40": parquet(2**40),
    "rows_2_40_of_3": parquet(2**40, run=3),
    "rows_2_62": parquet(2**62),
    "rows_negative": parquet(-1, run=3),
    "run_of_10_9": parquet(10**9),
    "run_of_10_9_of_a_kib": parquet(10**9, text=b"x" * 1024),
    "run_of_2_30": parquet(3, run=2**30),
    "dictionary_of_2_31": parquet(texts=2**31 - 1),
    "page_of_2_gib": parquet(page_size=2**31 - 1),
    "page_negative": parquet(page_size=-1),
    "text_of_4_gib": parquet(text_size=2**32 - 1),
    "columns_2_31": parquet(columns=2**31 - 1),
    "columns_900_000": parquet(columns=900_000),
    "name_of_2_gib": parquet(name_size=2**31 - 1),
    "name_of_90_mb": parquet(name_size=90_000_000),
}


def arrow(*, is_file: bool) -> bytes:
    """A small Arrow file or stream with texts, numbers and lists."""
    table = pa.table({"text": ["a", None, "ccc"], "id": [1, 2, 3], "tags": [["a"], [], None]})
    sink = io.BytesIO()
    with (pa.ipc.new_file if is_file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def lying_arrow(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(place, content) with another large number at each place of a small one, 64 or 32 bits."""
    values = (2**40, 2**62, -1)
    for place in range(8, len(content) - 8, 8):
        if 0 < struct.unpack_from("<q", content, place)[0] <= 4 * len(content):
            lie = struct.pack("<q", values[place // 8 % 3])
            yield place, content[:place] + lie + content[place + 8 :]
    for place in range(8, len(content) - 4, 4):
        if 0 < struct.unpack_from("<i", content, place)[0] <= 4 * len(content):
            yield place, content[:place] + struct.pack("<i", 2**30) + content[place + 4 :]
