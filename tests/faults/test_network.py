"""Nobody is called: the short form of `faults.network`, and the switches themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import network

from engine.core import vendor_telemetry

pytest.importorskip("onnxruntime")
ENGINE = network.ROOT / "engine"
# Modules of ONNX Runtime that are imported for themselves, once it is there.
PARTS = ("onnxruntime.capi", "onnxruntime.transformers")


def test_a_run_an_export_and_a_bench_call_nobody(tmp_path: Path) -> None:
    commands = network.commands(tmp_path, recipe="fp32")
    names = ["run", "bench", "doctor"]
    if all(map(_is_installed, ("torch", "transformers", "optimum", "onnx"))):
        names.insert(0, "export")
    seconds = network.BEGINS_SECONDS + 2.0
    with ThreadPoolExecutor(len(names)) as pool:
        points = pool.map(lambda n: network.trace(n, commands[n], tmp_path, seconds), names)
        for point in points:
            assert point.rc in (0, 3), point.output
            assert point.calls == (), point.name
            assert point.home == (), point.name


def test_what_finds_no_report_finds_one_that_is_asked_for(tmp_path: Path) -> None:
    point = network.trace("asked", ["doctor"], tmp_path, 0, {vendor_telemetry.ASKED_FOR: "1"})
    assert "telemetry: on (CORPUS_ENGINE_TELEMETRY=1)" in point.output
    if not point.home:
        pytest.skip("this onnxruntime reports nothing")
    assert any(".onnxruntime" in file for file in point.home)


def test_the_watch_without_strace_hears_sockets_and_an_early_import(tmp_path: Path) -> None:
    code = (
        "import os, socket, sys; from faults.network import watch; watch(sys.argv[1]);"
        "socket.socketpair(); socket.socket(socket.AF_INET);"
        "os.environ['ORT_DISABLE_TELEMETRY'] = '0'; import onnxruntime"
    )
    log = tmp_path / "log"
    env = network._environment(tmp_path)
    subprocess.run([sys.executable, "-c", code, str(log)], check=True, env=env)
    heard = [line.split()[0] for line in log.read_text().splitlines()]
    assert heard == ["socket.__new__", "import"]


def test_the_lines_of_a_trace_that_are_calls() -> None:
    lines = [
        "12 socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = 3",
        '12 openat(AT_FDCWD, "/etc/resolv.conf", O_RDONLY|O_CLOEXEC) = 3',
        "12 socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = 3",
        "12 connect(3, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 0",
        '12 openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3',
    ]
    assert network.calls_of(lines) == lines[1:4]


@pytest.mark.parametrize(
    ("variables", "switches", "state"),
    [
        ({}, ["1", "1", "1"], "off (ORT_DISABLE_TELEMETRY=1, "),
        ({"CORPUS_ENGINE_TELEMETRY": "1"}, ["", "", ""], "on (CORPUS_ENGINE_TELEMETRY=1)"),
        ({"CORPUS_ENGINE_TELEMETRY": "0"}, ["1", "1", "1"], "off (ORT_DISABLE_TELEMETRY=1, "),
        ({"ORT_DISABLE_TELEMETRY": "0"}, ["0", "1", "1"], "on (ORT_DISABLE_TELEMETRY=0)"),
        # ONNX Runtime itself takes these two for a no.
        ({"ORT_DISABLE_TELEMETRY": ""}, ["1", "1", "1"], "off (ORT_DISABLE_TELEMETRY=1, "),
        ({"ORT_DISABLE_TELEMETRY": "2"}, ["1", "1", "1"], "off (ORT_DISABLE_TELEMETRY=1, "),
        ({"DO_NOT_TRACK": "0"}, ["1", "1", "0"], "off (ORT_DISABLE_TELEMETRY=1, "),
    ],
)
def test_reports_are_off_unless_the_person_asks(
    variables: dict[str, str], switches: list[str], state: str, tmp_path: Path
) -> None:
    code = (
        "import engine, os; from engine.core import vendor_telemetry as v;"
        "print([os.environ.get(n, '') for n in v.SWITCHES]); print(v.state())"
    )
    env = network._environment(tmp_path) | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == str(switches)
    assert second.startswith(state)


def test_an_onnxruntime_that_was_there_before_is_told_of(tmp_path: Path) -> None:
    code = (
        "import sys, types; sys.modules['onnxruntime'] = types.ModuleType('onnxruntime');"
        "import engine; from engine.core import vendor_telemetry as v; print(v.state())"
    )
    env = network._environment(tmp_path)
    for switch, state in (({}, "on (onnxruntime was imported before"), (_OFF, "off (")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=env | switch, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert done.stdout.startswith(state)


_OFF = {"ORT_DISABLE_TELEMETRY": "1"}


def test_a_report_tells_of_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import engine
    from engine.demo import BUNDLE

    (tmp_path / "a.jsonl").write_text('{"text": "uno"}\n')
    monkeypatch.setattr(vendor_telemetry, "_imported_before", ["onnxruntime"])
    report = engine.run(BUNDLE, tmp_path / "a.jsonl", tmp_path / "out")
    assert any("import engine first" in note for note in report.notes)
    monkeypatch.setattr(vendor_telemetry, "_imported_before", [])
    report = engine.run(BUNDLE, tmp_path / "a.jsonl", tmp_path / "out")
    assert not any("import engine first" in note for note in report.notes)


def test_the_runtime_is_told_by_its_own_switch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    from engine.runtime import device

    told: list[str] = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: told.append("off"))
    device.runtime.__wrapped__()
    monkeypatch.setenv(vendor_telemetry.ASKED_FOR, "1")
    device.runtime.__wrapped__()
    assert told == ["off"]


def test_the_runtime_is_imported_in_one_place() -> None:
    places = set()
    for file in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            if any(n.split(".")[0] == "onnxruntime" and not n.startswith(PARTS) for n in names):
                places.add(file.relative_to(ENGINE).as_posix())
    assert places == {"runtime/device.py"}


def _is_installed(name: str) -> bool:
    if name in sys.modules and sys.modules[name] is None:
        return False  # --fast
    try:
        __import__(name)
    except ImportError:
        return False
    return True
