"""What --overwrite removes and what it leaves, and links in an output folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.fakes import write_jsonl

import engine
from engine.demo import BUNDLE
from engine.errors import OtherRunError, OutputError
from engine.runner import clearing

TEXTS = ["uno", "dos", "tres", None]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number in range(3):
        write_jsonl(tmp_path / "in" / f"{number}.jsonl", TEXTS)
    return tmp_path / "in"


def answer(corpus: Path, **settings: Any) -> engine.Report:
    return engine.run(BUNDLE, corpus, corpus.parent / "out", on_error="reject", **settings)


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def test_what_is_not_the_run_s_own_stays(corpus: Path) -> None:
    answer(corpus)
    out = corpus.parent / "out"
    ours = ["notes.txt", "_manifest/notes.json", "rejects/mine.parquet", "_tmp/mine.txt"]
    ours += ["part-of-the-plan.md", "_manifest/rejects/mine.jsonl", ".huggingface.yaml"]
    for name in ours:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    answer(corpus, max_length=64, overwrite=True)
    kept = [name for name in ours if (out / name).is_file()]
    assert kept == [n for n in ours if n != "_tmp/mine.txt"]
    assert all((out / n).read_text() == "mine" for n in kept if n != ".huggingface.yaml")
    assert len(list(out.glob("part-*.arrow"))) == 3


def test_success_goes_first_and_each_record_before_its_part(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is stopped: no success, and each part that has a record is there."""
    answer(corpus)
    out = corpus.parent / "out"
    undisturbed = {p.name: p.read_bytes() for p in out.glob("part-*")}
    unlink, left = Path.unlink, [0]

    def stopping(path: Path, missing_ok: bool = False) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    points = 0
    while True:
        answer(corpus)
        with monkeypatch.context() as patch:
            left[0] = points
            patch.setattr(Path, "unlink", stopping)
            try:
                clearing.clear(out, engine.runner.manifest.Manifest(out).entries(), [])  # type: ignore[attr-defined]  # a submodule
            except KeyboardInterrupt:
                pass
            else:
                break
        if points:
            assert not (out / "_SUCCESS").exists()
        for record in (out / "_manifest").glob("part-*.json"):
            assert (out / json.loads(record.read_text())["part"]["file"]).is_file()
        points += 1
    assert points > 10
    answer(corpus)
    assert {p.name: p.read_bytes() for p in out.glob("part-*")} == undisturbed


def test_nothing_is_removed_where_not_everything_can_be(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(corpus)
    out = corpus.parent / "out"
    before = tree(out)
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: Path(p).name != "rejects" and access(p, m))
    with pytest.raises(OutputError, match=r"rejects: may not be written; nothing was removed"):
        answer(corpus, max_length=64, overwrite=True)
    assert tree(out) == before


def test_nothing_is_removed_for_a_run_that_is_refused(corpus: Path) -> None:
    answer(corpus)
    out = corpus.parent / "out"
    before = tree(out)
    wrong: list[dict[str, Any]] = [{"keep": "none"}, {"max_length": -1}, {"limit": "x"}]
    for settings in wrong:
        with pytest.raises(engine.EngineError):
            answer(corpus, overwrite=True, **settings)
    (out / "_manifest" / "run.json").rename(out.parent / "run.json")
    with pytest.raises(OtherRunError):
        answer(corpus, overwrite=True)
    (out.parent / "run.json").rename(out / "_manifest" / "run.json")
    assert tree(out) == before


@pytest.mark.parametrize("name", ["_manifest", "_manifest/rejects", "_tmp", "rejects"])
def test_a_folder_of_the_run_that_is_a_link_is_refused(corpus: Path, name: str) -> None:
    answer(corpus)
    out, elsewhere = corpus.parent / "out", corpus.parent / "elsewhere"
    if (out / name).exists():
        (out / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (elsewhere / "part-00000-x.journal").write_text("mine")
    before = tree(elsewhere)
    (out / name).symlink_to(elsewhere)
    for settings in ({}, {"overwrite": True, "max_length": 64}):
        with pytest.raises(OutputError, match="is a symbolic link, and a run follows none"):
            answer(corpus, **settings)  # type: ignore[arg-type]  # of two types
    assert tree(elsewhere) == before


@pytest.mark.parametrize(
    "name",
    [
        "_SUCCESS", "._SUCCESS.tmp", "_manifest/run.json", "_manifest/.run.json.tmp",
        "_manifest/.lock", "_tmp/0", ".huggingface.yaml", "part", "rejects of it", "record of it",
        "journal of it",
    ],
)  # fmt: skip
def test_a_planted_link_is_not_written_through(corpus: Path, name: str) -> None:
    answer(corpus)
    out, target = corpus.parent / "out", corpus.parent / "target"
    part = next(iter(sorted(out.glob("part-*"))))
    link = {
        "part": part,
        "rejects of it": out / "_manifest/rejects" / f"{part.stem}.jsonl",
        "record of it": out / "_manifest" / f"{part.stem}.json",
        "journal of it": out / "_tmp" / f"{part.stem}.journal",
    }.get(name, out / name)
    target.write_text("mine")
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    try:
        answer(corpus, max_length=64, overwrite=True)
    except engine.EngineError as error:
        assert error.hint  # noqa: PT017  # either end is right
    assert target.read_text() == "mine"


def test_an_output_folder_may_be_a_link(corpus: Path) -> None:
    (corpus.parent / "place").mkdir()
    (corpus.parent / "out").symlink_to(corpus.parent / "place")
    assert answer(corpus).exit_code == 3
    assert answer(corpus).splits_skipped == 3


@pytest.mark.parametrize(
    "file", ["../target", "/etc/hostname", "notes.txt", "a/part-00000-x.arrow"]
)
def test_a_record_that_names_other_files_is_none(corpus: Path, file: str) -> None:
    answer(corpus)
    out = corpus.parent / "out"
    (corpus.parent / "target").write_text("mine")
    (out / "notes.txt").write_text("mine")
    record = next(iter(sorted((out / "_manifest").glob("part-*.json"))))
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "part": {**content["part"], "file": file}}))
    answer(corpus, max_length=64, overwrite=True)
    assert (corpus.parent / "target").read_text() == "mine"
    assert (out / "notes.txt").read_text() == "mine"
