"""What passes over large files found is used again for the same file, and never for another."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes import corpus_files

from engine import data
from engine.core.types import TEXT
from engine.data import json_types, schema_cache


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(schema_cache, "LEAST", 1)
    monkeypatch.setattr(schema_cache, "_SETTLED_NS", 0)
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "t", "id": 1}\n' * 3)
    return path


def settled(path: Path, cache: Path, keep: tuple[str, ...] = ("id",)) -> tuple[pa.Schema, int]:
    """The types of the kept columns, and how many chunks were passed over for them."""
    passed: list[int] = []
    widen = json_types._widen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_types, "_widen", lambda *args: (passed.append(1), widen(*args)))
        kept = data.SchemaCache(cache)
        columns = data.settle(corpus_files([path]), [TEXT], keep, cache=kept)
    cache.write_text(kept.text())
    return columns.kept, len(passed)


def test_a_file_is_passed_over_once(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "schema.json"
    first, passed = settled(corpus, cache)
    assert passed == 1
    for _ in range(2):
        again, passed = settled(corpus, cache)
        assert (again, passed) == (first, 0)
    assert settled(corpus, cache, ("all",))[1] == 1
    assert settled(corpus, cache, ("all",))[1] == 0


def _append(path: Path) -> None:
    with path.open("a") as stream:
        stream.write('{"text": "t", "id": 0.5}')


def _rewrite_with_its_dates(path: Path) -> None:
    status = path.stat()
    path.write_text(path.read_text().replace("1", "5"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_text(path.read_text().replace("1", "2"))
    other.replace(path)


@pytest.mark.parametrize("change", [_append, _rewrite_with_its_dates, _replace])
def test_a_changed_file_is_passed_over_again(
    corpus: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    cache = tmp_path / "schema.json"
    settled(corpus, cache)
    time.sleep(0.02)  # a tick of the clock of files
    change(corpus)
    assert settled(corpus, cache)[1] > 0


def test_a_file_changed_just_now_is_passed_over_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_cache, "_SETTLED_NS", 10**12)
    cache = tmp_path / "schema.json"
    assert [settled(corpus, cache)[1] for _ in range(2)] == [1, 1]
    assert cache.read_text() == ""


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"x": 5}', "cut", "values"])
def test_damage_is_as_good_as_nothing(corpus: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "schema.json"
    first, _ = settled(corpus, cache)
    content = json.loads(cache.read_text())
    if damage == "cut":
        damage = json.dumps({key: text[:-8] for key, text in content.items()})
    if damage == "values":
        damage = json.dumps(dict.fromkeys(content, "AAAA"))
    cache.write_text(damage)
    assert settled(corpus, cache) == (first, 1)
