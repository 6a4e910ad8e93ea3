"""A corpus in an object store: read as its local copy, resumed without a download, never mixed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import web_servers
from support.fakes import make_bundle, open_bundle, texts, write_jsonl
from support.object_stores import Store, server, store
from support.runs import corpus, rows_of
from support.web_servers import Web

from engine import data
from engine.data import hub_datasets, object_files, stores
from engine.data.page_cache import PageCache
from engine.errors import EngineError, InputError
from engine.runner import coordinator
from engine.runner.manifest import Manifest
from engine.runner.report import Report
from engine.runner.verify import verify

__all__ = ["corpus", "server", "store"]
KEPT: dict[str, Any] = {
    "window": 16, "batch_tokens": 64, "keep": ("id", "_file", "_row"), "workers": 2,
    "on_error": "reject",
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads of another test are not found, and a server that is gone is given up at once."""
    pytest.importorskip("obstore")
    monkeypatch.setattr(object_files, "_cache", PageCache(1 << 24))
    monkeypatch.setattr(stores, "RETRIES", {"max_retries": 3})
    monkeypatch.setattr(object_files, "_PAUSE", 0.01)
    stores._open.cache_clear()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "model")


@pytest.fixture
def web() -> Iterator[Web]:
    with web_servers.serving() as server_of_test:
        yield server_of_test


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Each range that is fetched: key, start, stop."""
    fetched: list[tuple[str, int, int]] = []
    fetch = object_files._fetch

    def noting(path: object_files.ObjectPath, start: int, stop: int) -> memoryview:
        fetched.append((path.url.key, start, stop))
        return fetch(path, start, stop)

    monkeypatch.setattr(object_files, "_fetch", noting)
    return fetched


def upload(store: Store, folder: Path, prefix: str = "corpus") -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def go(bundle: Path, inputs: Any, out: Path, **settings: Any) -> Report:
    return coordinator.run(open_bundle(bundle), inputs, out, **KEPT | settings)


def parts_of(out: Path) -> dict[str, bytes]:
    files = [*out.glob("part-*"), *out.glob("_manifest/rejects/part-*")]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("split_size", [1 << 28, 300])
def test_the_parts_are_those_of_a_local_copy(
    bundle: Path, corpus: Path, store: Store, tmp_path: Path, split_size: int
) -> None:
    upload(store, corpus)
    local = go(bundle, corpus, tmp_path / "local", split_size=split_size)
    stored = go(bundle, "s3://bucket/corpus/", tmp_path / "stored", split_size=split_size)
    assert parts_of(tmp_path / "stored") == parts_of(tmp_path / "local")
    assert len(parts_of(tmp_path / "local")) > 5
    assert rows_of(tmp_path / "stored", stored) == rows_of(tmp_path / "local", local)
    assert stored.rows_rejected == local.rows_rejected > 0


def test_every_byte_is_downloaded_once(
    bundle: Path, corpus: Path, store: Store, tmp_path: Path, downloads: list[tuple[str, int, int]]
) -> None:
    upload(store, corpus)
    go(bundle, "s3://bucket/corpus", tmp_path / "out", split_size=300)
    size = sum(file.stat().st_size for file in corpus.rglob("*") if file.is_file())
    assert sum(stop - start for _, start, stop in downloads) == size


def test_a_resumed_run_computes_what_has_another_e_tag(
    bundle: Path, corpus: Path, store: Store, tmp_path: Path, downloads: list[tuple[str, int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    upload(store, corpus)
    settings = {"keep": (), "split_size": 1 << 28}
    go(bundle, "s3://bucket/corpus/", tmp_path / "out", **settings)
    before = parts_of(tmp_path / "out")
    rows = write_jsonl(tmp_path / "new.jsonl", texts(40, seed=9), 0)
    store.put("corpus/a.jsonl", rows.read_bytes())
    monkeypatch.setattr(object_files, "_cache", PageCache(0))
    downloads.clear()
    report = go(bundle, "s3://bucket/corpus/", tmp_path / "out", **settings)
    assert report.splits_skipped == 4
    changed = {
        name for name, content in parts_of(tmp_path / "out").items() if before.get(name) != content
    }
    assert changed
    assert all("-a-" in name for name in changed)
    again = go(bundle, "s3://bucket/corpus/", tmp_path / "out", **settings)
    assert again.splits_skipped == 5


def test_verify_compares_objects_with_what_was_read(
    bundle: Path, store: Store, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        store.put(f"in/{name}.jsonl", write_jsonl(tmp_path / name, texts(5), 0).read_bytes())
    for identity in ("etag", "content"):
        go(bundle, "s3://bucket/in/", tmp_path / identity, input_identity=identity)
        assert verify(tmp_path / identity).problems == ()
    store.put("in/a.jsonl", b'{"id": 1, "text": "w1"}\n')
    store.remove("in/b.jsonl")
    for identity in ("etag", "content"):
        check = verify(tmp_path / identity)
        assert (check.inputs_checked, check.inputs_missing) == (1, 1)
        assert "s3://bucket/in/a.jsonl: its bytes" in check.problems[0]


class _Hub:
    """The file system of the hub, over a dict of files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def find(self, place: str, **_: Any) -> dict[str, dict[str, Any]]:
        below = {n: c for n, c in self.files.items() if n == place or n.startswith(f"{place}/")}
        return {
            n: {"size": len(c), "blob_id": hashlib.sha1(c).hexdigest()} for n, c in below.items()
        }

    def cat_file(self, name: str, start: int, end: int) -> bytes:
        return self.files[name][start:end]


def test_a_dataset_of_the_hub_is_read_at_one_commit(
    bundle: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "datasets/owner/name@0123abcd"
    files = {
        f"{root}/data/{f.relative_to(corpus).as_posix()}": f.read_bytes()
        for f in corpus.rglob("*")
        if f.is_file()
    }
    files[f"{root}/README.md"] = b"about"
    monkeypatch.setattr(hub_datasets, "_file_system", lambda: _Hub(files))
    monkeypatch.setattr(
        hub_datasets, "pinned", lambda url: replace(url, root="hf://datasets/owner/name@0123abcd")
    )
    go(bundle, corpus, tmp_path / "local")
    go(bundle, "hf://datasets/owner/name/data", tmp_path / "stored")
    assert parts_of(tmp_path / "stored") == parts_of(tmp_path / "local")
    (entry,) = [e for e in Manifest(tmp_path / "stored").entries() if "b.parquet" in e.input.path]
    assert entry.input.path == "hf://datasets/owner/name@0123abcd/data/b.parquet"
    report = go(bundle, "hf://datasets/owner/name/data/*.jsonl", tmp_path / "glob")
    assert report.splits == 1
    with pytest.raises(InputError, match="no such object, and none to read below it"):
        go(bundle, "hf://datasets/owner/name/none", tmp_path / "none")


def test_identity_by_content_finds_a_copy_under_another_e_tag(
    bundle: Path, store: Store, tmp_path: Path, web: Web
) -> None:
    rows = write_jsonl(tmp_path / "a.jsonl", texts(20), 0).read_bytes()
    web.files["a.jsonl"] = rows
    url = f"http://{web.address}/a.jsonl"
    go(bundle, url, tmp_path / "out", input_identity="content")
    web.etags = 'W/"'  # another e-tag, the same bytes
    report = go(bundle, url, tmp_path / "out", input_identity="content")
    assert report.splits_skipped == 1
    report = go(bundle, url, tmp_path / "out")
    assert report.splits_skipped == 0


def test_an_object_that_changes_while_it_is_read_is_an_error(
    bundle: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_jsonl(tmp_path / "a.jsonl", texts(20_000), 0).read_bytes()
    assert len(rows) > 2 * object_files.PAGE
    store.put("a.jsonl", rows)
    monkeypatch.setattr(object_files, "SMALL", 0)
    monkeypatch.setattr(object_files, "LARGEST", object_files.PAGE)
    monkeypatch.setattr(object_files, "_cache", PageCache(0))
    fetch, calls = object_files._fetch, []

    def changing(path: object_files.ObjectPath, start: int, stop: int) -> memoryview:
        calls.append(start)
        if len(calls) == 3:
            store.put("a.jsonl", rows.replace(b"w", b"v"))
        return fetch(path, start, stop)

    monkeypatch.setattr(object_files, "_fetch", changing)
    with pytest.raises(InputError, match=r"s3://bucket/a\.jsonl: cannot be read: changed while"):
        go(bundle, "s3://bucket/a.jsonl", tmp_path / "out", limit=100_000)
    assert not (tmp_path / "out/_SUCCESS").exists()
    monkeypatch.setattr(object_files, "_fetch", fetch)
    assert go(bundle, "s3://bucket/a.jsonl", tmp_path / "out").rows_in == 20_000


def test_a_file_of_a_web_server(bundle: Path, tmp_path: Path, web: Web) -> None:
    rows = write_jsonl(tmp_path / "a b.jsonl", texts(50), 0)
    web.files["dir/a b.jsonl"] = rows.read_bytes()
    local = go(bundle, rows, tmp_path / "local")
    web.failures = [503, 500]
    go(bundle, f"http://{web.address}/dir/a%20b.jsonl", tmp_path / "stored")
    assert parts_of(tmp_path / "stored") == parts_of(tmp_path / "local")
    assert local.rows_in == 50
    assert not web.failures


def test_secrets_of_a_url_are_nowhere(
    bundle: Path, tmp_path: Path, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    web.user, web.query = "user:CANARY", "X-Amz-Signature=CANARY&x=1"
    web.files["a.jsonl"] = write_jsonl(tmp_path / "a.jsonl", texts(20), 0).read_bytes()
    url = f"http://user:CANARY@{web.address}/a.jsonl?{web.query}"
    report = go(bundle, url, tmp_path / "out")
    assert report.rows_in == 20
    (entry,) = Manifest(tmp_path / "out").entries()
    assert entry.input.path == f"http://{web.address}/a.jsonl"
    left = b"".join(f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file())
    web.query = "another"
    with pytest.raises(InputError, match="permission denied") as error:
        go(bundle, url, tmp_path / "second")
    assert "CANARY" not in caplog.text + repr(report) + str(error.value) + repr(entry)
    assert b"CANARY" not in left


@pytest.mark.parametrize(
    ("change", "path", "message", "hint"),
    [
        ({"ranges": False}, "a.jsonl", "the server sends no ranges of bytes", "download the file"),
        ({}, "b.jsonl", "no such object", "check the name"),
        ({}, "dir/", "a web server lists no files", "name each file"),
        ({"query": "x=1"}, "a.jsonl", "permission denied", "credentials"),
        ({"failures": [500] * 99}, "a.jsonl", "busy or failing", "run the same command again"),
        ({}, "a.bin", "unknown ending", "--input-format"),
    ],
    ids=["no-ranges", "missing", "folder", "denied", "failing", "no-ending"],
)
def test_what_is_said_of_a_web_server(
    bundle: Path,
    tmp_path: Path,
    web: Web,
    change: dict[str, Any],
    path: str,
    message: str,
    hint: str,
) -> None:
    web.files |= {"a.jsonl": b'{"text": "a"}\n' * 3, "a.bin": b"x"}
    vars(web).update(change)
    with pytest.raises(InputError, match=message) as error:
        go(bundle, f"http://{web.address}/{path}", tmp_path / "out")
    assert hint in error.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "environment", "message"),
    [
        ("s3://nobucket/x/", {}, "cannot be listed: no such bucket"),
        ("s3://bucket/none.jsonl", {}, "no such object, and none to read below it"),
        ("s3://bucket/none/", {}, "no such object, and none to read below it"),
        ("s3://bucket/*.none", {}, "no object matches"),
        ("s3://bucket/a//b", {}, "an empty folder"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be connected to"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://nohost.invalid"}, "host is not found"),
        ("az://box/x", {}, "the storage account is not named"),
    ],
)
def test_what_is_said_of_a_store(
    store: Store, url: str, environment: dict[str, str], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store.put("there.jsonl", b"")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError, match=message) as error:
        data.find_files([url])
    assert error.value.hint
    assert "secret-of-a-test" not in str(error.value)
