"""A whole Airflow for a harness: database, api server, scheduler with LocalExecutor, dag processor.

It is on SQLite, in a folder of its own, and listens on this machine only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

AIRFLOW = Path(sys.executable).with_name("airflow")
SERVICES = ("api-server", "scheduler", "dag-processor")
OPTIONS = {"scheduler": ("--skip-serve-logs",)}


class Airflow:
    """Its services, and its REST API.

    Args:
        home: An empty folder.
        dags: The folder of its DAGs.
    """

    def __init__(self, home: Path, dags: Path) -> None:
        self.home, self.port = home, _free_port()
        self.lineage = home / "lineage.jsonl"
        self._token = ""
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        address = f"http://127.0.0.1:{self.port}"
        self._api = f"{address}/api/v2"
        self._login = f"{address}/auth/token"
        settings = {
            "CORE__DAGS_FOLDER": dags,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": 4,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "API__PORT": self.port,
            "API__HOST": "127.0.0.1",
            "API__WORKERS": 1,
            "API__SECRET_KEY": "a key of this harness, and of nothing else; " * 2,
            "API__ENABLE_XCOM_DESERIALIZE_SUPPORT": True,  # asked for by versions before 3.1
            "API_AUTH__JWT_SECRET": "another key of this harness, for its tokens; " * 2,
            "LOGGING__BASE_LOG_FOLDER": home / "logs",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 20,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 20,
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 5,
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 10,
            "USAGE_DATA_COLLECTION__ENABLED": False,
            "OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(self.lineage), "append": True}
            ),
            "OPENLINEAGE__NAMESPACE": "harness",
        }
        self.env = {
            **os.environ, "AIRFLOW_HOME": str(home),
            "PATH": f"{AIRFLOW.parent}:{os.environ['PATH']}",
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        }  # fmt: skip

    def __enter__(self) -> Airflow:
        self.command("db", "migrate")
        for name in SERVICES:
            self.start(name)
        wait_for(self._answers, 120, "the api server")
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(SERVICES):
            self.stop(name, signal.SIGKILL)

    def command(self, *words: str) -> str:
        """What a command of Airflow prints."""
        done = subprocess.run(
            [AIRFLOW, *words], env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self, name: str) -> None:
        """Start a service, its output in a file of its name."""
        with (self.home / f"{name}.log").open("ab") as log:
            self._services[name] = subprocess.Popen(
                [AIRFLOW, name, *OPTIONS.get(name, ())],
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str, number: int) -> None:
        """Signal all processes of a service but its tasks, whose groups are their own; after
        SIGKILL none is left."""
        service = self._services[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, number)
        if number == signal.SIGKILL:
            service.wait()

    def has_ended(self, name: str) -> bool:
        return self._services[name].poll() is not None

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._request("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._request("PATCH", path, body)

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> str:
        """Start a run of a DAG, once it has been parsed; returns its id."""
        wait_for(lambda: self._knows(dag), 120, f"the DAG {dag}")
        run = self.post(f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": dict(conf)})
        return str(run["dag_run_id"])

    def task(self, dag: str, run: str, task: str) -> dict[str, Any]:
        """What is known of a task of a run."""
        return dict(self.get(f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}"))

    def state(self, dag: str, run: str) -> str:
        return str(self.get(f"/dags/{dag}/dagRuns/{run}")["state"])

    def clear(self, dag: str, run: str, task: str) -> None:
        body = {"dry_run": False, "dag_run_id": run, "task_ids": [task], "only_failed": False}
        self.post(f"/dags/{dag}/clearTaskInstances", {**body, "reset_dag_runs": True})

    def xcom(self, dag: str, run: str, task: str) -> Any:
        place = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self.get(f"{place}?deserialize=true&stringify=false")["value"]

    def log(self, dag: str, run: str) -> str:
        """What the tasks of a run have logged, as Airflow keeps it."""
        files = sorted((self.home / "logs").rglob(f"dag_id={dag}/run_id={run}/**/*.log"))
        return "".join(file.read_text(errors="replace") for file in files)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(self._login) as answer:
                self._token = json.load(answer)["access_token"]
            return True
        return False

    def _knows(self, dag: str) -> bool:
        with contextlib.suppress(urllib.error.HTTPError):
            return bool(self.get(f"/dags/{dag}")["dag_id"])
        return False

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._api + path.replace("+", "%2B"), content, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                error.add_note(error.read().decode(errors="replace")[:1000])
            raise


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until something holds; returns the seconds that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"{what} after {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - start


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
