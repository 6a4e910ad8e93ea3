"""The Ray mapper and the run with a stand-in for Ray; `ray_data.py` beside this file tries Ray."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from support.fakes import write_parquet

from engine.demo import BUNDLE
from engine.errors import (
    BundleError,
    InputError,
    MissingDependency,
    SettingsError,
)
from engine.integrations import ray as engine_ray
from engine.integrations.mapped_rows import MapSettings, whole
from engine.pipeline import Bundle

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
    assert loads == [{"device": device, "threads": threads, "gpu_memory": 0}]


def test_calls_of_few_rows_are_warned_of_once(ray: Ray) -> None:
    mapper = engine_ray.EngineMapper(BUNDLE, text="text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapper(ROWS.slice(0, 100))
    with pytest.warns(UserWarning, match="99 rows in this call.*batch_size=4096"):
        mapper(ROWS.slice(0, 99))
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


def test_without_ray_the_hint_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match="Ray is not installed") as error:
        engine_ray.EngineMapper(BUNDLE)
    assert error.value.hint == 'pip install "corpus-engine[cpu,ray]"'
