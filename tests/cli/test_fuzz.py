"""Command lines as nobody means them: no traceback, a documented exit code, and a hint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from support.command_lines import NAMES, SECRET, Line, World, line, make_world

from engine.cli import commands, interrupt, terminal

pytest.importorskip("onnxruntime")

LINES, GROUP = 500, 50
CODES = (0, 1, 2, 3, 4, 75)
TELLS = ("verify", "demo")
"""Commands that print what they found, and end with 1 where that is bad."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "CORPUS_ENGINE_CACHE": "", "XDG_CACHE_HOME": ""}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def outside(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that is like one of its own: folder, environment, no input, no end of the test."""

    def leave(text: str, code: int = interrupt.STOPPED) -> None:
        terminal.show(*f"error: {text}".split("\n"), err=True)
        raise SystemExit(code)

    monkeypatch.chdir(world.folder)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value or str(world.folder / "cache"))
    monkeypatch.setattr(interrupt, "leave", leave)
    monkeypatch.setattr(interrupt, "_state", {})
    kept = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        yield
    os.dup2(kept, 0)


def check(words: list[str], code: object, out: str, err: str) -> None:
    """What holds for each command line."""
    assert code in CODES, err
    assert "Traceback" not in err
    assert "a bug of the engine" not in err, err
    assert SECRET not in err
    if code in (1, 2) and words[:1] and words[0] not in TELLS:
        assert err.startswith(("error: ", "engine run would end with")) or "\nerror: " in err, err
        assert "hint: " in err.rstrip().splitlines()[-1], err
        assert not out or "--dry-run" in words
        assert SECRET not in out


@pytest.mark.parametrize("first", range(0, LINES, GROUP))
def test_any_command_line_ends_well(
    first: int,
    world: World,
    outside: None,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    for seed in range(first, first + GROUP):
        made = line(seed, world)
        capfdbinary.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["engine", *made.words])
            for name, value in made.environment.items():
                patched.setenv(name, value)
            code = _code(commands.call)
        out, err = (text.decode(errors="replace") for text in capfdbinary.readouterr())
        try:
            check(made.words, code, out, err)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {made}: {error}") from error


def _code(call: Callable[[], int]) -> object:
    try:
        return call()
    except SystemExit as end:
        return end.code


def _process(made: Line, world: World, **more: object) -> subprocess.Popen[bytes]:
    words = [word.encode(errors="surrogateescape") for word in made.words]
    folder = str(world.folder / "cache")
    here = {**os.environ, **{n: v or folder for n, v in OFFLINE.items()}, **made.environment}
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *words],
        cwd=world.folder, env=here, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # type: ignore[call-overload]  # fmt: skip  # keyword arguments of Popen


@pytest.mark.parametrize("seed", range(LINES, LINES + 10))
def test_a_process_of_its_own_ends_as_well(seed: int, world: World) -> None:
    made = line(seed, world)
    process = _process(made, world)
    out, err = (text.decode(errors="replace") for text in process.communicate(timeout=120))
    check(made.words, process.returncode, out, err)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"], ["run", "--help-all"], ["tune", "-h"], ["tasks"], ["tasks", "--json"],
        ["head", "run"], ["inspect", "run"], ["compare", "run", "run"], ["doctor"],
    ],
)  # fmt: skip
def test_a_reader_that_has_gone_is_no_failure(words: list[str], world: World) -> None:
    process = _process(Line(words, {}), world)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(120), err) == (0, "")


@pytest.mark.parametrize("seed", range(8))
def test_an_interrupt_at_any_moment_is_one_line_and_75(seed: int, world: World) -> None:
    luck = random.Random(seed)
    words = ["demo", "-o", f"demo-{seed}", "--rows", "20k"]
    if seed % 2:
        words = [luck.choice([n for n in NAMES if n != "demo"]), "--help"]
    process = _process(Line(words, {}), world)
    time.sleep(luck.uniform(0.0, 0.6 if seed % 2 else 2.0))
    process.send_signal(luck.choice((signal.SIGINT, signal.SIGTERM)))
    err = process.communicate(timeout=60)[1].decode()
    if process.returncode in (0, -signal.SIGINT, -signal.SIGTERM):
        return  # it had ended; or the interpreter was not up to our first line yet
    assert process.returncode == interrupt.STOPPED, err
    assert "Traceback" not in err
    said, hint = err.rstrip().splitlines()[-2:]
    assert said.startswith("error: stopped")
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("verify run", 0), ("verify nothing", 1)])
def test_a_stream_that_is_closed_is_no_failure(
    words: str, code: int, closed: str, world: World
) -> None:
    command = f"{sys.executable} -m engine {words} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=world.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
