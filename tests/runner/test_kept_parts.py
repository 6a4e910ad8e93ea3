"""Parts of an earlier start: taken for finished where they are what their records say."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.fakes import write_jsonl

import engine
from engine.demo import BUNDLE
from engine.errors import OutputError
from engine.runner.manifest import Manifest
from engine.runner.verify import verify

TEXTS = [f"{n}" for n in ("uno", "dos", "tres", "cuatro", "cinco", "seis")]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number in range(3):
        write_jsonl(tmp_path / "in" / f"{number}.jsonl", [*TEXTS, None])
    return tmp_path / "in"


def answer(corpus: Path, **settings: Any) -> engine.Report:
    return engine.run(BUNDLE, corpus, corpus.parent / "out", on_error="reject", **settings)


def parts(corpus: Path) -> list[Path]:
    return sorted((corpus.parent / "out").glob("part-*"))


def flip(file: Path) -> None:
    """Change a bit, and neither size nor date."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))


def test_a_part_with_another_date_and_equal_bytes_is_kept(corpus: Path) -> None:
    answer(corpus)
    for file in parts(corpus):
        os.utime(file, ns=(5, 5))
    again = answer(corpus)
    assert again.splits_skipped == 3
    assert not any("computed again" in note for note in again.notes)


def test_a_part_with_another_date_and_other_bytes_is_computed_again(corpus: Path) -> None:
    answer(corpus)
    file = parts(corpus)[1]
    before = file.read_bytes()
    flip(file)
    os.utime(file, ns=(5, 5))
    again = answer(corpus)
    assert again.splits_skipped == 2
    assert f"a part was computed again, being gone or changed since: {file.name}" in again.notes
    assert file.read_bytes() == before


@pytest.mark.parametrize("check_parts", [False, True])
def test_a_flipped_bit_under_the_old_date_is_found_on_request(
    corpus: Path, check_parts: bool
) -> None:
    answer(corpus)
    file = parts(corpus)[1]
    before = file.read_bytes()
    flip(file)
    again = answer(corpus, check_parts=check_parts)
    assert again.splits_skipped == (2 if check_parts else 3)
    assert (file.read_bytes() == before) is check_parts


def test_a_part_that_has_become_a_link_is_written_anew(corpus: Path) -> None:
    answer(corpus)
    file = parts(corpus)[0]
    elsewhere = corpus.parent / "elsewhere.arrow"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert answer(corpus).splits_skipped == 2
    assert not file.is_symlink()
    assert elsewhere.read_bytes() == file.read_bytes()


def test_records_without_a_date_count_by_size(corpus: Path) -> None:
    answer(corpus)
    for record in (corpus.parent / "out" / "_manifest").glob("part-*.json"):
        content = json.loads(record.read_text())
        del content["part"]["modified"], content["rejects"]["modified"]
        record.write_text(json.dumps(content))
    assert answer(corpus).splits_skipped == 3


def test_a_deep_check_reads_inputs_and_parts_again(corpus: Path) -> None:
    answer(corpus)
    out = corpus.parent / "out"
    assert verify(out, deep=True).problems == ()
    record = next(iter(sorted((out / "_manifest").glob("part-*.json"))))
    content = json.loads(record.read_text())
    content["counts"]["rows_in"] += 1
    record.write_text(json.dumps(content))
    (problem,) = [p for p in verify(out, deep=True).problems if "were read" in p]
    assert problem == f"{corpus / '0.jsonl'}: bytes 0 to {content['input']['stop']} have 7 rows, " \
        "and 8 were read"  # fmt: skip
    assert not any("were read" in p for p in verify(out).problems)


def test_a_deep_check_of_an_earlier_version_says_what_it_cannot_do(corpus: Path) -> None:
    answer(corpus)
    file = corpus.parent / "out" / "_manifest" / "run.json"
    content = json.loads(file.read_text())
    del content["inputs"]
    file.write_text(json.dumps(content))
    (problem,) = verify(corpus.parent / "out", deep=True).problems
    assert problem.startswith("run.json: is of an earlier version")


@pytest.mark.parametrize("times", [1, 3, 9])
def test_a_record_that_the_disk_does_not_give_is_not_taken_for_none(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Its part would be removed as one that no record names, beside a true-looking success."""
    answer(corpus)
    before = {file.name: file.read_bytes() for file in parts(corpus)}
    read_text, left = Path.read_text, [times]

    def failing(path: Path, *arguments: Any, **settings: Any) -> str:
        if path.suffix == ".json" and path.name.startswith("part-"):
            left[0] -= 1
            if not left[0]:
                raise OSError(errno.EIO, "Input/output error")
        return read_text(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", failing)
        with pytest.raises(OutputError, match="cannot be read: Input/output error"):
            [answer(corpus) for _ in range(9)]
    assert {file.name: file.read_bytes() for file in parts(corpus)} == before
    assert answer(corpus).rows_in == 21


def test_a_record_that_goes_while_a_run_answers_ends_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(corpus)

    def dropping(manifest: Manifest, *arguments: Any) -> Any:
        raise AssertionError("nothing is dropped")

    first = next(iter(sorted((corpus.parent / "out" / "_manifest").glob("part-*.json"))))
    finished = Manifest.finished

    def losing(manifest: Manifest, *arguments: Any) -> Any:
        entry = finished(manifest, *arguments)
        first.unlink(missing_ok=True)
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "finished", losing)
        patch.setattr(Manifest, "drop_surplus", dropping)
        with pytest.raises(OutputError, match="its record is gone"):
            answer(corpus)
    assert answer(corpus).rows_in == 21
