"""The Ray mapper and the run with a stand-in for Ray; `ray_data.py` beside this file tries Ray."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from support.fakes import write_parquet

import engine
from engine.demo import BUNDLE
from engine.errors import (
    BundleError,
    InputError,
    MissingDependency,
    OutputError,
    RowError,
    SettingsError,
    Stopped,
)
from engine.integrations import ray as engine_ray
from engine.integrations import ray_shares
from engine.integrations.mapped_rows import MapSettings, whole
from engine.pipeline import Bundle
from engine.runner import coordinator
from engine.runner.folder_lock import LockHeldError

ROWS = pa.table({"id": range(120), "text": [None if i % 50 == 7 else "veinte" for i in range(120)]})


class Ray(ModuleType):
    """Ray as this room uses it; a task runs when its result is waited for."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.resources: dict[str, float] = {"CPU": 1.0}
        self.cluster: dict[str, float] = {"CPU": 3.0}
        self.options: dict[str, Any] = {}
        self.tasks: list[tuple[Any, ...]] = []
        self.cancelled: list[Any] = []
        self.before: Callable[[int], None] = lambda task: None

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(
            get_task_id=lambda: "1",
            get_actor_id=lambda: None,
            get_assigned_resources=lambda: self.resources,
        )

    def cluster_resources(self) -> dict[str, float]:
        return self.cluster

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(**given: Any) -> Any:
            self.options = given
            return SimpleNamespace(remote=lambda *arguments: self._submit(function, arguments))

        return SimpleNamespace(options=options)

    def _submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.tasks.append(arguments)
        number = len(self.tasks) - 1

        def result() -> Any:
            self.before(number)
            return function(*arguments)

        return result

    def wait(self, tasks: list[Any], *, num_returns: int, timeout: float) -> Any:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, tasks: list[Any]) -> list[Any]:
        return [task() for task in tasks]

    def cancel(self, task: Any) -> None:
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    stand_in = Ray()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    return stand_in


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of every load of a bundle."""
    calls: list[dict[str, Any]] = []
    load = Bundle.load

    def counted(path: Path, **arguments: Any) -> Bundle:
        calls.append(arguments)
        return load(path, **{**arguments, "device": "cpu"})

    monkeypatch.setattr(Bundle, "load", counted)
    return calls


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for n in range(5):
        write_parquet(
            tmp_path / f"corpus/rows-{n}.parquet", ["dos", None, "doce"] * 4, first=12 * n
        )
    return tmp_path / "corpus"


def test_a_mapper_gives_every_row_back_with_the_answers_of_the_bundle(ray: Ray) -> None:
    rows = engine_ray.EngineMapper(BUNDLE)(ROWS)
    bundle, settings = Bundle.load(BUNDLE, device="cpu", threads=1), MapSettings.of({})
    assert rows.equals(whole(ROWS, bundle.answer(ROWS, **settings.answering), settings))
    assert [row["id"] for row in rows.to_pylist() if row["reject"]] == [7, 57, 107]


@pytest.mark.parametrize(
    ("resources", "arguments", "threads", "device"),
    [
        ({"CPU": 3.0}, {}, 3, "cpu"),
        ({"CPU": 0.5}, {}, 1, "cpu"),
        ({"CPU": 2.0, "GPU": 0.5}, {}, 2, "cuda"),
        ({"GPU": 1.0}, {}, 1, "cuda"),
        ({"CPU": 2.0, "GPU": 1.0}, {"device": "cpu", "threads": 1}, 1, "cpu"),
    ],
)
def test_threads_and_device_are_those_of_the_actor(
    ray: Ray,
    loads: list[dict[str, Any]],
    resources: dict[str, float],
    arguments: dict[str, Any],
    threads: int,
    device: str,
) -> None:
    ray.resources = resources
    engine_ray.EngineMapper(BUNDLE, **arguments)
    workers = threads if device == "cpu" else 0
    assert loads == [{"device": device, "threads": threads, "workers": workers, "gpu_memory": 0}]


def test_calls_of_few_rows_are_warned_of_once(ray: Ray) -> None:
    mapper = engine_ray.EngineMapper(BUNDLE, text="text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapper(ROWS.slice(0, 120))
        mapper(ROWS.slice(0, 10))  # as the last block of a file may be
    with pytest.warns(UserWarning, match=r"answers 46 rows a call: .*rows_per_block=1024"):
        mapper(ROWS.slice(0, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapper(ROWS.slice(0, 10))


def test_a_batch_that_is_no_arrow_table_is_refused(ray: Ray) -> None:
    with pytest.raises(SettingsError, match="given a dict, not an Arrow table") as error:
        engine_ray.EngineMapper(BUNDLE)({"text": ["dos"]})  # type: ignore[arg-type]  # on purpose
    assert 'batch_format="pyarrow"' in error.value.hint


def test_a_bad_row_is_refused_where_that_is_asked_for(ray: Ray) -> None:
    with pytest.raises(InputError, match="row 7"):
        engine_ray.EngineMapper(BUNDLE, on_error="fail")(ROWS)


def test_a_bundle_that_a_node_lacks_is_named_with_the_node(ray: Ray) -> None:
    with pytest.raises(BundleError, match="no such bundle on"):
        engine_ray.EngineMapper("/nowhere/minilm")


def test_a_run_has_the_parts_and_counts_of_a_local_run(
    ray: Ray, corpus: Path, tmp_path: Path
) -> None:
    settings: Any = {"text": ("text",), "keep": ("id",), "on_error": "reject"}
    local = engine.run(BUNDLE, corpus, tmp_path / "local", device="cpu", **settings)
    output = engine_ray.run(BUNDLE, corpus, tmp_path / "out", num_cpus=2, **settings)
    assert output.report.files == local.files
    for file in local.files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
    assert (tmp_path / "out/_SUCCESS").read_bytes() == (tmp_path / "local/_SUCCESS").read_bytes()
    for name in ("rows_in", "rows_out", "rows_rejected", "splits", "rows_computed", "rejected",
                 "tokens", "padded_tokens", "task", "device"):  # fmt: skip
        assert getattr(output.report, name) == getattr(local, name), name
    assert ray.options == {
        "num_cpus": 2, "num_gpus": 0, "max_retries": -1, "scheduling_strategy": "SPREAD",
    }  # fmt: skip
    # One place for two of three CPUs: four shares.
    assert [task[3] for task in ray.tasks] == ["1/4", "2/4", "3/4", "4/4"]


def test_there_are_no_more_shares_than_splits(ray: Ray, corpus: Path, tmp_path: Path) -> None:
    ray.cluster = {"CPU": 64.0}
    engine_ray.run(BUNDLE, corpus, tmp_path / "out", keep=("id",), on_error="reject")
    assert len(ray.tasks) == 5
    engine_ray.run(BUNDLE, corpus, tmp_path / "two", shares=2, keep=("id",), on_error="reject")
    assert [task[3] for task in ray.tasks[5:]] == ["1/2", "2/2"]


def test_paths_reach_the_tasks_whatever_their_working_directory(
    ray: Ray, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    engine_ray.run(BUNDLE, "corpus", "out", keep=("id",), on_error="reject")
    assert {task[1:3] for task in ((t[0], tuple(t[1]), t[2]) for t in ray.tasks)} == {
        ((str(corpus),), str(corpus.parent / "out"))
    }


def test_what_can_be_refused_is_refused_before_a_task_starts(
    ray: Ray, corpus: Path, tmp_path: Path
) -> None:
    for settings, message in (
        ({"text": ("nothing",)}, "nothing"),
        ({"shares": -1}, "shares is -1"),
        ({"num_cpus": 0.5}, "num_cpus is 0.5"),
        ({"max_retries": -2}, "max_retries is -2"),
        ({"beams": 2}, "beams"),
    ):
        with pytest.raises(SettingsError, match=message):
            engine_ray.run(BUNDLE, corpus, tmp_path / "out", **settings)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(SettingsError, match="a loaded bundle cannot go"):
        engine_ray.run(Bundle.load(BUNDLE, device="cpu"), corpus, tmp_path / "out")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(SettingsError, match="standard input"):
        engine_ray.run(BUNDLE, "-", tmp_path / "out")
    assert ray.tasks == []
    assert not (tmp_path / "out").exists()


def test_the_first_error_of_a_task_is_raised_as_it_was_and_the_others_are_cancelled(
    ray: Ray, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(RowError, match=r"rows-0.parquet: row 1 .*null") as error:
        engine_ray.run(BUNDLE, corpus, tmp_path / "out", keep=("id",), on_error="fail")
    assert error.value.row == 1
    assert error.value.code == "null_text"
    assert len(ray.cancelled) == len(ray.tasks) - 1


def test_a_stopped_run_cancels_its_tasks_and_goes_on_with_the_same_call(
    ray: Ray, corpus: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    ray.before = lambda task: stop.set() if task == 1 else None
    with pytest.raises(Stopped, match="2 of 5 shares finished"):
        engine_ray.run(
            BUNDLE, corpus, tmp_path / "out", shares=5, keep=("id",), on_error="reject", stop=stop
        )
    assert len(ray.cancelled) == 2  # the third had its result, as far as Ray knows
    ray.before = lambda task: None
    report = engine_ray.run(
        BUNDLE, corpus, tmp_path / "out", shares=5, keep=("id",), on_error="reject"
    ).report
    assert (report.rows_in, report.splits) == (60, 5)
    assert report.rows_computed < report.rows_out


def test_the_rejects_are_a_second_output(ray: Ray, corpus: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    ray_data = ModuleType("ray.data")
    ray_data.from_arrow = lambda table: table  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "ray.data", ray_data)
    output = engine_ray.run(BUNDLE, corpus, tmp_path / "out", keep=("id",), on_error="reject")
    rows = output.rejects().to_pylist()
    assert len(rows) == output.report.rows_rejected == 20
    assert rows[0]["file"].endswith("rows-0.parquet")
    assert [row["row"] for row in rows[:4]] == [1, 4, 7, 10]
    assert {row["code"] for row in rows} == {"null_text"}


def test_a_task_waits_for_a_lost_one_to_let_its_share_go(
    ray: Ray, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, refused = coordinator.run, [1, 2, 3]

    def held_at_first(*arguments: Any, **settings: Any) -> Any:
        if refused:
            refused.pop()
            raise LockHeldError("another run is writing here")
        return run(*arguments, **settings)

    monkeypatch.setattr(coordinator, "run", held_at_first)
    monkeypatch.setattr(ray_shares, "_POLL_SECONDS", 0.01)
    settings: Any = {"keep": ("id",), "on_error": "reject"}
    assert engine_ray.run(BUNDLE, corpus, tmp_path / "out", **settings).report.rows_in == 60
    refused[:] = [1]
    monkeypatch.setattr(ray_shares, "_LOCK_SECONDS", -1.0)
    with pytest.raises(OutputError, match="another run is writing here"):
        engine_ray.run(BUNDLE, corpus, tmp_path / "other", **settings)


class PickledType(pa.ExtensionType):
    """As that of ray.data, whose values are unpickled as they are read."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: object, serialized: bytes) -> PickledType:
        return cls()


def test_a_share_knows_no_type_whose_values_are_unpickled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(
        ARROW_PYTHON_OBJECT_EXTENSION_NAME="ray.data.arrow_pickled_object",
        ArrowPythonObjectType=PickledType,
    )
    name = "ray.data._internal.object_extensions.arrow"
    monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]  # a stand-in
    values = pa.ExtensionArray.from_storage(PickledType(), pa.array([b"."], pa.large_binary()))
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, pa.schema([("column", PickledType())])) as writer:
        writer.write(pa.record_batch([values], ["column"]))

    def kind() -> Any:
        return pa.ipc.open_stream(stream.getvalue()).read_all().schema.field("column").type

    pa.register_extension_type(PickledType())
    try:
        with ray_shares._without_pickled_columns():
            assert kind() == pa.large_binary()
        assert isinstance(kind(), PickledType)
    finally:
        pa.unregister_extension_type("ray.data.arrow_pickled_object")


def test_without_ray_the_hint_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (lambda: engine_ray.EngineMapper(BUNDLE), lambda: engine_ray.run(BUNDLE, [], "o")):
        with pytest.raises(MissingDependency, match="Ray is not installed") as error:
            call()
        assert error.value.hint == 'pip install "corpus-engine[cpu,ray]"'
