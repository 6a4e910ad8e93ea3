"""Steps of an Airflow DAG: a run over a corpus, shares of one, and an export.

    EngineRunOperator(task_id="embed", model="bundles/minilm", inputs="corpus", out="out/{{ ds }}")
    EngineRunOperator.partial(...).expand(share=engine_shares(8))

A step runs in the task's own process or, with `python`, in another interpreter. Either way a task
that is ended leaves no process and no locked folder behind, and its next try goes on where it was.

A DAG is parsed again and again, so nothing of a run is imported before a task executes.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from engine.core.config import RunConfig
from engine.core.keywords import RunArguments
from engine.core.settings import check_choice, check_names, declared, split_commas
from engine.errors import EngineError, MissingDependency, OtherRunError, SettingsError, Stopped
from engine.integrations.airflow_supervisor import ended_with_supervisor

try:
    from airflow.sdk import BaseOperator
except ImportError as error:
    raise MissingDependency(
        "apache-airflow 3.0 or later is not installed", 'pip install "corpus-engine[airflow]"'
    ) from error

if TYPE_CHECKING:
    from engine.core.telemetry import Progress

__all__ = ["EngineExportOperator", "EngineRunOperator", "engine_shares"]

SETTINGS = tuple(RunArguments.__annotations__)
"""Of a run and of every task, by name."""
EXPORT_SETTINGS = (
    "task", "revision", "subfolder", "recipe", "sample", "text", "force", "allow_pickle",
)  # fmt: skip
ON_REJECTS = ("succeed", "fail", "skip")
_PROGRESS_SECONDS = 10.0


def engine_shares(count: int) -> list[str]:
    """The shares 1/n to n/n of a run, for `EngineRunOperator.partial(...).expand(share=...)`.

    Raises:
        SettingsError: `count` is no whole number from 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingsError(f"engine_shares({count!r})", "a whole number, 1 or more")
    return [f"{number}/{count}" for number in range(1, count + 1)]


def _taking(names: Iterable[str]) -> Callable[[Any], Any]:
    """Have an `__init__` show these names, which Airflow looks up in its signature: for
    `default_args`, `partial` and `expand`."""

    def decorate(init: Any) -> Any:
        *own, rest = inspect.signature(init).parameters.values()
        there = {parameter.name for parameter in own}
        settings = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in names
            if name not in there
        ]
        init.__signature__ = inspect.Signature([*own, *settings, rest])
        return init

    return decorate


class _EngineOperator(BaseOperator):  # type: ignore[misc]  # Airflow is not installed where mypy is
    """What both steps share: where they run, how they end, and how they fail.

    Attributes:
        python: An interpreter with an engine of its own; "" for the task's own process.
        settings: What was given of the step's settings, by name.
    """

    _stop: threading.Event | None = None
    _outside: Any = None
    _killed = False
    _brief: Mapping[str, Any] | None = None

    def on_kill(self) -> None:
        """End what runs; Airflow calls this from its handler of SIGTERM, and after a timeout."""
        self._killed = True
        if self._stop is not None:
            self._stop.set()
        if self._outside is not None:
            self._outside.stop()

    def _call_outside(self, arguments: Sequence[str], accepted: Sequence[int] = (0,)) -> str:
        """What a command of the other interpreter's engine prints."""
        from engine.integrations.outside_process import OutsideProcess

        self._outside = OutsideProcess(self.python, arguments)
        if self._killed:  # before there was anything to end
            self._outside.stop()
        with ended_with_supervisor(self.on_kill):
            return str(self._outside.run(lambda line: self.log.info("%s", line), accepted))

    @contextmanager
    def _stoppable(self) -> Iterator[threading.Event]:
        """The event that ends what runs in this process."""
        self._stop = threading.Event()
        if self._killed:  # before there was anything to end
            self._stop.set()
        with ended_with_supervisor(self.on_kill):
            yield self._stop

    def _tell_stage(self, line: str) -> None:
        """Log a line that comes before each stage of an export, where a kill ends it."""
        self.log.info("%s", line)
        if self._killed:
            raise Stopped("stopped", "run the same task again to go on")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Fail without a retry where that could only fail again; else as it is, and Airflow tries
        again."""
        try:
            with _naming(f"task {self.task_id!r}"):
                yield
        except (SettingsError, OtherRunError) as error:
            raise _exception("AirflowFailException")(str(error)) from error


class EngineRunOperator(_EngineOperator):
    """Answer a corpus, as `engine run` does: resumable, and exact whatever ends it.

    Args:
        model: A bundle; or a checkpoint (folder, hub id), which is exported once.
        inputs: Files, folders or globs of the corpus, or URLs of an object store.
        out: The output folder, continued by the next try; or a file, or a URL.
        python: An interpreter with an engine of its own, such as /opt/engine/bin/python, which
            runs it instead of the task's process, in the same process group.
        on_rejects: What becomes of the task where rows were rejected: "succeed", "fail" (without
            a retry) or "skip". Naming it sets on_error="reject"; without it the run ends at the
            first bad row.
        kwargs: The settings of `engine.run`, the task's own options too, each of them a template
            whose text is read as on the command line; and what every operator takes.

    Returns (as XCom): `Report.brief()`.

    Each asset among `outlets` gets rows, rejects and fingerprint as its event's extra; an
    `AssetAlias` gets the asset of `out`.
    """

    template_fields: ClassVar[Sequence[str]] = (
        "model", "inputs", "out", "python", "on_rejects", "settings",
    )  # fmt: skip
    template_fields_renderers: ClassVar[Mapping[str, str]] = {"settings": "json"}
    ui_color = "#e4f1e1"

    @_taking(SETTINGS)
    def __init__(
        self,
        *,
        model: Any,
        inputs: Any,
        out: Any,
        python: str = "",
        on_rejects: str = "",
        **kwargs: Any,
    ) -> None:
        self.settings = _settings_of(kwargs, SETTINGS)
        if not getattr(self, "_BaseOperator__from_mapped", False):  # those are made in their task
            _check_early(kwargs.get("task_id"), self.settings)
        super().__init__(**kwargs)
        self.model, self.inputs, self.out = model, inputs, out
        self.python, self.on_rejects = python, on_rejects

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Run until all is answered; see the class."""
        with self._failing():
            settings = self._settled()
            brief = self._run_outside(settings) if self.python else self._run_here(settings)
        self._brief = brief
        return self._judged(brief, context)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The corpus and the output, for the OpenLineage provider, which calls this at the end of
        a task, also of one that has failed."""
        from engine.integrations import airflow_lineage

        return airflow_lineage.facets(_paths(self.inputs), str(self.out), self._brief)

    def _settled(self) -> dict[str, Any]:
        """The settings of this try, rendered."""
        settings = dict(self.settings)
        if self.on_rejects:
            check_choice("on_rejects", self.on_rejects, ON_REJECTS)
            if settings.setdefault("on_error", "reject") != "reject":
                raise SettingsError(
                    f"on_rejects is {self.on_rejects!r}, and on_error is {settings['on_error']!r}",
                    "leave one of them out, or set on_error='reject'",
                )
        if "-" in (str(self.out), *_paths(self.inputs)):
            raise SettingsError("a task has no standard input or output", "name files or folders")
        return settings

    def _run_here(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Run in this process."""
        from engine.export.cache import bundle_for
        from engine.runner.coordinator import run

        if "stop" in settings:  # the texts that end a row; to `run` it may also be an event
            settings["options"] = {**settings.get("options", {}), "stop": settings.pop("stop")}
        with self._stoppable() as stop:
            bundle = bundle_for(str(self.model), progress=self._tell_stage)
            report = run(
                bundle,
                _paths(self.inputs),
                str(self.out),
                on_progress=_every(self._tell),
                stop=stop,
                **settings,
            )
        for note in report.notes:
            self.log.info("note: %s", note)
        return report.brief()

    def _run_outside(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Run in the other interpreter."""
        from engine.integrations.command_line import run_options
        from engine.runner.brief import brief

        with TemporaryDirectory() as folder:
            options = run_options(settings, Path(folder))
            words = ["run", "--json", f"--out={self.out}", *options, "--", str(self.model)]
            printed = self._call_outside([*words, *_paths(self.inputs)], accepted=(0, 3))
        return brief(json.loads(printed))

    def _tell(self, progress: Progress) -> None:
        self.log.info("%4.0f%%  %s", 100 * progress.done, progress)

    def _judged(self, brief: dict[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
        """What the task returns; what becomes of it where rows were rejected."""
        rejects = brief["rows_rejected"]
        if rejects and self.on_rejects in ("fail", "skip"):
            if self.do_xcom_push:
                context["ti"].xcom_push(key="return_value", value=brief)
            kind = "AirflowFailException" if self.on_rejects == "fail" else "AirflowSkipException"
            raise _exception(kind)(
                f"{rejects:,} rows were rejected: engine rejects {self.out} lists them"
            )
        if rejects:
            self.log.warning(
                "%s rows were rejected: engine rejects %s lists them", rejects, self.out
            )
        from engine.integrations import airflow_lineage

        airflow_lineage.tell_assets(self.outlets, context["outlet_events"], str(self.out), brief)
        return brief


class EngineExportOperator(_EngineOperator):
    """Turn a checkpoint into a bundle, as `engine export` does; a bundle that is there already, of
    the same checkpoint, task and recipe, is taken for it.

    Args:
        model: A hub id, or a checkpoint's folder.
        out: The bundle's folder.
        python: An interpreter with the engine's extra `export`, which runs it in place of the
            task's process.
        kwargs: task, revision, subfolder, recipe, sample, text, force and allow_pickle of
            `engine export`; and what every operator takes.

    Returns (as XCom): path, task, recipe, bytes, largest_difference, tolerance and seconds.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "out", "python", "settings")
    template_fields_renderers: ClassVar[Mapping[str, str]] = {"settings": "json"}
    ui_color = "#e1ebf4"

    @_taking(EXPORT_SETTINGS)
    def __init__(self, *, model: Any, out: Any, python: str = "", **kwargs: Any) -> None:
        self.settings = _settings_of(kwargs, EXPORT_SETTINGS)
        super().__init__(**kwargs)
        self.model, self.out, self.python = model, out, python

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Export, unless it is done; see the class."""
        with self._failing():
            if done := self._already():
                return done
            report = self._export_outside() if self.python else self._export_here()
        return _brief_of(report)

    def _already(self) -> dict[str, Any] | None:
        """What there is to say of the bundle in `out`, where it is the one that would be made."""
        from engine.bundle import format as bundle_format
        from engine.errors import BundleError
        from engine.export.report import report
        from engine.tasks import find

        out, settings = Path(self.out), self.settings
        try:
            description = bundle_format.load(out).description
        except BundleError:
            return None
        source = description.source
        alike = (
            source.get("model") in (str(self.model), Path(self.model).name),
            source.get("subfolder", "") == settings.get("subfolder", ""),
            settings.get("revision")
            in (None, source.get("requested_revision"), source.get("revision")),
            settings.get("task") is None or find(settings["task"]).name == description.task,
            settings.get("recipe", "fp32") == description.recipe,
        )
        if not all(alike):
            return None
        self.log.info("%s has this bundle already", out)
        return _brief_of(dataclasses.asdict(report(out, description, 0.0)))

    def _export_here(self) -> dict[str, Any]:
        from engine.export import export
        from engine.integrations.command_line import EXPORT_FLAGS, is_set

        settings = {"task": None, **self.settings}
        for name in EXPORT_FLAGS:
            if name in settings:
                settings[name] = is_set(name, settings[name])
        if "sample" in settings:
            settings["sample"] = Path(settings["sample"])
        if isinstance(settings.get("text"), str):
            settings["text"] = split_commas(settings["text"])
        with self._stoppable():
            report = export(str(self.model), Path(self.out), progress=self._tell_stage, **settings)
        return dataclasses.asdict(report)

    def _export_outside(self) -> dict[str, Any]:
        from engine.integrations.command_line import export_options

        words = ["export", "--json", f"--out={self.out}", *export_options(self.settings), "--"]
        printed = self._call_outside([*words, str(self.model)])
        return dict(json.loads(printed))


_EXPORTED = ("task", "recipe", "bytes", "largest_difference", "tolerance", "seconds")
# A schema is a file, which need not be where DAGs are parsed.
_CHECKED_EARLY = frozenset(declared(RunConfig)) - {"schema", "options"}
_OF_AIRFLOW = frozenset(inspect.signature(BaseOperator.__init__).parameters)
"""What every operator takes."""


def _brief_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """An export's report as it is pushed, which stays small."""
    return {"path": str(report["path"]), **{name: report[name] for name in _EXPORTED}}


def _settings_of(arguments: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Take the settings out of an operator's arguments, and refuse what is neither a setting nor
    Airflow's.

    Raises:
        SettingsError: Naming the task.
    """
    settings = {name: arguments.pop(name, None) for name in known}
    unknown = [n for n in arguments if n not in _OF_AIRFLOW and not n.startswith("_")]
    with _naming(f"task {arguments.get('task_id')!r}"):
        check_names("setting", unknown, known)
    return {name: value for name, value in settings.items() if value is not None}


def _check_early(task: object, settings: Mapping[str, Any]) -> None:
    """Refuse values of a run's settings while the DAG is parsed, but for those that are templates
    or come from other tasks.

    Raises:
        SettingsError: Naming the task.
    """
    with _naming(f"task {task!r}"):
        for name, value in settings.items():
            if name in _CHECKED_EARLY and _is_plain(value):
                RunConfig.of({name: value})


def _is_plain(value: object) -> bool:
    """Whether a value is what it will be when the task executes."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    return isinstance(value, (bool, int, float))


def _paths(inputs: object) -> list[str]:
    """One path or several, also those that another task has pushed."""
    several = isinstance(inputs, Iterable) and not isinstance(inputs, (str, bytes))
    return [str(path) for path in inputs] if several else [str(inputs)]  # type: ignore[attr-defined]  # several


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say where an error is of in its message."""
    try:
        yield
    except EngineError as error:
        error.message = f"{where}: {error.message}"
        error.args = (error.message,)
        raise


def _exception(name: str) -> Any:
    """An exception of Airflow's, which 3.2 has moved."""
    for place in ("airflow.sdk.exceptions", "airflow.exceptions"):
        with suppress(ImportError):
            if kind := getattr(importlib.import_module(place), name, None):
                return kind
    return RuntimeError


def _every(tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Tell progress every ten seconds."""
    last = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            tell(progress)

    return on_progress
