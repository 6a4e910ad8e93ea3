"""Whether a secret gets out: the text of a row, of the environment, of a web address.

    PYTHONPATH=tests python -m faults.canaries --save FILE.json [--points NAME ...]

Each point is one command of the engine, over a corpus whose rows hold `ROW`, in an environment
whose tokens and keys are `ENVIRONMENT`, and some with an address that holds `ADDRESS`. What it
prints and every file it leaves (names, too) is searched for all three: manifests, reports, bad
rows, journals, caches; and the traceback of its error, as a caller in Python would see it. Allowed
are answers and kept columns in the parts, which is what they are for, the payload of a journal, and
bad rows where --reject-text asks for them.

A child of this process runs each command: what all of them import is imported once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.canary_corpora import ADDRESS, ENVIRONMENT, ROW, SECRETS
from faults.canary_points import Point, points

TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """What came of a point.

    Attributes:
        leaks: Where a secret was found: a stream or a file, and which.
    """

    name: str
    rc: int
    leaks: tuple[str, ...]
    out: str
    err: str
    rc_expected: bool


def run_point(point: Point, folder: Path) -> Outcome:
    """Run a point in a child of this process, in a folder of its own, and search what it left."""
    from engine.demo import BUNDLE

    places = {"{in}": folder / "in", "{out}": folder / "out", "{bundle}": BUNDLE}
    (folder / "in").mkdir(parents=True)
    for name, content in point.files.items():
        (folder / "in" / name).write_bytes(content)
    given = _files(folder)
    arguments = [_filled(text, places) for text in point.arguments]
    child = os.fork()
    if not child:
        _become(point, arguments, folder)
    rc = _ended(child)
    out, err = ((folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    to_pipe = "-o" in arguments and arguments[arguments.index("-o") + 1] == "-"
    streams = {"stderr": err} | ({} if to_pipe else {"stdout": out})
    leaks = [*_leaks_of_streams(streams), *_leaks_of_files(folder, given, point)]
    return Outcome(point.name, rc, tuple(leaks), out, err, rc in point.rc)


def _filled(text: str, places: Mapping[str, Path]) -> str:
    for name, path in places.items():
        text = text.replace(name, str(path))
    return text


def _become(point: Point, arguments: Sequence[str], folder: Path) -> None:
    """The child: the command and no more."""
    from engine.errors import EngineError

    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
        (folder / "home").mkdir()
        os.chdir(folder)
        os.environ.update(point.env, HOME=str(folder / "home"), TMPDIR=str(folder / "home"))
        tempfile.tempdir = None
        sys.argv = ["engine", *arguments]
        _print_chains()
        point.before()
        from engine.cli import main

        if point.call:
            point.call(folder)
            sys.exit(0)
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # a traceback is printed
        traceback.print_exc()
        code = 1 if isinstance(error, EngineError) else 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _print_chains() -> None:
    """Print an error as a caller in Python sees it that does not catch it: with the exceptions of
    libraries behind it. Of a bug, which nobody translates, there is only what the engine says."""
    from engine.cli import commands
    from engine.errors import EngineError

    print_error = commands._print_error

    def print_chain(text: str) -> None:
        if isinstance(sys.exception(), EngineError):
            traceback.print_exc()
        print_error(text)

    commands._print_error = print_chain


def _ended(child: int) -> int:
    """Its exit code, or minus the signal; it is killed where it does not end."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -99


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _secrets_in(content: bytes) -> list[str]:
    plain = content.lower().replace(b"\0", b"")  # UTF-16, too
    return [s for s in (ROW, ENVIRONMENT, ADDRESS, "7731773177") if s.encode() in plain]


def _leaks_of_streams(streams: Mapping[str, str]) -> Iterator[str]:
    for name, text in streams.items():
        yield from (f"{name}: {secret}" for secret in _secrets_in(text.encode()))


def _leaks_of_files(folder: Path, given: set[Path], point: Point) -> Iterator[str]:
    for path in sorted(_files(folder) - given):
        name = path.relative_to(folder).as_posix()
        if name in ("stdout", "stderr"):
            continue
        yield from (f"name of {name}: {secret}" for secret in _secrets_in(name.encode()))
        below = re.sub(r"^(out|\.out\.jsonl\.run)/", "", name)
        if name == "out.jsonl" or (below != name and below.startswith(point.allowed)):
            continue
        yield from (f"{name}: {secret}" for secret in _secrets_in(path.read_bytes()))


def outcomes(names: Sequence[str] | None, folder: Path) -> Iterator[Outcome]:
    """The outcomes of some points, or of all."""
    os.environ.update(SECRETS)
    _import_all()
    for number, point in enumerate(points(folder)):
        if names is None or point.name in names:
            yield run_point(point, folder / str(number))
            shutil.rmtree(folder / str(number), ignore_errors=True)


def _import_all() -> None:
    """Import what every command does, so that its child need not."""
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401

    import engine.cli.commands
    import engine.export.cache
    import engine.runner.coordinator  # noqa: F401


def main() -> None:
    """Run the points, print those that leak, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--points", nargs="*")
    parser.add_argument("--show", action="store_true", help="Print what each command said.")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-canaries-") as scratch:
        for outcome in outcomes(given.points, Path(scratch)):
            unlike = "" if outcome.rc_expected else f"  (exit code {outcome.rc})"
            if given.show or outcome.leaks or unlike:
                print(f"{outcome.name}{unlike}: {', '.join(outcome.leaks) or '-'}", flush=True)
            if given.show or unlike:
                print(outcome.out[-1500:], outcome.err[-1500:])
            rows.append({"name": outcome.name, "rc": outcome.rc, "leaks": list(outcome.leaks)})
    wrong = [row["name"] for row in rows if bool(row["leaks"]) != (row["name"] == "control")]
    print(f"{len(rows)} points, {len(wrong)} leak (but for the control, which has to)")
    if given.save:
        sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        from machine import describe

        given.save.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": describe(), "count": len(rows), "leaking": wrong, "points": rows}
        given.save.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
