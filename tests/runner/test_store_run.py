"""A run to an object store leaves what a local one leaves, wherever it fails and whoever else
writes there. The store is moto's server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fakes import FakeBackend, make_bundle, open_bundle, texts, write_jsonl
from support.object_stores import BUCKET, Store, no_stage_left, server, store
from support.runs import BoomError, corpus

from engine.data import StoredFolder
from engine.errors import InputError, OtherRunError, OutputError, SettingsError, Stopped
from engine.runner import coordinator, publisher, store_lock
from engine.runner.collection import collect
from engine.runner.report import Report
from engine.runner.scratch import scratch_of
from engine.runner.store_lock import CLOCK, LOCK, StoreLock
from engine.runner.verify import verify

__all__ = ["corpus", "no_stage_left", "server", "store"]

SMALL: dict[str, Any] = {
    "window": 16, "batch_tokens": 64, "keep": ("id",), "workers": 1, "on_error": "reject",
}  # fmt: skip
OUT = f"s3://{BUCKET}/a/out"
WRITES = ("put", "put_file", "copy", "remove")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "features")


@pytest.fixture
def go(bundle: Path, corpus: Path) -> Callable[..., Report]:
    def run(out: Any = OUT, backend: FakeBackend | None = None, **settings: Any) -> Report:
        inputs = settings.pop("inputs", corpus)
        model = open_bundle(bundle, backend)
        return coordinator.run(model, inputs, out, **SMALL | settings)

    return run


def comparable(files: dict[str, bytes]) -> dict[str, Any]:
    """What two runs of the same answers have in common."""
    same: dict[str, Any] = {}
    for name, content in files.items():
        if name.startswith("_manifest/starts/"):
            continue
        same[name] = content
        if name.startswith("_manifest/part-"):
            record = json.loads(content)
            for file in filter(None, (record["part"], record["rejects"])):
                del file["modified"]
            same[name] = {k: v for k, v in record.items() if k not in ("seconds", "e_tags")}
    return same


def stored(store: Store, out: str = OUT) -> dict[str, Any]:
    return comparable(store.contents(out.removeprefix(f"s3://{BUCKET}/") + "/"))


def local(out: Path) -> dict[str, Any]:
    paths = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return comparable({path.relative_to(out).as_posix(): path.read_bytes() for path in paths})


def failing(monkeypatch: pytest.MonkeyPatch, call: int, *, after: bool) -> None:
    """Have the `call`-th change of a store fail, before or after it is made."""
    calls = iter(range(10_000))
    for name in WRITES:
        real = getattr(StoredFolder, name)

        def write(self: StoredFolder, *rest: Any, real: Any = real, **named: Any) -> Any:
            number = next(calls)
            if number == call and not after:
                raise BoomError
            result = real(self, *rest, **named)
            if number == call:
                raise BoomError
            return result

        monkeypatch.setattr(StoredFolder, name, write)


def test_a_store_holds_what_a_folder_holds(
    tmp_path: Path, store: Store, go: Callable[..., Report]
) -> None:
    report = go()
    here = go(tmp_path / "out")
    assert stored(store) == local(tmp_path / "out")
    assert report.out == OUT
    assert (report.rows_out, report.rows_rejected) == (here.rows_out, here.rows_rejected) != (0, 0)
    assert report.files == here.files
    before = store.contents()
    again = go()
    assert (again.splits_skipped, again.rows_computed) == (5, 0)
    assert store.contents() == before
    assert not any(scratch_of(OUT).out.rglob("*"))
    assert verify(OUT).problems == ()


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_changed_inputs_leave_what_a_fresh_run_leaves(
    tmp_path: Path, store: Store, go: Callable[..., Report], corpus: Path, format: str
) -> None:
    go(format=format)
    (corpus / "b.parquet").unlink()
    (corpus / "a.jsonl").rename(corpus / "z.jsonl")
    write_jsonl(corpus / "e/f.jsonl", texts(9, seed=7))
    write_jsonl(corpus / "new.jsonl", texts(5, seed=8))
    report = go(format=format)
    assert report.splits_skipped == 3
    go(tmp_path / "fresh", format=format)
    assert stored(store) == local(tmp_path / "fresh")


def test_another_machine_goes_on(tmp_path: Path, store: Store, go: Callable[..., Report]) -> None:
    backend = FakeBackend()
    go(tmp_path / "out", backend=backend)
    last = len(backend.shapes) - 1

    def boom(call: int) -> None:
        if call == last:
            raise BoomError

    with pytest.raises(BoomError):
        go(scratch=str(tmp_path / "one"), backend=FakeBackend(before=boom))
    finished = sum(name.startswith("part-") for name in stored(store))
    report = go(scratch=str(tmp_path / "two"))
    assert report.splits_skipped == finished > 0
    assert stored(store) == local(tmp_path / "out")


def test_an_exception_at_a_batch_leaves_no_torn_key(
    tmp_path: Path, store: Store, go: Callable[..., Report]
) -> None:
    backend = FakeBackend()
    go(tmp_path / "out", backend=backend)
    whole = local(tmp_path / "out")
    for number in range(2, len(backend.shapes), len(backend.shapes) // 4):
        store.clear()

        def boom(call: int, number: int = number) -> None:
            if call == number:
                raise BoomError

        with pytest.raises(BoomError):
            go(backend=FakeBackend(before=boom))
        left = stored(store)
        assert "_SUCCESS" not in left
        assert left.items() <= whole.items()
        assert collect(OUT).files == ()
        assert store.uploads() == []
        go()
        assert stored(store) == whole


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_at_a_change_of_the_store_loses_nothing(
    tmp_path: Path, store: Store, go: Callable[..., Report], after: bool
) -> None:
    go(tmp_path / "old", limit=60)
    go(tmp_path / "out")
    whole, either = local(tmp_path / "out"), [local(tmp_path / "old"), local(tmp_path / "out")]
    for call in (2, 7, 12, 17, 22, 60):
        store.clear()
        go(limit=60)
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, call, after=after)
            try:
                go(overwrite=True)
                done = True
            except BoomError:
                done = False
        left = stored(store)
        parts = {name: content for name, content in left.items() if name.startswith("part-")}
        assert all(any(one.get(name) == parts[name] for one in either) for name in parts)
        # What was put to see the store's clock may be left for the next start.
        left = {n: text for n, text in left.items() if n != LOCK and not n.startswith(CLOCK)}
        if "_SUCCESS" in left:
            assert left in (
                *either,
                either[0] | {"_manifest/run.json": whole["_manifest/run.json"]},
            )
        go(overwrite=True)
        assert stored(store) == whole
    assert done


def test_a_lost_answer_to_a_put_is_no_failure(
    tmp_path: Path, store: Store, go: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library tries again where no answer came, and is told that the key is there."""
    twice = ("part-", "_manifest/part-", "_SUCCESS", LOCK, "_manifest/run.json")

    class Doubling:
        def __init__(self, store: Any) -> None:
            self._store = store

        def put(self, name: str, content: Any, **rest: Any) -> Any:
            if name.startswith(twice):
                self._store.put(name, content, **rest)
            return self._store.put(name, content, **rest)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    real = StoredFolder.__init__

    def init(self: StoredFolder, url: str) -> None:
        real(self, url)
        self._store = Doubling(self._store)

    monkeypatch.setattr(StoredFolder, "__init__", init)
    go()
    go(tmp_path / "out")
    assert stored(store) == local(tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(store: Store, go: Callable[..., Report]) -> None:
    store.put("a/out/mine.txt", b"mine")
    store.put("a/outer/mine.txt", b"mine")
    before = store.contents()
    for overwrite in (False, True):
        with pytest.raises(OtherRunError, match=f"{OUT}: not empty, and not a run's output .*mine"):
            go(overwrite=overwrite)
    assert store.contents() == before


def test_overwriting_removes_what_runs_write_and_nothing_else(
    tmp_path: Path, store: Store, go: Callable[..., Report]
) -> None:
    go(format="jsonl")
    store.put("a/out/mine.txt", b"mine")
    store.put("a/out/part-of-mine.csv", b"mine")
    with pytest.raises(OtherRunError, match=f"{OUT}: holds a run with other settings: .*format"):
        go()
    go(overwrite=True)
    go(tmp_path / "out")
    extra = {"mine.txt": b"mine", "part-of-mine.csv": b"mine"}
    assert stored(store) == local(tmp_path / "out") | extra


def lock_of(scratch: Path) -> StoreLock:
    scratch.mkdir(exist_ok=True)
    return StoreLock(StoredFolder(OUT), scratch / "owner")


def test_one_of_two_runs_has_the_lock(
    tmp_path: Path, store: Store, go: Callable[..., Report]
) -> None:
    lock = lock_of(tmp_path / "other")
    lock.acquire()
    before = store.contents()
    with pytest.raises(OutputError, match=r"writing here \(on .*, process \d+, since"):
        go()
    assert store.contents() == before
    lock.release()
    go()
    assert f"a/out/{LOCK}" not in store.contents()


def test_a_store_without_conditions_is_refused(
    store: Store, go: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoredFolder.put

    def put(self: StoredFolder, name: str, content: Any, expected: Any, **rest: Any) -> Any:
        store.remove(f"a/out/{name}")
        return real(self, name, content, None, **rest)

    monkeypatch.setattr(StoredFolder, "put", put)
    with pytest.raises(OutputError, match="the store does not heed conditions of puts"):
        go()
    assert store.contents() == {}


def test_a_run_of_this_machine_that_was_killed_holds_no_lock(
    store: Store, go: Callable[..., Report]
) -> None:
    scratch = scratch_of(OUT)
    scratch.folder.mkdir(parents=True)
    dead = StoreLock(StoredFolder(OUT), scratch.owner)
    dead.acquire()
    dead._closing.set()
    assert go().rows_computed


def test_a_stale_writer_changes_no_byte(
    tmp_path: Path,
    store: Store,
    go: Callable[..., Report],
    monkeypatch: pytest.MonkeyPatch,
    corpus: Path,
) -> None:
    """It sleeps in the middle, another takes the lock over and finishes, and it wakes up."""
    monkeypatch.setattr(store_lock, "LEASE", -1.0)
    monkeypatch.setattr(store_lock, "FRESH", 0.0)
    monkeypatch.setattr(store_lock, "RENEWAL", 1000.0)
    snapshot = {}

    def asleep(call: int) -> None:
        if call == 8:
            monkeypatch.setattr(store_lock, "FRESH", 1000.0)  # of the other one
            write_jsonl(corpus / "a.jsonl", texts(9, seed=7))
            go(scratch=str(tmp_path / "other"))
            monkeypatch.setattr(store_lock, "FRESH", 0.0)
            snapshot.update(store.contents())

    with pytest.raises(OutputError, match="another run has taken over while this one was not"):
        go(backend=FakeBackend(before=asleep))
    assert snapshot
    assert store.contents() == snapshot


def test_parts_that_another_writer_put_meanwhile_are_seen(
    store: Store, go: Callable[..., Report]
) -> None:
    """One that had the lock before may have put a part last; it is replaced."""
    go()
    (part,) = (name for name in stored(store) if name.startswith("part-") and "-d-" in name)
    store.put(f"a/out/{part}", b"torn")
    assert any(part in problem for problem in verify(OUT).problems)
    assert go().splits_skipped == 4
    assert verify(OUT).problems == ()


def test_parts_are_read_again_on_request(store: Store, go: Callable[..., Report]) -> None:
    """A listing does not tell of a part whose e-tag was forged with its record."""
    go()
    whole, names = stored(store), [name for name in stored(store) if name.startswith("part-")]
    for name in names[:2]:
        record = f"a/out/_manifest/{Path(name).stem}.json"
        store.put(f"a/out/{name}", bytes(reversed(whole[name])))
        changed = json.loads(store.read(record))
        changed["e_tags"][name] = StoredFolder(OUT).files()[name].version.tag
        store.put(record, json.dumps(changed).encode())
    assert go().splits_skipped == 5
    assert go(check_parts=True).splits_skipped == 3
    assert verify(OUT).problems == ()
    assert go(check_parts=True).splits_skipped == 5


def test_a_part_that_changes_before_the_end_ends_the_run(
    store: Store, go: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = publisher.Publisher._end

    def end(self: publisher.Publisher) -> None:
        real(self)
        name = next(name for name in stored(store) if name.startswith("part-"))
        store.put(f"a/out/{name}", b"torn")

    with monkeypatch.context() as patch:
        patch.setattr(publisher.Publisher, "_end", end)
        with pytest.raises(OutputError, match="has been changed or removed since it was put"):
            go()
    assert "_SUCCESS" not in stored(store)
    go()
    assert verify(OUT).problems == ()


def test_a_stop_does_not_wait_for_an_upload(
    store: Store, go: Callable[..., Report], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploading, let = threading.Event(), threading.Event()
    real = StoredFolder.put_file

    def slow(self: StoredFolder, *rest: Any) -> Any:
        uploading.set()
        assert let.wait(60)
        return real(self, *rest)

    def stop(progress: Any) -> None:
        if uploading.is_set():
            raise KeyboardInterrupt

    def wait(call: int) -> None:
        if uploading.is_set():
            threading.Event().wait(0.3)

    with monkeypatch.context() as patch:
        patch.setattr(StoredFolder, "put_file", slow)
        with pytest.raises(Stopped, match="stopped with"):
            go(backend=FakeBackend(before=wait), on_progress=stop)
    assert not let.is_set()
    let.set()
    go()
    go(tmp_path / "out")
    assert stored(store) == local(tmp_path / "out")


def test_large_files_go_in_pieces(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.data import stored_folder

    monkeypatch.setattr(stored_folder, "LARGEST_PUT", 1 << 20)
    monkeypatch.setattr(stored_folder, "_PIECE", 5 << 20)
    folder, file = StoredFolder(OUT), tmp_path / "large"
    file.write_bytes(bytes(range(256)) * (12 << 12))
    version = folder.put_file("large", file, None)
    assert store.read("a/out/large") == file.read_bytes()
    assert folder.files()["large"].version == version
    real = Path.open

    class Failing:
        def __init__(self, stream: Any) -> None:
            self._stream, self._left = stream, 2

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._stream.close()

        def read(self, size: int) -> bytes:
            self._left -= 1
            if self._left < 0:
                raise BoomError
            return bytes(self._stream.read(size))

    monkeypatch.setattr(Path, "open", lambda path, mode="r": Failing(real(path, mode)))
    with pytest.raises(BoomError):
        folder.put_file("other", file, None)
    assert "a/out/other" not in store.contents()
    assert store.uploads() == []


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_one_file(
    tmp_path: Path, store: Store, go: Callable[..., Report], ending: str, corpus: Path
) -> None:
    key, file = f"a/answers.{ending}", tmp_path / f"answers.{ending}"
    url = f"s3://{BUCKET}/{key}"
    report = go(url)
    go(file)
    assert store.contents() == {key: file.read_bytes()}
    assert report.out == url
    assert go(url).rows_computed == 0
    write_jsonl(corpus / "new.jsonl", texts(5, seed=8))
    go(url)
    go(file)
    assert store.contents() == {key: file.read_bytes()}
    store.remove(key)
    go(url)
    assert store.read(key) == file.read_bytes()
    store.put(key, b"mine")
    with pytest.raises(OtherRunError, match="no run of this machine is known to have written it"):
        go(url)
    go(url, overwrite=True)
    assert store.read(key) == file.read_bytes()


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("http://host/out", "only local folders, s3://, gs:// and az:// are written"),
        ("hf://datasets/a/b", "only local folders, s3://, gs:// and az:// are written"),
        ("s3://bucket", "not a folder in a bucket"),
        ("s3://bucket/", "not a folder in a bucket"),
        ("s3://bucket//out", "not a folder in a bucket"),
        ("s3://key:hidden@bucket/out", "credentials are not taken from a URL"),
        ("az://container/out?sig=hidden", "settings are not taken from a URL"),
        ("gs://bucket/a/../b", "not a folder in a bucket"),
        ("s3:/bucket/out", "a URL is a text with two slashes"),
        ("s3://bucket/out.xlsx", "no file with the ending"),
    ],
)
def test_what_is_no_output(go: Callable[..., Report], out: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        go(out)
    assert says in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("named", [OUT, f"{OUT}/", f"{OUT}/part-*.arrow", f"{OUT}/a.jsonl"])
def test_an_output_is_no_input(go: Callable[..., Report], corpus: Path, named: str) -> None:
    with pytest.raises(InputError, match=f"{OUT}: is an input and the output"):
        go(inputs=[corpus, named])


def test_errors_of_a_store_say_where_and_why_and_no_secret(
    store: Store, go: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"s3://no-bucket/out.*no such bucket") as caught:
        go("s3://no-bucket/out")
    monkeypatch.setattr("engine.data.store_access._PUT_SECONDS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match="cannot be connected to") as other:
        go()
    for error in (caught, other):
        assert "secret-of-a-test" not in str(error.value)
        assert "key-of-a-test" not in str(error.value)
