"""What killed runs leave without a record or without its name, and what of it later runs remove."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fakes import make_bundle, open_bundle, write_jsonl

import engine
from engine.runner.report import Report

LEFT = (
    "._SUCCESS.tmp", "..huggingface.yaml.tmp", "_manifest/.run.json.tmp",
    "_manifest/.part-00000-gone.json.tmp", "_tmp/part-00000-gone.arrow",
)  # fmt: skip
USERS = (
    "part-x.txt", "part-1-a.arrow", "part-00000-a.txt", ".notes.tmp",
    "part-00000-folder.arrow/mine.txt", "_manifest/mine.tmp",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in "abc":
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", ["w1 w2", None, "w3"])
    return tmp_path / "in"


def go(corpus: Path) -> Report:
    folder = corpus.parent / "bundle"
    bundle = open_bundle(folder if folder.exists() else make_bundle(folder))
    return engine.run(bundle, corpus, corpus.parent / "out", on_error="reject")


def files(out: Path) -> dict[str, bytes]:
    names = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in names}
    return {name: data for name, data in files.items() if "/starts/" not in name}


def write(out: Path, *names: str) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")


def unrecord(out: Path, name: str) -> str:
    """Take away the record of a part, as if its run was killed before it was written."""
    (record,) = (out / "_manifest").glob(f"part-00000-{name}-*.json")
    record.unlink()
    (out / "_SUCCESS").unlink()
    return f"{record.stem}.arrow"


def test_a_part_without_a_record_goes_before_the_run_succeeds(corpus: Path) -> None:
    out = corpus.parent / "out"
    go(corpus)
    part = unrecord(out, "b")
    (corpus / "b.jsonl").unlink()
    report = go(corpus)
    assert not list(out.rglob("*-b-*"))
    assert len(report.files) == len(list(out.glob("part-*"))) == 2
    assert f"removed a part that no record names, as killed runs leave: {part}" in report.notes


def test_a_part_of_another_format_is_no_part_of_the_run(corpus: Path) -> None:
    out = corpus.parent / "out"
    go(corpus)
    parts = sorted(out.glob("part-*"))
    for part in parts:
        part.with_suffix(".parquet").write_bytes(b"of a killed run with other settings")
    (out / "_SUCCESS").unlink()
    report = go(corpus)
    assert sorted(out.glob("part-*")) == parts
    assert any(note.startswith("removed 3 parts that no record names") for note in report.notes)


def test_a_part_without_a_record_whose_input_is_there_is_computed_again(corpus: Path) -> None:
    out = corpus.parent / "out"
    before = go(corpus)
    expected = files(out)
    unrecord(out, "b")
    report = go(corpus)
    assert report.files == before.files
    assert not any("no record" in note for note in report.notes)
    parts = {name: data for name, data in expected.items() if "part-" in name[:5]}
    assert parts.items() <= files(out).items()


def test_a_link_named_as_a_part_goes_and_its_target_stays(corpus: Path) -> None:
    out, target = corpus.parent / "out", corpus.parent / "target.arrow"
    go(corpus)
    target.write_text("mine")
    (out / "part-00000-link.arrow").symlink_to(target)
    (out / "_SUCCESS").unlink()
    go(corpus)
    assert not (out / "part-00000-link.arrow").is_symlink()
    assert target.read_text() == "mine"


def test_what_a_killed_run_was_writing_goes_and_other_files_stay(corpus: Path) -> None:
    out = corpus.parent / "out"
    go(corpus)
    expected = set(files(out))
    write(out, *LEFT, *USERS)
    go(corpus)
    assert set(files(out)) == expected | set(USERS)
