"""The short form of `faults.stores_writing`."""

from __future__ import annotations

import pytest


def test_nothing_is_lost_in_a_store() -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    import subprocess
    import sys
    from pathlib import Path

    # Its forks want a process without threads, which other tests have started here.
    code = (
        "from faults.stores_writing import measure, wrong\n"
        "figures = measure(dict(changes=6, batches=40, pieces=1, pairs=1, sleeps=1))\n"
        "assert not wrong(figures), figures\n"
        "assert figures['changes']['points'] >= 10, figures\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
