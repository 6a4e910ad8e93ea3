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
        "from faults.stores_writing import GROUPS, measure, wrong\n"
        "sizes = dict(batches=40, pieces=1, pairs=1, sleeps=1, stops=1)\n"
        "figures = measure({name: sizes.get(name, 6) for name in GROUPS})\n"
        "assert not wrong(figures), figures\n"
        "assert figures['overwriting']['points'] >= 3, figures\n"
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
