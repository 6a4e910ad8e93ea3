"""engine run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import completion, config_file, pipe, terminal
from engine.cli.export import RECIPES, export_shares
from engine.cli.log import FORMATS, SECONDS, Log, every, logging, progress_metrics, write_metrics
from engine.cli.progress import shown, steps
from engine.cli.rerun import recorder
from engine.cli.typed_names import as_typed
from engine.core.config import RunConfig
from engine.core.settings import declared, format_size
from engine.core.telemetry import Progress, duration
from engine.errors import OtherRunError, SettingsError

if TYPE_CHECKING:
    from engine.runner.preview import Preview
    from engine.runner.report import Report


_Model = Annotated[
    str,
    typer.Argument(
        help="A bundle; or a checkpoint (folder, hub id), which is exported once.",
        autocompletion=completion.bundles,
    ),
]
_Inputs = Annotated[
    list[str],
    typer.Argument(help="Files of a corpus, folders or globs; - for standard input."),
]
_Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        help="Output folder, where a run that is there already is continued; or a file that "
        "ends in .arrow, .parquet, .jsonl or .csv; either also in an object store, "
        "s3://bucket/out, gs:// or az://; or - for JSON lines to standard output.",
    ),
]
_Task = Annotated[
    str | None,
    typer.Option(
        help="If MODEL is a checkpoint: its task; see engine tasks.",
        autocompletion=completion.tasks,
    ),
]
_Revision = Annotated[str | None, typer.Option(help="If MODEL is a hub id: commit, tag or branch.")]
_Recipe = Annotated[
    str | None,
    typer.Option(
        help="If MODEL is a checkpoint: fp32 (the default), int8 or another recipe.",
        autocompletion=RECIPES,
    ),
]
_AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="If MODEL is a checkpoint: load .bin weights.")
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
]
_AsJson = Annotated[
    bool, typer.Option("--json", envvar="ENGINE_JSON", help="Print one JSON summary.")
]
_RejectsOk = Annotated[
    bool, typer.Option("--rejects-ok", help="End with exit code 0 where rows were rejected.")
]
_Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        is_eager=True,
        callback=config_file.load,
        help="A TOML file with names of options as keys, also model, inputs and out. The "
        "command line counts before variables such as ENGINE_MAX_LENGTH, these before the "
        "file, and the file before the defaults.",
    ),
]
_Save = Annotated[
    str | None, typer.Option(help="Write what is given here, and by --config, to a TOML file.")
]

_Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress and no summary, only errors.")
]
_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also show the time at work by stage.")
]
_LogFile = Annotated[
    str | None, typer.Option(help="Add progress, summary and error to this file, a line each.")
]
_LogFormat = Annotated[
    str,
    typer.Option(
        help="Lines of the log, or of standard error without one: text or json.",
        autocompletion=completion.one_of(FORMATS),
    ),
]
_MetricsFile = Annotated[
    str | None,
    typer.Option(
        help="A .prom file for the textfile collector of Prometheus' node exporter, written "
        "every 10 seconds and at the end."
    ),
]
_Report = Annotated[
    str,
    typer.Option(
        help="Write a page of the run to look at, one HTML file, when it ends; see engine report."
    ),
]


def run(
    ctx: typer.Context,
    model: _Model,
    inputs: _Inputs,
    out: _Out,
    task: _Task = None,
    revision: _Revision = None,
    recipe: _Recipe = None,
    allow_pickle: _AllowPickle = False,
    dry_run: _DryRun = False,
    as_json: _AsJson = False,
    rejects_ok: _RejectsOk = False,
    config: _Config = None,
    save: _Save = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
    log_file: _LogFile = None,
    log_format: _LogFormat = "text",
    metrics_file: _MetricsFile = None,
    report: _Report = "",
) -> None:
    """Run a model over a corpus and write part files. Run it again to continue a stopped run."""
    from engine.export.cache import bundle_for
    from engine.runner import coordinator

    arguments = {**ctx.meta["settings"], "options": ctx.meta["options"]}
    check = partial(_check_early, inputs=inputs, out=out, settings=arguments)
    check(None)
    _check_report(report, out)
    if save:
        config_file.save(save, ctx.meta["given"])
    source: dict[str, Any] = {
        "task": task, "revision": revision, "recipe": recipe, "allow_pickle": allow_pickle,
    }  # fmt: skip
    if dry_run:
        _show_plan(model, source, inputs, out, arguments, as_json)
        return
    with steps(export_shares(recipe)) as tell:
        bundle = bundle_for(model, **source, progress=tell, check=check)
    record = recorder(out, arguments, ctx.meta["given"])
    with logging(log_file, log_format) as log:
        on_progress, finish = _told(log, metrics_file, log_file, bundle.name)
        with shown(as_json or quiet, lines=not quiet and (log is None or bool(log_file))) as show:
            callbacks = (lambda progress: record(), on_progress, show)
            run_into = partial(
                coordinator.run, bundle, inputs, on_progress=partial(_all, callbacks)
            )
            done = pipe.run(run_into, out, arguments)
        record()  # a run that is refused leaves the record of the folder's own
        finish(done)
    if as_json or not quiet:
        _show(done, as_json, verbose, err=out == pipe.STDOUT)
    elif verbose:
        terminal.show(*_stages(done), err=out == pipe.STDOUT)
    if report:
        _write_report(report, out)
    raise typer.Exit(0 if rejects_ok else done.exit_code)


def _check_report(page: str, out: str) -> None:
    """Refuse a page that cannot be written, before anything is computed.

    Raises:
        SettingsError: It cannot lie there, or the output keeps no records to make it of.
    """
    from engine.data import is_url
    from engine.reporting.page_file import check_page
    from engine.runner import single_file

    check_page(page, "--report")
    single = is_url(out) and single_file.is_file(out)
    if page and (single or out == pipe.STDOUT):
        raise SettingsError(
            f"--report is given with -o {out}, which keeps no records of the run",
            "name a folder or a local file with -o",
        )
    if page and Path(out).absolute() in Path(page).absolute().parents:
        raise SettingsError(f"--report {page}: lies in the output", "a place beside it")


def _write_report(page: str, out: str) -> None:
    from engine.reporting import report as write

    terminal.tell(f"report: {write(out, page)}")


def _stages(report: Report) -> list[str]:
    """The time at work of every stage, and what computed."""
    times = ", ".join(f"{stage} {spent:.2f} s" for stage, spent in report.stage_seconds.items())
    return [
        f"time at work: {times or 'none'}",
        f"ran on: {report.ran.get('provider', report.device)}",
    ]


def _told(
    log: Log | None, metrics: str | None, log_file: str | None, model: str
) -> tuple[Callable[[Progress], None], Callable[[Report], None]]:
    """What is told to the log and to the file of metrics: at each progress, and at the end."""
    labels = {"model": model}

    def update(progress: Progress) -> None:
        if log:
            log.progress(progress)
        if metrics:
            write_metrics(metrics, progress_metrics(progress), labels)

    def finish(report: Report) -> None:
        if log and log_file:
            log.write("summary", "; ".join(summary(report)), **report.brief())
        if metrics:
            write_metrics(metrics, _final_metrics(report), labels)

    if metrics:
        write_metrics(metrics, {"running": 1}, labels)
    return every(SECONDS, update), finish


def _final_metrics(report: Report) -> dict[str, float]:
    return {
        "running": 0,
        "done_ratio": 1,
        "rows": report.rows_computed,
        "rows_rejected": report.rows_rejected,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "finished_timestamp_seconds": int(time.time()),
    }


def _all(callbacks: Sequence[Callable[[Progress], None]], progress: Progress) -> None:
    for callback in callbacks:
        callback(progress)


def _check_early(
    task: str | None, inputs: list[str], out: str, settings: Mapping[str, Any]
) -> None:
    """Check all that can be checked while the checkpoint is not exported, which may take minutes;
    without its task that is less."""
    from engine.runner import plan

    if task is None:
        pipe.check_out(out, settings)
        plan.check_settings(inputs, pipe.folder_of(out, settings), settings)
    else:
        plan.check_early(task, inputs, pipe.folder_of(out, settings), settings)


def _show_plan(
    model: str,
    source: Mapping[str, Any],
    inputs: list[str],
    out: str,
    settings: Mapping[str, Any],
    as_json: bool,
) -> None:
    from engine.export import planned_task
    from engine.export.cache import locate
    from engine.runner import preview

    found = locate(model, **source, progress=terminal.tell)
    if not found.is_there:
        resolved = planned_task(
            found.model, task=source["task"], revision=found.revision, recipe=source["recipe"]
        )
        export = f"{found.name} would be exported for {resolved} into {found.folder} first"
        recipe = source["recipe"] or "fp32"
        arguments = (resolved, recipe, inputs, pipe.folder_of(out, settings), settings, export)
        plan = preview.plan_early(*arguments)
    else:
        plan = preview.plan(found.folder, inputs, pipe.previewed(out, settings), **settings)
    if as_json:
        terminal.show_json(plan.to_dict())
    else:
        terminal.show(*plan_text(plan))
    if plan.refused:
        raise typer.Exit(OtherRunError.exit_code)


def plan_text(plan: Preview) -> list[str]:
    """A run that has not begun in a few lines."""
    names = plan.files if len(plan.files) <= 6 else (*plan.files[:3], "...", *plan.files[-2:])
    about = "" if plan.rows_exact else "about "
    rows = "an unknown number of rows" if plan.rows is None else f"{about}{plan.rows:,} rows"
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in plan.kinds.items())
    parts = ", ".join(f"{count:,} {state}" for state, count in plan.parts.items())
    lines = [
        f"{plan.task}, recipe {plan.recipe}, on {plan.device}",
        f"inputs: {len(plan.files):,} files ({kinds}), {rows}: {', '.join(names)}",
        f"reads:  {_columns(plan.reads)}",
        f"writes: {_columns(plan.writes)}",
        f"parts:  {sum(plan.parts.values()):,} in {plan.out}: {parts or 'none'}",
        f"settings: {_settings(plan.settings)}",
    ]
    if plan.unread:
        unread = ", ".join(f"{count:,} {ending}" for ending, count in plan.unread.items())
        lines.append(f"not read: {unread}")
    if plan.removed:
        lines.append(
            f"removed: the answers for {len(plan.removed):,} files that are no inputs any more, "
            f"such as those for {plan.removed[0]}"
        )
    if plan.refused:
        lines.append(f"engine run would end with: {plan.refused}")
    return [*lines, *(f"note: {as_typed(note)}" for note in plan.notes)]


def _columns(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items())


def _settings(settings: Mapping[str, Any]) -> str:
    """Settings that are not the default, those that a run fills in, and the task's options."""
    shown: dict[str, Any] = {}
    for name, (_, setting) in declared(RunConfig).items():
        value = settings[name]
        if name in ("workers", "threads") or value != getattr(_DEFAULTS, name):
            shown[name] = format_size(value) if setting.size else value
    options = {name: value for name, value in shown.pop("options", {}).items() if value}
    elsewhere = ("text", "keep", "overwrite")
    return ", ".join(f"{n} {v}" for n, v in {**shown, **options}.items() if n not in elsewhere)


_DEFAULTS = RunConfig()


def _show(report: Report, as_json: bool, verbose: bool, *, err: bool) -> None:
    if as_json:
        terminal.show_json(report.to_dict(), err=err)
    else:
        terminal.show(*summary(report), *(_stages(report) if verbose else ()), err=err)


def summary(report: Report) -> list[str]:
    """A finished run in a few lines."""
    lines = [
        f"{report.rows_in:,} rows in, {report.rows_out:,} answered, "
        f"{report.rows_rejected:,} rejected",
    ]
    if report.out != pipe.STDOUT:
        done = f"({report.splits_skipped} were already done)"
        share = f"share {report.share}: " if report.share else ""
        lines.append(f"{share}{report.splits} parts in {report.out} {done}")
    if report.rows_computed:
        lines.append(
            f"{duration(report.seconds)} on {report.device}: {report.rows_per_second:,.0f} rows/s, "
            f"{report.tokens_per_second:,.0f} tokens/s, padding {report.padding:.2f}"
            + ("" if report.occupancy is None else f", decoder {report.occupancy:.0%} occupied")
        )
    if report.rows_resumed:
        lines.append(f"{report.rows_resumed:,} rows were computed by an earlier start")
    if report.repeats:
        lines.append(f"{report.repeats:,} repeated sequences were computed once (--no-dedupe)")
    if report.rows_rejected and report.out == pipe.STDOUT:
        reasons = ", ".join(f"{count} {code}" for code, count in report.rejected.items())
        lines.append(f"bad rows, which only a folder or a file records: {reasons}")
    elif report.rows_rejected:
        lines.append(f"bad rows, by file, number and reason: engine rejects {report.out}")
    lines += [f"note: {as_typed(note)}" for note in report.notes]
    return lines
