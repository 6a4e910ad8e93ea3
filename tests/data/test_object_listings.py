"""Which objects a URL stands for: those that a local copy would be read of, in its order."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.object_stores import Store, server, store

from engine import data
from engine.data.key_patterns import matches
from engine.errors import InputError

__all__ = ["server", "store"]
KEYS = {
    "in/b.jsonl": b"{}\n",
    "in/a.jsonl": b"{}\n",
    "in/a-b/x.jsonl": b"{}\n",
    "in/a/x.jsonl": b"{}\n",
    "in/year=2024/month=01/x.parquet": b"PAR1",
    "in/s p%20c ü.jsonl": b"{}\n",
    "in/[x].jsonl": b"{}\n",
    "in/q?#&=+.jsonl": b"{}\n",
    "in/.hidden.jsonl": b"{}\n",
    "in/_under/x.jsonl": b"{}\n",
    "in/readme.txt": b"about",
    "in/notes.txt": b"about",
    "in/picture.png": b"x",
    "in/settings.json": b"3",
    "in/rows.json": b'[{"text": 1}]',
    "in/zipped.csv.gz": b"\x1f\x8b",
    "in/empty.jsonl": b"",
    "in/noending": b"x",
    "inside/y.jsonl": b"{}\n",
}


def copy(keys: dict[str, bytes], folder: Path, store: Store) -> None:
    for key, content in keys.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
        store.put(key, content)


@pytest.mark.parametrize(
    "pattern",
    [
        "in", "in/", "", "in/*.jsonl", "in/**/*.jsonl", "in/**", "in/a*", "in/?.jsonl", "in/*/x.*",
        "in/[ab].jsonl", "in/[!a].jsonl", "in/[x].jsonl", "in/year=*", "in*/*", "in/a.jsonl",
        "in/s p%20c ü.jsonl", "in/q?#&=+.jsonl", "*/y.jsonl", "in/_under/*", "in/.hidden.jsonl",
    ],
)  # fmt: skip
def test_a_url_stands_for_what_its_local_copy_would(
    store: Store, tmp_path: Path, pattern: str
) -> None:
    copy(KEYS, tmp_path, store)
    if "?#" in pattern:  # in a URL this looks like settings
        pattern = "in/q*.jsonl"
    local = data.discover([f"{tmp_path}/{pattern}"])
    stored = data.discover([f"s3://bucket/{pattern}"])
    names = [(f.name, f.kind, f.partition) for f in stored.files]
    assert names == [(f.name, f.kind, f.partition) for f in local.files]
    assert [str(f.path) for f in stored.files] == [
        f"s3://bucket/{f.path.relative_to(tmp_path).as_posix()}"  # type: ignore[attr-defined]  # local
        for f in local.files
    ]
    assert stored.unread == local.unread


def test_empty_objects_that_stand_for_folders_are_named(store: Store) -> None:
    for key in ("in/", "in/sub/", "in/out.parquet/"):
        store.put(key, b"")
    store.put("in/out.parquet/x.jsonl", b"{}\n")
    found = data.discover(["s3://bucket/in/"], input_format="jsonl")
    assert [f.name for f in found.files] == ["out.parquet/x.jsonl"]
    assert found.unread == {"empty objects that stand for folders": 3}


def test_more_than_a_page_of_objects(store: Store) -> None:
    for i in range(1100):
        store.put(f"many/{i:04}.jsonl", b"{}\n")
    assert len(data.find_files(["s3://bucket/many/"])) == 1100


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("in/t/_delta_log/0.json", "in/t/a.parquet"), "has a Delta table"),
        (("in/t/metadata/v1.metadata.json", "in/t/data/a.parquet"), "has an Iceberg table"),
        (("in/_manifest/run.json", "in/part-a.jsonl"), "of a run that has not finished"),
        (("in/a//b.jsonl",), "an empty folder"),
        (("in/x.png", "in/y.png"), "it has 2 .png"),
    ],
    ids=["delta", "iceberg", "unfinished", "empty-name", "nothing"],
)
def test_what_is_not_read_is_said(store: Store, keys: tuple[str, ...], message: str) -> None:
    for key in keys:
        store.put(key, b"x")
    with pytest.raises(InputError) as error:
        data.find_files(["s3://bucket/in/"])
    assert message in str(error.value)


def test_the_output_of_a_run_is_read_in_its_order(store: Store) -> None:
    store.put("out/_manifest/run.json", b"{}")
    store.put("out/_SUCCESS", b'{"files": ["part-b.jsonl", "part-a.jsonl"]}')
    for name in ("part-a.jsonl", "part-b.jsonl", "rejects/part-a.jsonl"):
        store.put(f"out/{name}", b"{}\n")
    assert [f.name for f in data.find_files(["s3://bucket/out"])] == [
        "part-b.jsonl",
        "part-a.jsonl",
    ]
    store.put("z.jsonl", b"{}\n")
    found = data.discover(["s3://bucket"])
    assert [f.name for f in found.files] == ["z.jsonl"]
    assert found.unread == {"outputs of other runs": 1}


def test_local_files_and_objects_of_one_name_are_told_apart(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    store.put("a.jsonl", b"{}\n")
    store.put("x/a.jsonl", b"{}\n")
    names = [
        f.name
        for f in data.find_files(
            [tmp_path / "a.jsonl", "s3://bucket/a.jsonl", "s3://bucket/x/a.jsonl"]
        )
    ]
    assert len(set(names)) == 3


_NAMES = ("a", "b", "ab", ".a", "a.b", "[a]", "-")


@given(
    st.lists(
        st.sampled_from([*_NAMES, "*", "**", "?", "[!a]", "a*", "[ab]", "[", ".*"]),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_pattern_means_what_glob_means(tree: Path, pattern: list[str]) -> None:
    keys = [p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()]
    # Of a file that ** stands behind glob gives the name with a slash.
    names = glob.glob(f"{tree}/{'/'.join(pattern)}", recursive=True)
    found = {os.path.relpath(name, tree) for name in names if not name.endswith("/")}
    assert {k for k in keys if matches(k.split("/"), pattern)} == found & set(keys)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names within names, three deep."""
    folder = tmp_path_factory.mktemp("tree")
    for first in _NAMES:
        for second in _NAMES:
            (folder / first / second).mkdir(parents=True)
            (folder / first / second / "ab").touch()
    return folder
