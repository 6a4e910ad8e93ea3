"""`airflow dags test DAG --conf JSON`, for an environment without Airflow: runs a file's `step`."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support import fake_airflow


def rendered(template: str, params: dict[str, str]) -> str:
    """A template's text, as far as it asks for parameters."""
    return re.sub(r"\{\{ params\.(\w+) \}\}", lambda found: params[found[1]], template)


def run(dag: str, params: dict[str, str]) -> Any:
    """Execute the step of a DAG; what it returns."""
    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / f"{dag}.py"
    with fake_airflow.installed():
        step = runpy.run_path(str(file))["step"]
        for name in ("model", "inputs", "out"):
            setattr(step, name, rendered(getattr(step, name), params))
        events = {outlet: fake_airflow.OutletEvent() for outlet in step.outlets}
        return step.execute(
            {"ti": SimpleNamespace(xcom_push=lambda **pushed: None), "outlet_events": events}
        )


if __name__ == "__main__":
    command, dag, flag, conf = sys.argv[1:3], sys.argv[3], sys.argv[4], sys.argv[5]
    assert (command, flag) == (["dags", "test"], "--conf")
    run(dag, json.loads(conf))
