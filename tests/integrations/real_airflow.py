"""The operators in a real Airflow: the examples, and tasks that are ended in five ways.

    PYTHONPATH=tests python -m integrations.real_airflow [--only NAME ...] [--save FILE] [--long]
        [--export-python PYTHON]

With an interpreter that has the extra `export` a checkpoint is exported, too, and its bundle run.
It needs Airflow, the engine and its extra `cpu` in one environment (scripts/test-airflow). A task
that was ended must leave no process after five seconds, its folder must be free by then, and in
the end the output must be that of a run that nobody disturbed, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from integrations.airflow_server import Airflow, wait_for

import engine
from engine.demo import BUNDLE, corpus
from engine.runner.lock_holder import process_start, read_holder
from engine.runner.verify import verify

ROOT = Path(engine.__file__).parents[1]
EXAMPLES = ROOT / "examples" / "airflow"
CHECKPOINT = ROOT / "engine" / "demo" / "checkpoint"
SECONDS = 5.0
"""After which nothing of an ended task may be left."""
SHARE = 0.6
"""Of the seconds of an undisturbed run, after which a task times out."""
SETTINGS = {
    "text": "text", "keep": "id", "on_error": "reject", "split_size": 12_000, "window": 64,
    "batch_tokens": 256, "workers": 1, "threads": 1,
}  # fmt: skip
DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from engine.integrations.airflow import EngineRunOperator

for name, python in (("here", ""), ("outside", {python!r})):
    for ending, seconds in (("", None), ("_timeout", {timeout})):
        with DAG(name + ending, schedule=None, params={{"corpus": "", "out": ""}}):
            EngineRunOperator(
                task_id="translate", model={model!r}, inputs="{{{{ params.corpus }}}}",
                out="{{{{ params.out }}}}", python=python, retries=20,
                retry_delay=timedelta(seconds=1),
                execution_timeout=seconds and timedelta(seconds=seconds), **{settings!r},
            )
"""
TASK = "translate"
EXPORT_DAG = """
from airflow.sdk import DAG
from engine.integrations.airflow import EngineExportOperator, EngineRunOperator

with DAG("exported", schedule=None, params={{"bundle": "", "corpus": "", "out": ""}}):
    EngineExportOperator(
        task_id="export", model={checkpoint!r}, out="{{{{ params.bundle }}}}", task="translation",
        recipe="int8", python={python!r},
    ) >> EngineRunOperator(
        task_id="translate", model="{{{{ ti.xcom_pull('export')['path'] }}}}",
        inputs="{{{{ params.corpus }}}}", out="{{{{ params.out }}}}", **{settings!r},
    )
"""


class Case:
    """One run of a DAG that is ended, and goes on.

    Args:
        airflow: Where.
        dag: "here" for an engine in the task's process, "outside" for another interpreter.
        corpus, out: Its input and its output.
    """

    def __init__(self, airflow: Airflow, dag: str, inputs: Path, out: Path) -> None:
        self.airflow, self.dag, self.out = airflow, dag, out
        self.run = airflow.trigger(dag, {"corpus": str(inputs), "out": str(out)})
        wait_for(self._is_under_way, 120, f"{dag}: two parts")
        self.pids = self._processes()
        self.supervisor = _parent(int(self.task()["pid"]))

    def task(self) -> dict[str, Any]:
        return self.airflow.task(self.dag, self.run, TASK)

    def _is_under_way(self) -> bool:
        return len(list(self.out.glob("*.arrow"))) >= 2 and bool(self._holder())

    def _holder(self) -> int:
        with suppress(OSError):
            if holder := read_holder((self.out / "_manifest/.lock").read_bytes()):
                return holder.pid
        return 0

    def _processes(self) -> set[int]:
        """All processes of the task's group, and the one that holds the folder."""
        group = int(self.task()["pid"])
        members = {pid for pid in _running() if _group(pid) == group}
        return members | {group, self._holder()} - {0}

    def until_gone(self) -> float:
        """Seconds until none of these processes is there, which also frees their folder."""
        return wait_for(lambda: not any(map(_runs, self.pids)), 60, f"{self.pids} to end")

    def until_done(self) -> None:
        wait_for(lambda: self.airflow.state(self.dag, self.run) == "success", 200, self.dag)


def cleared(case: Case) -> float:
    case.airflow.clear(case.dag, case.run, TASK)
    return case.until_gone()


def marked_failed(case: Case) -> float:
    path = f"/dags/{case.dag}/dagRuns/{case.run}/taskInstances/{TASK}"
    case.airflow.patch(path, {"new_state": "failed"})
    seconds = case.until_gone()
    # The scheduler would undo a clearing that comes before it has noticed.
    wait_for(lambda: case.airflow.state(case.dag, case.run) == "failed", 60, "a failed run")
    case.airflow.clear(case.dag, case.run, TASK)
    return seconds


def scheduler_stopped(case: Case) -> float:
    """All processes of the scheduler are asked to end, as by the system that runs it. One that
    hears of it alone waits for its tasks."""
    case.airflow.stop("scheduler", signal.SIGTERM)
    seconds = case.until_gone()
    wait_for(lambda: case.airflow.has_ended("scheduler"), 60, "the scheduler to end")
    case.airflow.start("scheduler")
    return seconds


def worker_killed(case: Case) -> float:
    """The process that supervises the task; the task itself is left alone by it."""
    os.kill(case.supervisor, signal.SIGKILL)
    return case.until_gone()


def task_killed(case: Case) -> float:
    os.kill(int(case.task()["pid"]), signal.SIGKILL)
    return case.until_gone()


def timed_out(case: Case) -> float:
    """The DAG of this case has a timeout; from then on until all is gone."""
    wait_for(lambda: case.task()["state"] != "running", 60, "a timeout")
    return case.until_gone()


ENDINGS: dict[str, tuple[Callable[[Case], float], str]] = {
    "cleared": (cleared, ""),
    "marked-failed": (marked_failed, ""),
    "scheduler-stopped": (scheduler_stopped, ""),
    "worker-killed": (worker_killed, ""),
    "task-killed": (task_killed, ""),
    "timed-out": (timed_out, "_timeout"),
}


def try_ending(airflow: Airflow, ending: str, mode: str, work: Path) -> dict[str, Any]:
    """End a task in one way, let Airflow try again, and compare."""
    end, suffix = ENDINGS[ending]
    out = work / f"{ending}-{mode}"
    case = Case(airflow, mode + suffix, work / "corpus", out)
    seconds = end(case)
    case.until_done()
    brief, task = airflow.xcom(case.dag, case.run, TASK), case.task()
    return {
        "seconds_until_gone_and_free": round(seconds, 2),
        "tries": task["try_number"],
        "parts_of_earlier_tries": brief["splits_skipped"],
        "rows_of_earlier_tries": brief["rows_resumed"],
        "parts": brief["splits"],
        "equal": hashes(out) == hashes(work / "undisturbed"),
        "problems": list(verify(out).problems),
        "xcom_bytes": len(json.dumps(brief)),
        "holds": seconds <= SECONDS and hashes(out) == hashes(work / "undisturbed")
        and brief["splits_skipped"] + brief["rows_resumed"] > 0,
    }  # fmt: skip


def try_one_step(airflow: Airflow, work: Path) -> dict[str, Any]:
    """The example of one step, and its asset's event."""
    out = work / "one-step"
    run = airflow.trigger("translate_corpus", {"corpus": str(work / "corpus"), "out": str(out)})
    wait_for(lambda: airflow.state("translate_corpus", run) == "success", 300, "one step")
    events = airflow.get("/assets/events")["asset_events"]
    brief = airflow.xcom("translate_corpus", run, TASK)
    extra = {k: v for k, v in events[0]["extra"].items() if k in ("rows", "rejects", "fingerprint")}
    expected = {n: brief[k] for n, k in (("rows", "rows_out"), ("rejects", "rows_rejected"))}
    holds = extra == {**expected, "fingerprint": brief["fingerprint"]} and not verify(out).problems
    return {"asset_extra": extra, "xcom_bytes": len(json.dumps(brief)), "holds": holds}


def try_lineage(airflow: Airflow, work: Path) -> dict[str, Any]:
    """The event that the OpenLineage provider sends at the end of the example of one step."""
    out = work / "lineage"
    run = airflow.trigger("translate_corpus", {"corpus": str(work / "corpus"), "out": str(out)})
    wait_for(lambda: airflow.state("translate_corpus", run) == "success", 300, "one step")
    wait_for(lambda: _completed(airflow.lineage, out), 60, "its event")
    event = _completed(airflow.lineage, out)[0]
    brief = airflow.xcom("translate_corpus", run, TASK)
    (given,), (made,) = event["inputs"], event["outputs"]
    statistics = made["outputFacets"]["outputStatistics"]
    return {
        "job": event["job"]["name"],
        "rows": statistics["rowCount"],
        "files": statistics["fileCount"],
        "holds": given["name"] == str(work / "corpus")
        and (statistics["rowCount"], statistics["fileCount"])
        == (brief["rows_out"], brief["splits"]),
    }


def _completed(file: Path, out: Path) -> list[dict[str, Any]]:
    """The events of finished tasks that have an output."""
    lines = file.read_text().splitlines() if file.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [
        event
        for event in events
        if event["eventType"] == "COMPLETE"
        and [one["name"] for one in event.get("outputs", ())] == [str(out)]
    ]


def try_export(airflow: Airflow, work: Path) -> dict[str, Any]:
    """A checkpoint that one task exports and the next one runs; the second time it is there."""
    few = work / "few"
    corpus.write(few, 300)
    briefs = []
    for n in range(2):
        out = work / f"exported-out-{n}"
        run = airflow.trigger(
            "exported",
            {"bundle": str(work / "bundle"), "corpus": str(few), "out": str(out)},
        )
        wait_for(lambda run=run: airflow.state("exported", run) == "success", 400, "an export")
        briefs.append(airflow.xcom("exported", run, "export"))
    engine.run(work / "bundle", few, work / "exported-here", **SETTINGS)
    equal = all(
        hashes(work / f"exported-out-{n}") == hashes(work / "exported-here") for n in range(2)
    )
    first, second = briefs
    there = second == {**first, "seconds": 0.0}
    return {"export": {**first, "path": ""}, "there_the_second_time": there, "equal": equal,
            "holds": equal and there and first["recipe"] == "int8"}  # fmt: skip


def try_mapped_shares(airflow: Airflow, work: Path) -> dict[str, Any]:
    """The example of mapped shares, which checks its output."""
    out = work / "shares"
    many = work / "many"
    corpus.write(many, 2000)
    conf = {"corpus": str(many), "out": str(out)}
    run = airflow.trigger("translate_in_shares", conf)
    wait_for(lambda: airflow.state("translate_in_shares", run) == "success", 300, "shares")
    engine.run(BUNDLE, many, work / "whole", text="text", keep="id", on_error="reject")
    equal = hashes(out) == hashes(work / "whole")
    return {"shares": 4, "equal": equal, "holds": equal and (out / "_SUCCESS").exists()}


def try_parts(airflow: Airflow, work: Path, count: int) -> dict[str, Any]:
    """The size of what is pushed of a run of many parts."""
    folder, out = work / "parts", work / "parts-out"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.jsonl").write_text(json.dumps({"text": "uno", "id": number}) + "\n")
    run = airflow.trigger("translate_corpus", {"corpus": str(folder), "out": str(out)})
    wait_for(lambda: airflow.state("translate_corpus", run) == "success", 3000, "many parts")
    brief = airflow.xcom("translate_corpus", run, TASK)
    size = len(json.dumps(brief))
    return {"parts": brief["splits"], "xcom_bytes": size, "holds": size <= 2048}


def try_parsing(airflow: Airflow) -> dict[str, Any]:
    """Seconds that Airflow takes to parse each example, and what the operators' import adds."""
    code = (
        "import json, sys, time\n"
        "from airflow.sdk import DAG, Asset, BaseOperator, task\n"
        "t = time.process_time(); import engine.integrations.airflow\n"
        "own = time.process_time() - t\n"
        "try:\n    from airflow.dag_processing.dagbag import DagBag\n"
        "except ImportError:  # before 3.2\n    from airflow.models.dagbag import DagBag\n"
        "bag = DagBag(sys.argv[1])\n"
        "print(json.dumps([own, {s.file: s.duration.total_seconds() for s in bag.dagbag_stats},"
        " bag.import_errors]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES)],
        env=airflow.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    own, files, errors = json.loads(done.stdout.splitlines()[-1])
    holds = own <= 0.05 and max(files.values()) <= 1 and not errors
    return {"own_import_cpu_ms": round(own * 1e3, 1), "parse_seconds": files, "errors": errors,
            "holds": holds}  # fmt: skip


def try_listing(airflow: Airflow) -> dict[str, Any]:
    printed = airflow.command("providers", "list", "-o", "json")
    listed = json.loads(printed[printed.index("[{") :])  # older versions log before it
    own = [provider for provider in listed if provider["package_name"] == "corpus-engine"]
    return {"listed": own, "holds": len(own) == 1}


def hashes(out: Path) -> dict[str, str]:
    """The sha256 of each part of an output."""
    files = sorted(p for p in out.rglob("*.arrow") if "_tmp" not in p.parts)
    return {
        f.relative_to(out).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def _running() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _runs(pid: int) -> bool:
    return process_start(pid) is not None


def _stat(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return ["", "0", "0"]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _group(pid: int) -> int:
    return int(_stat(pid)[2])


def prepare(work: Path, rows: int, timeout: float, export_python: str) -> Path:
    """The corpus, an undisturbed run of it, and the folder of the DAGs."""
    corpus.write(work / "corpus", rows)
    start = time.monotonic()
    engine.run(BUNDLE, work / "corpus", work / "undisturbed", **SETTINGS)
    seconds = time.monotonic() - start
    timeout = timeout or SHARE * seconds
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    dags = work / "dags"
    dags.mkdir()
    for example in EXAMPLES.glob("*.py"):
        (dags / example.name).write_text(example.read_text())
    (dags / "endings.py").write_text(
        DAG.format(python=sys.executable, model=str(BUNDLE), settings=SETTINGS, timeout=timeout)
    )
    if export_python:
        checkpoint = str(CHECKPOINT)
        (dags / "exported.py").write_text(
            EXPORT_DAG.format(checkpoint=checkpoint, python=export_python, settings=SETTINGS)
        )
    return dags


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names, or their beginnings")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--long", action="store_true", help="20,000 parts instead of 200")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--timeout", type=float, default=0.0, help="0: by the undisturbed run")
    parser.add_argument("--export-python", default="", help="with the engine's extra export")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the services, too
    results = json.loads(arguments.save.read_text())["cases"] if _there(arguments.save) else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dags = prepare(work, arguments.rows, arguments.timeout, arguments.export_python)
        (work / "home").mkdir()
        with Airflow(work / "home", dags) as airflow:
            tried = cases(airflow, work, 20_000 if arguments.long else 200)
            if _has_lineage():
                tried["lineage"] = lambda: try_lineage(airflow, work)
            if arguments.export_python:
                tried["export"] = lambda: try_export(airflow, work)
            for name, call in tried.items():
                if arguments.only and not name.startswith(tuple(arguments.only)):
                    continue
                results[name] = _result(call)
                print(name, json.dumps(results[name]), flush=True)
                if arguments.save:
                    save(arguments.save, results)
    return int(not all(result["holds"] for result in results.values()))


def save(file: Path, results: dict[str, Any]) -> None:
    versions = {name: version(name) for name in ("apache-airflow", "onnxruntime", "pyarrow")}
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"executor": "LocalExecutor", "versions": versions, "cases": results}
    file.write_text(json.dumps(content, indent=1) + "\n")


def cases(airflow: Airflow, work: Path, parts: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is tried, by name."""
    ways = {
        f"{ending}-{mode}": (
            lambda ending=ending, mode=mode: try_ending(airflow, ending, mode, work)
        )
        for ending in ENDINGS
        for mode in ("here", "outside")
    }
    return {
        "listing": lambda: try_listing(airflow),
        "parsing": lambda: try_parsing(airflow),
        "one-step": lambda: try_one_step(airflow, work),
        "mapped-shares": lambda: try_mapped_shares(airflow, work),
        **ways,
        "parts": lambda: try_parts(airflow, work, parts),
    }


def _has_lineage() -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec("airflow.providers.openlineage") is not None
    return False


def _result(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return call()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "holds": False}


def _there(file: Path | None) -> bool:
    return file is not None and file.exists()


if __name__ == "__main__":
    sys.exit(main())
