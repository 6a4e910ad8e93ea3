"""Listing a folder looks at no file whose name says all, and finds what looking at each would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data import folder_listing
from engine.data.discovery import find_files
from engine.data.folder_listing import Search
from engine.data.kinds import ENDINGS, kind_of_name
from engine.data.lake_tables import Tables
from engine.data.outputs import in_order

PARTS = st.sampled_from(["a", "b", "json", "jsonl", "gz", "csv", "PARQUET", "txt", "", "zst", "1"])


@given(st.lists(PARTS, min_size=1, max_size=5).map(".".join))
def test_the_kind_by_name_is_that_of_the_ending(name: str) -> None:
    by_ending = next((k for end, k in ENDINGS.items() if name.lower().endswith(end)), None)
    assert kind_of_name(name) == by_ending


@given(
    st.lists(st.lists(st.text("ab.-\x01é", min_size=1, max_size=3), min_size=1, max_size=4))
    .map(lambda paths: ["/" + "/".join(path) for path in paths])
)  # fmt: skip
def test_paths_are_in_the_order_of_their_parts(paths: list[str]) -> None:
    assert in_order(paths) == sorted(paths, key=lambda path: path.split("/"))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_only_what_a_name_does_not_tell_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    plain = ["a.parquet", "b.jsonl.gz", "sub/c.csv", "sub/deep/d.arrow"]
    doubtful = ["e.json", "f.txt", "g", "README.md"]
    touch(folder, *plain, *doubtful, ".hidden.parquet", "_x/y.parquet", "sub/.z.csv")
    (folder / "link.parquet").symlink_to(folder / "a.parquet")
    (folder / "gone.csv").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.csv")
    search = Search("", Tables())
    found = dict(search.below(folder))
    names = {os.path.relpath(path, folder): why for path, why in found.items()}
    assert names == {
        **dict.fromkeys(plain, ""), "e.json": "", "f.txt": "", "link.parquet": "",
        "g": "names without an ending", "README.md": ".md", "gone.csv": "links to nothing",
        "pipe.csv": "special files",
    }  # fmt: skip
    looked_at = {os.path.relpath(path, folder) for path in search.looked_at}
    assert looked_at == {*doubtful, "link.parquet", "gone.csv", "pipe.csv"}


def test_what_a_folder_says_of_its_files_is_heeded(tmp_path: Path) -> None:
    """An output that is one file, the shards of a dataset, and a run's own folder."""
    folder = tmp_path / "in"
    touch(folder, "a.parquet", "out.parquet", ".out.parquet.run/_manifest/run.json")
    touch(folder, "saved/data.arrow", "saved/cache.arrow", "run/_manifest/run.json", "run/p.arrow")
    (folder / "saved" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    found = {os.path.relpath(p, folder): why for p, why in Search("", Tables()).below(folder)}
    assert found == {
        "a.parquet": "",
        "out.parquet": "outputs of other runs",
        "run": "outputs of other runs",
        "saved/data.arrow": "",
        "saved/cache.arrow": "files that a dataset does not list",
        "saved/state.json": ".json",
    }


def test_files_of_a_folder_are_not_looked_at_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    touch(folder, *(f"{n // 10}/{n:03}.parquet" for n in range(50)))
    calls: list[str] = []
    stat, lstat = os.stat, os.lstat

    def counted(real: Any) -> Any:
        def look(path: Any, *arguments: Any, **more: Any) -> Any:
            calls.append(str(path))
            return real(path, *arguments, **more)

        return look

    monkeypatch.setattr(os, "stat", counted(stat))
    monkeypatch.setattr(os, "lstat", counted(lstat))
    files = find_files([folder])
    monkeypatch.undo()
    assert [file.name for file in files] == [f"{n // 10}/{n:03}.parquet" for n in range(50)]
    assert [file.path for file in files] == [folder / file.name for file in files]
    assert not [path for path in calls if path.endswith(".parquet")]


def test_a_folder_that_cannot_be_listed_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.csv", "closed/b.csv")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(folder_listing.os, "scandir", refusing)
    assert [file.name for file in find_files([tmp_path])] == ["a.csv"]
