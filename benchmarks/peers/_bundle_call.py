"""The engine in memory as a contestant: `Bundle(...)` of a list of texts, as peers are called.

It is no peer of `run.py`, whose engine is a run from file to file; `in_memory.py` uses it.
"""

from collections.abc import Callable
from typing import Any

PACKAGES = ("onnxruntime", "tokenizers")
VARIANTS: dict[str, list[dict[str, Any]]] = {"fp32": [{}], "int8": [{}]}


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    from engine.pipeline import Bundle

    bundle = Bundle.load(job["bundle"], device="cpu", **setting)

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        table = bundle(texts, max_length=job["max_length"], **job["options"])
        return list(table[0].to_pylist())

    return call
