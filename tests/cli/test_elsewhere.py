"""Runs on a system that has nothing of POSIX, made of this one by `support/elsewhere`: the answers
are the same, and so are a stop, a lock and the processes of a run. It is not Windows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import support

from engine.demo import BUNDLE, corpus

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = Path(support.__path__[0]) / "elsewhere"
WAIT = 60

_HOLD = """
from pathlib import Path
from engine.runner.folder_lock import locked
with locked(Path(OUT), Path(OUT)) as hold:
    print(hold.record.decode().strip(), flush=True)
    input()
"""
_CHAT = """
from engine.bundle.chat_template import ChatTemplate
endless = "{% for _ in range(10**9) %}{% endfor %}"
template = ChatTemplate("{{ messages[0].content }}" + endless * 0, {})
print(template.render([[{"role": "user", "content": "é" * 100_000}]])[0] == "é" * 100_000)
template.close()
"""
_LACKS = """
import os, select
for module in ("fcntl", "resource"):
    try:
        __import__(module)
    except ImportError:
        continue
    raise SystemExit(f"{module} is there")
assert not hasattr(os, "pread") and not hasattr(select, "poll")
import engine
"""


def environment(cache: Path, *, elsewhere: bool) -> dict[str, str]:
    paths = [str(ROOT), *([str(ELSEWHERE)] if elsewhere else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(cache)}


@pytest.fixture
def away(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path / "cache", elsewhere=True)


def start(env: Mapping[str, str], *arguments: object, code: str = "") -> subprocess.Popen[str]:
    what = ["-c", code] if code else ["-m", "engine", *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, *what], env=env, cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == code, err[-2000:]
    assert "Traceback" not in err
    return out, err


def parts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("part-*"))}


def test_nothing_of_posix_is_there(away: Mapping[str, str]) -> None:
    ended(start(away, code=_LACKS))


@pytest.mark.parametrize("command", ["--version", "tasks", "doctor", "run --help"])
def test_commands_start(away: Mapping[str, str], command: str) -> None:
    out, _ = ended(start(away, *command.split()))
    assert out.strip()


def test_the_demo_answers_as_it_does_here(tmp_path: Path, away: Mapping[str, str]) -> None:
    here = environment(tmp_path / "cache", elsewhere=False)
    demos = {
        name: start(env, "demo", "--rows", 100, "-o", tmp_path / name, "--json")
        for name, env in (("here", here), ("away", away))
    }
    reports = {name: json.loads(ended(demo)[0]) for name, demo in demos.items()}
    assert reports["away"]["accuracy"] == reports["here"]["accuracy"] > 0.9
    assert reports["away"]["rejects_right"]
    assert parts(tmp_path / "away/results") == parts(tmp_path / "here/results")
    out, _ = ended(start(away, "verify", tmp_path / "away/results"))
    assert "sound" in out or out.strip()


def test_a_bundle_is_tried_and_windows_are_tokenized_in_processes(
    tmp_path: Path, away: Mapping[str, str]
) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    corpus.write(tmp_path / "corpus", 100)
    outs = [tmp_path / "plain", tmp_path / "pool"]
    for out, tokenizers in zip(outs, (0, 2), strict=True):
        report = run(
            away, tmp_path / "bundle", tmp_path / "corpus", out, "--tokenizers", tokenizers
        )
        assert report["rows_out"] > 90
    assert list((tmp_path / "cache").rglob("tried/*"))
    assert parts(outs[0]) == parts(outs[1])


def test_chats_are_rendered_in_a_process(away: Mapping[str, str]) -> None:
    assert ended(start(away, code=_CHAT))[0] == "True\n"


def test_a_stopped_run_goes_on(tmp_path: Path, away: Mapping[str, str]) -> None:
    corpus.write(tmp_path / "corpus", 700)
    arguments = (BUNDLE, tmp_path / "corpus", "--text", "text", "--on-error", "reject")
    out = tmp_path / "out"
    process = start(away, "run", *arguments, "-o", out, "--window", 50)
    assert until(process, lambda: any(out.glob("_tmp/*")) or any(out.glob("part-*")))
    process.send_signal(signal.SIGINT)
    _, said = ended(process, 75)
    assert "hint: run the same command again" in said
    assert not (out / "_manifest" / ".lock").exists(), "its existence is the lock"
    ended(start(away, "run", *arguments, "-o", out, "--window", 50), 3)
    here = environment(tmp_path / "cache", elsewhere=False)
    ended(start(here, "run", *arguments, "-o", tmp_path / "whole", "--window", 50), 3)
    assert parts(out) == parts(tmp_path / "whole")


def test_a_folder_is_held_by_one_and_taken_from_one_that_has_ended(
    tmp_path: Path, away: Mapping[str, str]
) -> None:
    corpus.write(tmp_path / "corpus", 40)
    out = tmp_path / "out"
    (out / "_manifest").mkdir(parents=True)
    holder = start(away, code=_HOLD.replace("OUT", repr(str(out / "_manifest"))))
    assert holder.stdout
    record = json.loads(holder.stdout.readline())
    assert record["way"] == "file"
    _, said = ended(start(away, "run", BUNDLE, tmp_path / "corpus", "-o", out), 1)
    assert f"another run is writing here (process {holder.pid} on" in said
    holder.kill()
    holder.communicate()
    assert run(away, BUNDLE, tmp_path / "corpus", out)["rows_out"]
    assert not (out / "_manifest/.lock").exists()


def test_shares_write_at_once(tmp_path: Path, away: Mapping[str, str]) -> None:
    corpus.write(tmp_path / "corpus", 60)
    out = tmp_path / "out"
    run_of = ("run", BUNDLE, tmp_path / "corpus", "--text", "text", "--on-error", "reject")
    shares = [start(away, *run_of, "-o", out, "--share", f"{n}/2") for n in (1, 2)]
    for share in shares:
        ended(share, 3)
    assert (out / "_SUCCESS").exists()
    assert not list(out.rglob("*.lock"))
    assert len(parts(out)) == 3


def test_no_process_outlives_a_killed_run(tmp_path: Path, away: Mapping[str, str]) -> None:
    corpus.write(tmp_path / "corpus", 3000)
    process = start(away, "run", BUNDLE, tmp_path / "corpus", "-o", tmp_path / "out",
                    "--on-error", "reject", "--tokenizers", 2)  # fmt: skip
    parent = psutil.Process(process.pid)
    assert until(process, lambda: len(parent.children()) == 2)
    children = parent.children()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=WAIT)
    assert not alive


def run(env: Mapping[str, str], *arguments: object) -> dict[str, Any]:
    bundle, folder, out, *more = arguments
    settings = ("--text", "text", "--on-error", "reject", "--json", "--device", "cpu")
    process = start(env, "run", bundle, folder, "-o", out, *settings, *more)
    report: dict[str, Any] = json.loads(ended(process, 3)[0])
    return report


def until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """Whether something becomes true while a process runs."""
    end = time.monotonic() + WAIT
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
