"""What has finished, in whose folder: kept, refused or cleared, and nobody else's files touched."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from engine.data import OutputFile
from engine.errors import OtherRunError, OutputError
from engine.runner.manifest import Manifest
from engine.runner.records import COUNTS, Entry, InputRecord, total

RUN = {"settings": {"limit": 0, "text": ["text"]}, "bundle": "b1", "fingerprint": "f1"}
PART = "part-00000-x.arrow"
INPUT = InputRecord(
    path="/data/x.jsonl", start=0, stop=9, first_row=0, sha256="s1", limit=0, columns="c1"
)


def other(**settings: object) -> dict[str, Any]:
    return {**RUN, "settings": RUN["settings"] | settings, "fingerprint": "f2"}  # type: ignore[operator]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def entry(out: Path, part: str = PART, *, rejects: bool = False) -> Entry:
    """A record whose files are there."""
    out.mkdir(parents=True, exist_ok=True)
    (out / part).write_bytes(b"answers")
    named = OutputFile("_manifest/rejects/part-00000-x.jsonl", 3, "h2") if rejects else None
    if named:
        (out / "_manifest/rejects").mkdir(parents=True, exist_ok=True)
        (out / named.file).write_bytes(b"bad")
    return Entry(
        part=OutputFile(part, 7, "h1"),
        rejects=named,
        input=INPUT,
        fingerprint="f1",
        counts=dict.fromkeys(COUNTS, 2),
        device="cpu",
        seconds=0.5,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """An output folder with one finished part."""
    manifest = Manifest(tmp_path / "out")
    with manifest.held():
        manifest.begin(RUN, {PART}, overwrite=False)
        manifest.commit(entry(manifest.out, rejects=True))
        manifest.succeed({"files": [PART]})
    return manifest


def test_a_record_comes_back_as_it_was_committed(manifest: Manifest) -> None:
    assert manifest.entry(PART) == entry(manifest.out, rejects=True)
    assert manifest.entries() == [entry(manifest.out, rejects=True)]
    assert manifest.read_run() == RUN
    assert total(manifest.entries()) == dict.fromkeys(COUNTS, 2)


def test_the_same_run_continues(manifest: Manifest) -> None:
    before = tree(manifest.out)
    for overwrite in (False, True):
        with manifest.held():
            manifest.begin(RUN, {PART, "part-00000-y.arrow"}, overwrite=overwrite)
    assert tree(manifest.out) == before
    assert manifest.finished(PART, "f1", INPUT) == manifest.entry(PART)


@pytest.mark.parametrize(
    ("fingerprint", "input_record"),
    [
        ("f2", INPUT),
        ("f1", dataclasses.replace(INPUT, sha256="s2")),
        ("f1", dataclasses.replace(INPUT, stop=10)),
        ("f1", dataclasses.replace(INPUT, limit=5)),
        ("f1", dataclasses.replace(INPUT, first_row=5)),
        ("f1", dataclasses.replace(INPUT, columns="c2")),
    ],
)
def test_another_fingerprint_or_input_is_not_done(
    manifest: Manifest, fingerprint: str, input_record: dict[str, Any]
) -> None:
    assert manifest.finished(PART, fingerprint, input_record) is None


@pytest.mark.parametrize("file", [PART, "_manifest/rejects/part-00000-x.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"answers and more"])
def test_a_file_that_is_gone_or_of_another_size_is_not_done(
    manifest: Manifest, file: str, content: bytes | None
) -> None:
    if content is None:
        (manifest.out / file).unlink()
    else:
        (manifest.out / file).write_bytes(content)
    assert manifest.finished(PART, "f1", INPUT) is None


def damaged(whole: dict[str, Any]) -> list[bytes]:
    contents: list[Any] = [[], {}, "part", 7, None, {**whole, "more": 1}]
    contents += [{n: v for n, v in whole.items() if n != name} for name in whole]
    contents += [{**whole, "part": odd} for odd in (None, [], {}, {"file": PART}, "x")]
    contents += [{**whole, "counts": odd} for odd in (None, [], {}, {"rows_in": 2})]
    contents += [{**whole, "counts": dict.fromkeys(COUNTS, "2")}]
    contents += [{**whole, "input": odd} for odd in (None, [], {}, {"sha256": "s1"})]
    contents += [{**whole, "rejects": odd} for odd in ([1], {"file": "x"}, "x")]
    return [b"", b"{", b"\xff\xfe", *(json.dumps(c).encode() for c in contents)]


def test_a_damaged_record_is_not_done_and_no_crash(manifest: Manifest) -> None:
    for content in damaged(dataclasses.asdict(entry(manifest.out))):
        (manifest.folder / "part-00000-x.json").write_bytes(content)
        assert manifest.entry(PART) is None, content
        assert manifest.finished(PART, "f1", INPUT) is None
        assert manifest.entries() == []
        with manifest.held():
            manifest.begin(RUN, {PART}, overwrite=False)


def test_forget_takes_the_record_its_files_and_the_success_back(manifest: Manifest) -> None:
    manifest.forget(PART)
    assert sorted(tree(manifest.out)) == [
        ".huggingface.yaml",
        "_manifest/.lock",
        "_manifest/run.json",
    ]
    manifest.forget(PART)


def test_a_second_run_at_the_same_time_is_refused(manifest: Manifest) -> None:
    with manifest.held():
        second = Manifest(manifest.out).held()
        with pytest.raises(OutputError, match="another run is writing here") as caught:
            second.__enter__()
        assert "-o" in caught.value.hint
    with Manifest(manifest.out).held():
        pass


def test_the_lock_goes_with_an_error(manifest: Manifest) -> None:
    with pytest.raises(KeyboardInterrupt), manifest.held():
        raise KeyboardInterrupt
    with manifest.held():
        pass


def test_other_settings_are_refused_and_named(manifest: Manifest) -> None:
    before = tree(manifest.out)
    with manifest.held(), pytest.raises(OtherRunError) as caught:
        manifest.begin(other(limit=5), {PART}, overwrite=False)
    assert "limit 0 (now 5)" in caught.value.message
    assert "text" not in caught.value.message.replace(str(manifest.out), "")
    assert "--overwrite" in caught.value.hint
    assert caught.value.exit_code == 2
    assert tree(manifest.out) == before


def test_another_bundle_is_refused_and_named(manifest: Manifest) -> None:
    with manifest.held(), pytest.raises(OtherRunError, match='bundle "b1" \\(now "b2"\\)'):
        manifest.begin({**RUN, "bundle": "b2", "fingerprint": "f2"}, {PART}, overwrite=False)


def test_answers_for_an_input_that_is_not_named_now_are_refused(manifest: Manifest) -> None:
    with manifest.held(), pytest.raises(OtherRunError, match=r"/data/x\.jsonl") as caught:
        manifest.begin(RUN, {"part-00000-y.arrow"}, overwrite=False)
    assert "name its inputs" in caught.value.hint


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.docx", "part-00000-x.arrow", ".hidden", "sub/file.txt"])
def test_a_foreign_folder_is_refused_and_left_untouched(
    tmp_path: Path, overwrite: bool, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (there,) = tmp_path.iterdir()
    manifest = Manifest(tmp_path)
    with pytest.raises(OtherRunError, match=there.name), manifest.held():
        manifest.begin(RUN, {PART}, overwrite=overwrite)
    assert list(tmp_path.iterdir()) == [there]
    assert tree(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_whose_run_cannot_be_read_is_left_as_it_is(
    manifest: Manifest, overwrite: bool
) -> None:
    (manifest.folder / "run.json").write_text("{ half")
    before = tree(manifest.out)
    with manifest.held(), pytest.raises(OtherRunError, match="not a run's output"):
        manifest.begin(RUN, {PART}, overwrite=overwrite)
    assert tree(manifest.out) == before


def test_parts_of_a_file_that_has_fewer_splits_now_are_forgotten(manifest: Manifest) -> None:
    part = "part-00003-x.arrow"
    manifest.commit(entry(manifest.out, part))
    with manifest.held():
        manifest.begin(RUN, {PART}, overwrite=False)
    assert [e.part.file for e in manifest.entries()] == [PART]
    assert not (manifest.out / part).exists()


def test_an_empty_or_missing_folder_is_input_record(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        manifest = Manifest(tmp_path / name)
        with manifest.held():
            manifest.begin(RUN, {PART}, overwrite=False)
        assert manifest.read_run() == RUN


def test_what_a_killed_run_left_half_written_is_cleared(manifest: Manifest) -> None:
    (manifest.out / "_tmp/_manifest/rejects").mkdir(parents=True)
    (manifest.out / "_tmp/part-00000-x.arrow").write_bytes(b"half")
    (manifest.out / "_tmp/_manifest/rejects/part-00000-x.jsonl").write_bytes(b"half")
    with manifest.held():
        manifest.begin(RUN, {PART}, overwrite=False)
    assert not (manifest.out / "_tmp").exists()


def test_overwrite_clears_what_runs_write_and_nothing_else(manifest: Manifest) -> None:
    mine = {
        "notes.txt": b"mine",
        "part-list.txt": b"mine",
        "part-time/x.arrow": b"mine",
        "_manifest_old/x.json": b"mine",
    }
    for name, content in mine.items():
        (manifest.out / name).parent.mkdir(exist_ok=True)
        (manifest.out / name).write_bytes(content)
    (manifest.out / "part-00012-lost.parquet").write_bytes(b"without a record")
    with manifest.held():
        manifest.begin(other(limit=5), {PART}, overwrite=True)
    left = tree(manifest.out)
    assert left.pop("_manifest/.lock") == b""
    # No record names it: it goes before the run succeeds.
    assert left.pop("part-00012-lost.parquet") == b"without a record"
    assert json.loads(left.pop("_manifest/run.json")) == other(limit=5)
    assert b"part-*.arrow" in left.pop(".huggingface.yaml")
    assert left == mine


def test_an_output_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"), Manifest(tmp_path / "out").held():
        pass


def test_a_folder_that_cannot_be_written_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **named: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="Read-only"), Manifest(tmp_path / "out").held():
        pass
