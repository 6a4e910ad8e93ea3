"""Corpora with a secret in every row, for `faults.canaries`: good, and bad in many ways."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW, ENVIRONMENT, ADDRESS = "zqrow", "zqenv", "zqurl"
SECRETS = {
    name: f"{ENVIRONMENT}{number}x"
    for number, name in enumerate((
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
        "GOOGLE_SERVICE_ACCOUNT_KEY", "OPENAI_API_KEY", "DATABASE_PASSWORD",
    ))
}  # fmt: skip
TEXT = f"{ROW}one, '{ROW}two' \"{ROW}three\" {ROW}four"


def lines_of(*rows: object) -> bytes:
    return b"".join(
        (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows
    )


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


def parquet_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue()


def arrow_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


ROWS = [{"text": f"{TEXT} {i}", "id": i, "note": f"{ROW}note{i}"} for i in range(6)]
GOOD = lines_of(*ROWS)
CORPORA = {
    "jsonl": {"a.jsonl": GOOD},
    "json": {"a.json": json.dumps(ROWS).encode()},
    "gz": {"a.jsonl.gz": gzip.compress(GOOD)},
    "csv": {"a.csv": b"text,id\n" + b"".join(f"{ROW}a {i},{i}\n".encode() for i in range(6))},
    "txt": {"a.txt": f"{TEXT}\n{TEXT}\n".encode()},
    "parquet": {"a.parquet": parquet_of(table_of(ROWS))},
    "arrow": {"a.arrow": arrow_of(table_of(ROWS))},
}
BAD_LINES: dict[str, bytes] = {
    "not text": lines_of({"text": 773177317731, "id": 1}),
    "null": lines_of({"text": None, "note": f"{ROW}null"}),
    "list": lines_of({"text": [TEXT], "id": 1}),
    "object": lines_of({"text": {"a": TEXT}, "id": 1}),
    "broken": f'{{"text": "{ROW}broken, "id": 1}}\n'.encode(),
    "cut": f'{{"text": "{ROW}cut'.encode(),
    "not an object": lines_of(f"{ROW}alone", [f"{ROW}list"]),
    "bytes": f'{{"text": "{ROW}bytes '.encode() + b'\xff\xfe", "id": 1}\n',
    "half a pair": b'{"text": "' + ROW.encode() + b' \\ud800", "id": 1}\n',
    "plain text": f"{ROW}plain text of a file\n".encode(),
    "twice": b'{"text": "' + ROW.encode() + b'1", "text": "' + ROW.encode() + b'2"}\n',
    "nested": b'{"text": "x", "note": ' + b"[" * 2000 + f'"{ROW}"'.encode() + b"]" * 2000 + b"}\n",
    "long number": b'{"text": "x", "id": ' + b"7731" * 2000 + b"}\n",
    "other types": lines_of({"text": "x", "id": f"{ROW}id"}, {"text": "x", "id": {"a": f"{ROW}"}}),
    "nul": lines_of({"text": f"{ROW}\0nul", "id": 1}, {"text": "x", "id": f"\0{ROW}"}),
    "not json": b"{'text': '" + ROW.encode() + b"', 'id': 1}\n",
    "infinity": b'{"text": NaN, "id": ' + ROW.encode() + b"}\n",
}
