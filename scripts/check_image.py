"""Do the steps of the Dockerfile in a folder, or in an image where a daemon is; see scripts/build.

    python scripts/check_image.py             the steps in a folder, as a stand-in
    python scripts/check_image.py --image     docker build, and what the image does

In the folder each path of the image is below it, and no user is made. Both end with a run that is
process 1 and gets SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = "corpus-engine-check"
STOPPED = 75
# What a stand-in for the image has in a folder of its own; the rest is the machine's.
_OWN = ("/opt/engine", "/data", "/source")
_ROWS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", action="store_true")
    if not parser.parse_args().image:
        with tempfile.TemporaryDirectory() as folder:
            stand_in(Path(folder))
    elif why := no_daemon():
        print(f"no image was built: {why}")
    else:
        build()


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Name and arguments of each instruction, its lines joined."""
    lines = (line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def stand_in(folder: Path) -> None:
    """The steps, one after the other, below a folder."""
    variables: dict[str, str] = {}
    place, entry = folder, ""
    for name, written in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        rest = re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), written)
        if name == "ARG":
            variable, _, value = rest.partition("=")
            variables[variable] = value
        elif name == "WORKDIR":
            place = below(folder, rest)
            place.mkdir(parents=True, exist_ok=True)
        elif name == "COPY" and not rest.startswith("--from"):
            copy(rest.split(), place)
        elif name == "RUN":
            print(f"+ {rest}")
            script = re.sub("|".join(_OWN), lambda match: str(below(folder, match[0])), rest)
            done = subprocess.run(
                ["sh", "-ec", script],
                check=False, cwd=place, env=tools(folder), capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"error: exit code {done.returncode}\n{done.stderr[-2000:]}")
        elif name == "ENTRYPOINT":
            (entry,) = json.loads(rest)
    engine = below(folder, "/opt/engine/bin") / entry
    corpus = write_corpus(folder / "data/rows.jsonl")
    bundle = demo_bundle([str(engine.with_name("python"))])
    alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    first = alone if subprocess.run([*alone, "true"], check=False).returncode == 0 else ()
    command = [*first, str(engine), "run", bundle, str(corpus), "-o", str(folder / "data/out")]
    stopped(command, folder / "data/out", "in a folder" if first else "in a folder, not process 1")


def below(folder: Path, path: str) -> Path:
    return folder / path.lstrip("/")


def copy(words: Sequence[str], place: Path) -> None:
    """COPY of files and folders of the tree, without what .dockerignore leaves out."""
    *sources, target = words
    for source in sources:
        path = ROOT / source
        if path.is_dir():
            skip = shutil.ignore_patterns("__pycache__", "checkpoint")
            shutil.copytree(path, place / target, ignore=skip)
        else:
            shutil.copy(path, place / target)


def tools(folder: Path) -> Mapping[str, str]:
    """An environment in which `python` is this one, and no user is made."""
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    for name, body in (("python", f'exec {sys.executable} "$@"'), ("useradd", "")):
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": ""}


def write_corpus(file: Path) -> Path:
    """Rows that take longer than anybody waits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(f'{{"text": "veintiuno mil {row}"}}\n' for row in range(_ROWS))
    return file


def demo_bundle(python: Sequence[str]) -> str:
    code = "import engine.demo; print(engine.demo.BUNDLE)"
    done = subprocess.run(
        [*python, "-c", code], cwd="/", check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def stopped(command: Sequence[str], out: Path, where: str) -> None:
    """Start a run, send SIGTERM once it computes, and see that it ends as it should."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/")
    end = time.monotonic() + 120
    while not (out / "_manifest/run.json").exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    # unshare is not process 1 itself, and passes no signal on; docker does.
    for pid in children(process.pid) if command[0] == "unshare" else [process.pid]:
        os.kill(pid, signal.SIGTERM)
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    code = process.returncode
    assert code == STOPPED, f"exit code {code}, not {STOPPED}: {said[-1000:]}"
    print(f"{where}: SIGTERM ended process 1 with {code} after {time.monotonic() - start:.1f} s")


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(number) for number in text.split()]


def no_daemon() -> str:
    """Why no image can be built; "" where it can."""
    if not shutil.which("docker"):
        return "there is no docker"
    done = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    return "" if not done.returncode else "docker finds no daemon"


def build() -> None:
    """Build the image and look at it: its user, its size, a run, a stop."""
    subprocess.run(["docker", "build", "--tag", TAG, ROOT], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        write_corpus(folder / "rows.jsonl")
        base = ["docker", "run", "--rm", "--volume", f"{folder}:/data"]
        user = [*base, "--entrypoint", "id", TAG, "-u"]
        assert subprocess.run(user, check=True, capture_output=True).stdout.strip() != b"0"
        bundle = demo_bundle([*base, "--entrypoint", "python", TAG])
        subprocess.run([*base, TAG, "doctor"], check=True)
        run = [*base, "--name", TAG, TAG, "run", bundle, "rows.jsonl", "-o", "out"]
        stopped(run, folder / "out", "in the image")


if __name__ == "__main__":
    main()
