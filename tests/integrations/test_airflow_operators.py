"""The operators' own logic, with a stand-in for Airflow and the embedded bundle."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from support import fake_airflow
from support.fake_airflow import AirflowFailException, AirflowSkipException, OutletEvent
from support.fakes import write_jsonl

import engine
from engine.core.settings import declared
from engine.demo import BUNDLE, CHECKPOINT, corpus
from engine.errors import EngineError, InputError, MissingDependency, SettingsError, Stopped
from engine.export.report import ExportReport
from engine.integrations import airflow_supervisor
from engine.integrations.airflow_provider import get_provider_info
from engine.integrations.command_line import export_options, run_options
from engine.runner.verify import verify

ROOT = Path(engine.__file__).parents[1]


@pytest.fixture
def airflow() -> Iterator[Any]:
    """`engine.integrations.airflow`, over the stand-in."""
    with fake_airflow.installed():
        from engine.integrations import airflow

        yield airflow


@pytest.fixture
def numerals(tmp_path: Path) -> Path:
    """Three good rows and a bad one."""
    return write_jsonl(tmp_path / "in" / "a.jsonl", ["uno", "dos", None, "tres"], 0)  # type: ignore[list-item]  # the bad one


class Task:
    """What Airflow gives a task: its context, and the XComs that it pushes."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.events: dict[Any, OutletEvent] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def execute(self, operator: Any) -> Any:
        self.events = {outlet: OutletEvent() for outlet in operator.outlets}
        return operator.execute({"ti": self, "outlet_events": self.events})


def execute(operator: Any) -> Any:
    return Task().execute(operator)


@pytest.mark.parametrize("python", ["", sys.executable], ids=["here", "outside"])
def test_a_run_answers_and_pushes_a_brief_report(
    airflow: Any, numerals: Path, tmp_path: Path, python: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    step = airflow.EngineRunOperator(
        task_id="translate", model=str(BUNDLE), inputs=[str(numerals)], out=str(tmp_path / "out"),
        python=python, text="text", keep=["id"], on_rejects="succeed", batch_tokens="512",
        dedupe="true", max_new_tokens="48",
    )  # fmt: skip
    brief = execute(step)
    assert (brief["rows_in"], brief["rows_out"], brief["rows_rejected"]) == (4, 3, 1)
    assert len(json.dumps(brief)) <= 2048
    assert not verify(tmp_path / "out").problems
    assert "1 rows were rejected: engine rejects " in caplog.text
    # The next try of the same task has nothing to do, in whichever process.
    again = airflow.EngineRunOperator(
        task_id="translate", model=str(BUNDLE), inputs=[str(numerals)], out=str(tmp_path / "out"),
        text="text", keep="id", on_error="reject", batch_tokens=512, max_new_tokens=48,
    )  # fmt: skip
    assert execute(again)["fingerprint"] == brief["fingerprint"]


@pytest.mark.parametrize(
    ("on_rejects", "ending"), [("fail", AirflowFailException), ("skip", AirflowSkipException)]
)
def test_what_becomes_of_a_task_with_rejects(
    airflow: Any, numerals: Path, tmp_path: Path, on_rejects: str, ending: type[Exception]
) -> None:
    step = airflow.EngineRunOperator(
        task_id="t", model=BUNDLE, inputs=numerals, out=tmp_path / "out", text="text",
        on_rejects=on_rejects,
    )  # fmt: skip
    task = Task()
    with pytest.raises(ending, match="1 rows were rejected: engine rejects "):
        task.execute(step)
    assert task.pushed["return_value"]["rows_rejected"] == 1


@pytest.mark.parametrize("python", ["", sys.executable], ids=["here", "outside"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": "{{ -1 }}"}, "workers"),
        ({"batch_tokens": "{{ many }}"}, "batch.tokens"),
        ({"text": "nothing"}, "nothing"),
        ({"candidate_labels": "a,b"}, "candidate_labels"),
    ],
    ids=str,
)
def test_what_can_only_fail_again_is_not_tried_again(
    airflow: Any, numerals: Path, tmp_path: Path, python: str, settings: Any, message: str
) -> None:
    step = airflow.EngineRunOperator(
        task_id="embed", model=BUNDLE, inputs=numerals, out=tmp_path / "out", python=python,
        **settings,
    )  # fmt: skip
    with pytest.raises(AirflowFailException, match=message) as raised:
        execute(step)
    assert "task 'embed': " in str(raised.value)


def test_another_run_in_the_folder_is_not_tried_again(
    airflow: Any, numerals: Path, tmp_path: Path
) -> None:
    engine.run(BUNDLE, numerals, tmp_path / "out", on_error="reject", keep="id")
    for python in ("", sys.executable):
        step = airflow.EngineRunOperator(
            task_id="t", model=BUNDLE, inputs=numerals, out=tmp_path / "out", python=python,
            on_error="reject",
        )  # fmt: skip
        with pytest.raises(AirflowFailException, match="holds a run with other settings"):
            execute(step)


@pytest.mark.parametrize("python", ["", sys.executable], ids=["here", "outside"])
def test_what_may_be_mended_is_tried_again(
    airflow: Any, numerals: Path, tmp_path: Path, python: str
) -> None:
    step = airflow.EngineRunOperator(
        task_id="t", model=BUNDLE, inputs=numerals, out=tmp_path / "out", python=python
    )
    with pytest.raises(EngineError, match=r"task 't': .*row 2") as raised:
        execute(step)
    assert "--on-error reject" in raised.value.hint
    step.inputs = tmp_path / "missing"
    with pytest.raises(EngineError, match="missing") as raised:
        execute(step)
    assert python or isinstance(raised.value, InputError)


def test_an_unknown_setting_is_refused_while_the_dag_is_parsed(airflow: Any) -> None:
    with pytest.raises(
        SettingsError, match="task 'embed': unknown setting 'batch_token'"
    ) as raised:
        airflow.EngineRunOperator(task_id="embed", model="m", inputs="i", out="o", batch_token=3)
    assert "did you mean 'batch_tokens'?" in raised.value.hint
    for name, value in (("workers", -1), ("batch_tokens", "many"), ("on_error", "ignore")):
        with pytest.raises(SettingsError, match=f"task 'embed': {name} is "):
            airflow.EngineRunOperator(
                task_id="embed", model="m", inputs="i", out="o", **{name: value}
            )
    with pytest.raises(SettingsError, match="task 'e': unknown setting 'recipes'"):
        airflow.EngineExportOperator(task_id="e", model="m", out="o", recipes="int8")


def test_the_names_of_settings_are_arguments_for_partial_expand_and_default_args(
    airflow: Any,
) -> None:
    run = airflow.EngineRunOperator
    from engine.core.config import RunConfig
    from engine.tasks import TASKS

    names = {n for task in TASKS.values() for n in declared(task.options)} | set(
        declared(RunConfig)
    )
    assert names <= run.names
    assert {"model", "inputs", "out", "python", "on_rejects", "kwargs"} <= run.names
    step = run(
        task_id="t", model="m", inputs="i", out="o", default_args={"text": "body", "owner": "me"},
        keep="id", retries=3,
    )  # fmt: skip
    assert step.settings == {"text": "body", "keep": "id"}
    assert step.retries == 3


def test_every_path_and_setting_is_a_template(airflow: Any) -> None:
    for kind in (airflow.EngineRunOperator, airflow.EngineExportOperator):
        own = set(inspect.signature(kind.execute).parameters)
        assert own == {"self", "context"}
        assert {"model", "out", "python", "settings"} <= set(kind.template_fields)
    assert {"inputs", "on_rejects"} <= set(airflow.EngineRunOperator.template_fields)


def test_shares(airflow: Any) -> None:
    assert airflow.engine_shares(3) == ["1/3", "2/3", "3/3"]
    for count in (0, -1, True, 1.5, "3", None):
        with pytest.raises(SettingsError, match="whole number"):
            airflow.engine_shares(count)


def test_naming_what_becomes_of_rejects_sets_bad_rows_aside(airflow: Any, tmp_path: Path) -> None:
    step = airflow.EngineRunOperator(
        task_id="t", model="m", inputs="i", out="o", on_rejects="skip", on_error="fail"
    )
    with pytest.raises(AirflowFailException, match="on_rejects is 'skip', and on_error is 'fail'"):
        execute(step)
    step.on_rejects = "retry"
    with pytest.raises(AirflowFailException, match="on_rejects is 'retry'"):
        execute(step)
    step.on_rejects, step.inputs = "", "-"
    with pytest.raises(AirflowFailException, match="no standard input"):
        execute(step)


@pytest.fixture
def long_run(tmp_path: Path) -> dict[str, Any]:
    """A run of several parts that takes some seconds."""
    corpus.write(tmp_path / "corpus", 2400)
    return {
        "task_id": "t", "model": BUNDLE, "inputs": tmp_path / "corpus", "out": tmp_path / "out",
        "text": "text", "keep": "id", "on_error": "reject", "split_size": 8_000,
    }  # fmt: skip


def when_parts(out: Path, count: int, act: Any) -> threading.Thread:
    """Act once a run has so many parts."""

    def wait() -> None:
        end = time.monotonic() + 60
        while len(list(out.glob("*.arrow"))) < count and time.monotonic() < end:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("python", ["", sys.executable], ids=["here", "outside"])
def test_a_killed_task_stops_and_its_next_try_goes_on(
    airflow: Any, long_run: dict[str, Any], python: str
) -> None:
    step = airflow.EngineRunOperator(**long_run, python=python)
    # As Airflow does: from a handler of SIGTERM, in the main thread.
    before = signal.signal(signal.SIGTERM, lambda number, frame: step.on_kill())
    try:
        thread = when_parts(long_run["out"], 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match="stopped"):
            execute(step)
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (long_run["out"] / "_SUCCESS").exists()
    brief = execute(airflow.EngineRunOperator(**long_run))
    assert brief["splits_skipped"] >= 2
    assert not verify(long_run["out"]).problems


@pytest.mark.parametrize("python", ["", sys.executable], ids=["here", "outside"])
def test_a_task_that_takes_too_long_leaves_nothing_running(
    airflow: Any, long_run: dict[str, Any], python: str
) -> None:
    def raises(number: int, frame: FrameType | None) -> None:
        raise fake_airflow.AirflowTaskTimeout

    step = airflow.EngineRunOperator(**long_run, python=python)
    before = signal.signal(signal.SIGALRM, raises)
    try:
        thread = when_parts(long_run["out"], 1, lambda: os.kill(os.getpid(), signal.SIGALRM))
        with pytest.raises(fake_airflow.AirflowTaskTimeout):
            execute(step)
        thread.join()
        step.on_kill()
    finally:
        signal.signal(signal.SIGALRM, before)
    # The folder is free at once: nothing runs there any more.
    assert execute(airflow.EngineRunOperator(**long_run))["rows_in"] == 2400


def test_a_kill_before_the_run_begins_is_not_lost(airflow: Any, long_run: dict[str, Any]) -> None:
    for python in ("", sys.executable):
        step = airflow.EngineRunOperator(**long_run, python=python)
        step.on_kill()
        with pytest.raises(Stopped):
            execute(step)
        assert not (long_run["out"] / "_SUCCESS").exists()


def test_a_run_ends_once_nobody_supervises_its_task(
    airflow: Any, long_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_supervisor, "is_supervised", lambda: True)
    parents = [7]
    monkeypatch.setattr(airflow_supervisor.os, "getppid", lambda: parents[-1])
    thread = when_parts(long_run["out"], 1, lambda: parents.append(1))
    with pytest.raises(Stopped):
        execute(airflow.EngineRunOperator(**long_run, workers=1, threads=1, window=32))
    thread.join()


def test_only_a_socket_at_standard_input_is_a_supervisor() -> None:
    code = "from engine.integrations import airflow_supervisor as s; print(s.is_supervised())"
    null = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=True, cwd=ROOT,
    )  # fmt: skip
    assert null.stdout.strip() == "False"
    near, far = socket.socketpair()
    with near, far:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=near,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
    assert done.stdout.strip() == "True"


def test_the_other_interpreter_ends_with_its_task(tmp_path: Path) -> None:
    corpus.write(tmp_path / "corpus", 2400)
    code = (
        "import sys; from engine.integrations.outside_process import OutsideProcess as P; "
        "P(sys.executable, sys.argv[1:]).run(print)"
    )
    words = ["run", BUNDLE, tmp_path / "corpus", "-o", tmp_path / "out", "--on-error=reject",
             "--split-size=8000"]  # fmt: skip
    task = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], cwd=ROOT)
    when_parts(tmp_path / "out", 1, task.kill).join()
    task.wait()
    end = time.monotonic() + 30
    while True:  # until the lock is free
        try:
            engine.run(BUNDLE, tmp_path / "corpus", tmp_path / "out", on_error="reject",
                       split_size=8000)  # fmt: skip
            break
        except engine.errors.OutputError:
            assert time.monotonic() < end
            time.sleep(0.1)
    assert not verify(tmp_path / "out").problems


def test_the_other_interpreter_may_be_missing_or_have_no_engine(
    airflow: Any, tmp_path: Path
) -> None:
    step = airflow.EngineRunOperator(
        task_id="t", model=BUNDLE, inputs="i", out="o", python=str(tmp_path / "python")
    )
    with pytest.raises(AirflowFailException, match="cannot be run: No such file"):
        execute(step)
    (tmp_path / "python").write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'engine'\" >&2; exit 1\n"
    )
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(MissingDependency, match="the engine is not installed there") as raised:
        execute(step)
    assert "-m pip install" in raised.value.hint


def test_a_file_engine_py_in_the_working_directory_is_not_the_engine(
    airflow: Any, numerals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    step = airflow.EngineRunOperator(
        task_id="t", model=BUNDLE, inputs=numerals, out="out", python=sys.executable,
        on_error="reject",
    )  # fmt: skip
    assert execute(step)["rows_out"] == 3


def test_assets_among_the_outlets_learn_what_the_run_did(
    airflow: Any, numerals: Path, tmp_path: Path
) -> None:
    asset, alias = fake_airflow.Asset("file:///answers"), fake_airflow.AssetAlias("answers")
    step = airflow.EngineRunOperator(
        task_id="t", model=BUNDLE, inputs=numerals, out=tmp_path / "out", on_error="reject",
        outlets=[asset, alias, "something else"],
    )  # fmt: skip
    task = Task()
    brief = task.execute(step)
    extra = {"rows": 3, "rejects": 1, "fingerprint": brief["fingerprint"]}
    assert task.events[asset].extra == extra
    assert task.events[alias].added == [((tmp_path / "out").as_uri(), extra)]
    assert step.get_openlineage_facets_on_complete(None) is None  # its provider is not there


def test_lineage_names_the_places_of_a_run(
    airflow: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facet = SimpleNamespace(OutputStatisticsOutputDatasetFacet=dict)
    for name, values in {
        "airflow.providers": {},
        "airflow.providers.openlineage": {},
        "airflow.providers.openlineage.extractors": {"OperatorLineage": dict},
        "openlineage": {},
        "openlineage.client": {},
        "openlineage.client.event_v2": {
            "InputDataset": lambda *names: names,
            "OutputDataset": lambda *names, **facets: (*names, *facets.values()),
        },
        "openlineage.client.facet_v2": {"output_statistics_output_dataset": facet},
    }.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    step = airflow.EngineRunOperator(
        task_id="t", model="m", inputs=["s3://bucket/a/b/", tmp_path / "c"], out="gs://b"
    )
    inputs = [("s3://bucket", "a/b"), ("file", str(tmp_path / "c"))]
    failed = step.get_openlineage_facets_on_complete(None)
    assert failed == {"inputs": inputs, "outputs": [("gs://b", "/", {})]}
    step._brief = {"rows_out": 3, "splits": 2}
    done = step.get_openlineage_facets_on_complete(None)
    assert done["outputs"][0][2] == {"outputStatistics": {"rowCount": 3, "fileCount": 2}}


def test_without_airflow_the_extra_is_named() -> None:
    if "airflow" in sys.modules:
        pytest.skip("Airflow is installed")
    with pytest.raises(MissingDependency, match="not installed") as raised:
        import engine.integrations.airflow  # noqa: F401  # the import is tested
    assert raised.value.hint == 'pip install "corpus-engine[airflow]"'


def test_the_provider_is_listed_without_anything_heavy() -> None:
    info = get_provider_info()
    assert info["package-name"] == "corpus-engine"
    code = (
        "import sys, engine.integrations.airflow_provider as p; p.get_provider_info(); "
        "print([m for m in ('pyarrow', 'numpy', 'airflow', 'typer') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_parsing_loads_nothing_of_a_run(airflow: Any) -> None:
    code = (
        "import sys; from support import fake_airflow\n"
        "with fake_airflow.installed():\n"
        "    import engine.integrations.airflow\n"
        "print([m for m in ('pyarrow', 'numpy', 'typer', 'tokenizers') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.strip() == "[]"


def test_settings_as_options_mean_the_same(tmp_path: Path) -> None:
    words = run_options(
        {
            "text": "a,b", "keep": ["a,b", "c"], "dedupe": False, "overwrite": "false",
            "reject_text": True, "batch_tokens": 7, "split_size": "256MB",
            "schema": {"id": "int64"},
            "options": {"stop": ["x", "-y"]}, "candidate_labels": ["a,b"], "early_stopping": True,
            "num_beams": None, "prefix": "",
        },
        tmp_path,
    )  # fmt: skip
    assert words == [
        "--text=a,b", r"--keep=a\,b,c", "--no-dedupe", "--reject-text", "--batch-tokens=7",
        "--split-size=256MB", f"--schema={tmp_path / 'schema.json'}", r"--candidate-labels=a\,b",
        "--early-stopping=true", "--prefix=", "--stop=x", "--stop=-y",
    ]  # fmt: skip
    assert json.loads((tmp_path / "schema.json").read_text()) == {"id": "int64"}
    with pytest.raises(SettingsError, match="dedupe is 'perhaps'"):
        run_options({"dedupe": "perhaps"}, tmp_path)
    with pytest.raises(SettingsError, match="unknown setting 'worker'"):
        run_options({"worker": 1}, tmp_path)


def test_an_export_that_is_there_already_is_taken(
    airflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    calls: list[Any] = []
    monkeypatch.setattr("engine.export.export", lambda *a, **k: calls.append((a, k)) or REPORT)
    step = {"task_id": "e", "model": CHECKPOINT, "out": tmp_path / "bundle"}
    done = execute(airflow.EngineExportOperator(**step, task="translation_es_to_pt"))
    assert done["path"] == str(tmp_path / "bundle")
    assert done["task"] == "translation"
    assert len(json.dumps(done)) < 500
    assert not calls
    for other in ({"recipe": "int8"}, {"revision": "main"}, {"task": "summarization"},
                  {"subfolder": "inner"}, {"model": "another"}):  # fmt: skip
        execute(airflow.EngineExportOperator(**step | other))
    assert len(calls) == 5


REPORT = ExportReport(Path("b"), "translation", "int8", "", 0.1, 0.2, {"big": "x"}, 7, 1.5, ())


def test_an_export_takes_the_settings_of_the_command(
    airflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("engine.export.export", lambda *a, **k: calls.append((a, k)) or REPORT)
    step = {
        "task_id": "e", "model": "owner/name", "out": tmp_path / "b", "recipe": "int8",
        "sample": "rows.jsonl", "text": "a,b", "force": "true", "allow_pickle": False,
    }  # fmt: skip
    brief = {"path": "b", "task": "translation", "recipe": "int8", "bytes": 7,
             "largest_difference": 0.1, "tolerance": 0.2, "seconds": 1.5}  # fmt: skip
    assert execute(airflow.EngineExportOperator(**step)) == brief
    ((model, out), settings), = calls  # fmt: skip
    assert (model, out) == ("owner/name", tmp_path / "b")
    progress = settings.pop("progress")
    assert settings == {
        "task": None, "recipe": "int8", "sample": Path("rows.jsonl"), "text": ("a", "b"),
        "force": True, "allow_pickle": False,
    }  # fmt: skip
    progress("loading")
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"print(json.dumps({{**{brief!r}, 'gate': sys.argv}}))"
    )
    python.chmod(0o755)
    assert execute(airflow.EngineExportOperator(**step, python=str(python))) == brief
    words = export_options(airflow.EngineExportOperator(**step).settings)
    assert words == ["--recipe=int8", "--sample=rows.jsonl", "--text=a,b", "--force"]


def test_a_killed_export_stops_at_its_next_stage(
    airflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = airflow.EngineExportOperator(task_id="e", model="m", out=tmp_path / "b")

    def export(*_: object, progress: Any, **settings: object) -> None:
        progress("loading")
        step.on_kill()
        progress("comparing")

    monkeypatch.setattr("engine.export.export", export)
    with pytest.raises(Stopped):
        execute(step)


def test_the_example_of_one_step(airflow: Any) -> None:
    names = runpy.run_path(str(ROOT / "examples/airflow/one_step.py"))
    assert ast.get_docstring(ast.parse((ROOT / "examples/airflow/one_step.py").read_text()))
    assert "EngineRunOperator" in names


def test_the_example_of_mapped_shares(airflow: Any, tmp_path: Path) -> None:
    names = runpy.run_path(str(ROOT / "examples/airflow/mapped_shares.py"))
    shares = names["shares"]
    assert [step.settings["share"] for step in shares] == ["1/4", "2/4", "3/4", "4/4"]
    for number in range(6):
        write_jsonl(tmp_path / f"in/{number}.jsonl", ["uno", "dos"], 2 * number)
    out = tmp_path / "out"
    finished = []
    for step in shares:
        step.inputs, step.out = str(tmp_path / "in"), str(out)  # as Airflow renders them
        execute(step)
        finished.append((out / "_SUCCESS").exists())
    assert finished == [False, False, False, True]
    names["check"](str(out))()
    next(out.glob("*.arrow")).write_bytes(b"changed")
    with pytest.raises(ValueError, match="arrow"):
        names["check"](str(out))()
